"""Some answers and errors of an evaluation, for a version's description."""

import re
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from llm.files import read_text
from tasks.registry.markup import first_entries, plain

EXAMPLES = 3
LONGEST = 400  # characters of an answer or an error
JUDGED = {"kind", "instruction", "input", "answer", "output", "contains"}
"""The columns of answers.csv where an evaluation judged its answers."""


def examples(evidence: Path) -> dict[str, list[Markup]]:
    """Answers and errors from the folder of an evaluation, one line of Markdown each; no lines where it kept none."""
    path = evidence / "answers.csv"
    if path.exists():
        rows = pd.read_csv(path, keep_default_na=False)
        if set(rows.columns) >= JUDGED:
            contains = rows["contains"].astype(str)
            return {"Answers": _answers(rows[contains == "True"]), "Errors": _answers(rows[contains == "False"])}
    return {"Answers": _entries(evidence / "samples.md"), "Errors": _entries(evidence / "errors.md")}


def _entries(path: Path) -> list[Markup]:
    """The first entries of a Markdown file, one line each."""
    if not path.exists():
        return []
    text, _ = first_entries(read_text(path), EXAMPLES)
    entries = re.split(r"\n{2,}(?=\*\*)" if "**" in text else r"\n{2,}", text)
    return [_entry(entry) for entry in entries]


def _entry(entry: str) -> Markup:
    short = re.sub(r"^\*\*[^*\n]*/", "", entry)  # of a path in bold, its last part
    return Markup(_one_line(re.sub(r"^> ?|[*]{2}", "", short, flags=re.MULTILINE)))


def _answers(rows: pd.DataFrame) -> list[Markup]:
    """An answer of each kind, with what was expected instead."""
    lines = []
    for row in rows.drop_duplicates("kind").head(EXAMPLES).itertuples():
        question = f"{row.instruction} {row.input}".strip()
        expected = "" if row.answer == row.output else f" (expected: {_one_line(row.output)})"
        lines.append(Markup(f"{_one_line(question)} → **{_one_line(row.answer or 'nothing')}**{expected}"))
    return lines


def _one_line(text: str) -> str:
    """Text of other people on one line, without markup and links."""
    return plain(text, LONGEST).replace("://", ": //").replace("www.", "www .")
