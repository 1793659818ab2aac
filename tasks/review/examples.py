"""Rows of a comparison as people read them: what flipped, slice by slice, and the worst errors, with their text."""

from tasks.registry.markup import plain
from tasks.review.comparison import Comparison, Row
from tasks.review.metrics import Difference, judged

FLIPS, SLICES = 12, 30
TEXT, ANSWER = 500, 300  # characters of a row and of an answer
ARROWS = {"better": "▲ better", "worse": "▼ **worse**", "no difference": "≈ not told apart", "not known": ""}


def number(value: float | None) -> str:
    """Four digits behind the point, or as many as a small one needs."""
    if value is None:
        return ""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2g}"


def signed(found: Difference | None) -> str:
    """A difference with its sign, and its interval where there is one."""
    if found is None:
        return ""
    if found.is_none:
        return "the same"
    ends = "" if found.low is None or found.high is None else f" ({found.low:+.4f} to {found.high:+.4f})"
    return f"{found.value:+.4f}{ends}"


def _row(row: Row) -> list[str]:
    lines = [f"**{plain(row.id)}**", "", f"> {plain(row.text, TEXT) or '(empty)'}", ""]
    if row.expected:
        lines += [f"- expected: {plain(row.expected, ANSWER)}"]
    lines += [f"- challenger: {plain(row.challenger, ANSWER)}"]
    if row.champion is not None:
        lines += [f"- champion: {plain(row.champion, ANSWER)}"]
    return [*lines, ""]


def flips(comparison: Comparison) -> list[str]:
    """The rows that the challenger lost and won."""
    if not comparison.champion or comparison.incomparable:
        return []
    lines = [
        "## What flipped",
        "",
        f"Of {comparison.rows} {comparison.unit} it lost {len(comparison.lost)} and won {len(comparison.won)}.",
    ]
    for title, rows in (("Lost: the champion had them better", comparison.lost), ("Won", comparison.won)):
        if rows:
            more = f" (the first {FLIPS} of {len(rows)})" if len(rows) > FLIPS else ""
            lines += ["", f"### {title}{more}", ""]
            lines += [line for row in rows[:FLIPS] for line in _row(row)]
    return lines


def slices(comparison: Comparison) -> list[str]:
    """Every slice that differs, or without a champion those where the challenger is worst."""
    if not comparison.slices:
        return []
    sign = -1 if comparison.low_scores_are_good else 1
    both = comparison.champion is not None and not comparison.incomparable
    if both:
        order = sorted(comparison.slices, key=lambda each: sign * each.difference.value * each.rows)
    else:
        order = sorted(comparison.slices, key=lambda each: sign * each.challenger)
    same = [each for each in order if both and each.difference.value == 0]
    shown = [each for each in order if not both or each.difference.value != 0]
    columns = ["by", "slice", "rows", "challenger", *(["champion", "difference (95 %)", ""] if both else [])]
    lines = [f"| {' | '.join(columns)} |", "|---|---|---:|---:|" + ("---:|---|---|" if both else "")]
    for each in shown if both else shown[:SLICES]:
        cells = [plain(each.by), plain(each.name), str(each.rows), number(each.challenger)]
        if both:
            found = each.difference
            sure = judged(found, less=comparison.low_scores_are_good)
            cells += [number(each.champion), signed(found), "" if sure == "no difference" else ARROWS[sure]]
        lines.append(f"| {' | '.join(cells)} |")
    said = f"The mean score by slice{', what was lost most first' if both else ', the worst first'}."
    if both:
        said += " A small slice says little: an arrow stands where the interval leaves out zero."
    if len(shown) > SLICES and not both:
        said += f" The first {SLICES} of {len(shown)}."
    end = ["", f"The same in both: {', '.join(f'{plain(s.by)} {plain(s.name)}' for s in same)}."] if same else []
    return ["## Slices", "", said, "", *(lines if shown else ["No slice differs."]), *end]


def errors(comparison: Comparison) -> list[str]:
    """What the challenger got wrong, and what the champion said to it."""
    if not comparison.errors:
        return []
    title = "Where it is worst" if comparison.low_scores_are_good else "The worst errors of the challenger"
    return [f"## {title}", "", *(line for row in comparison.errors for line in _row(row))]
