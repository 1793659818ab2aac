"""The description of a version: the page that a reviewer opens first in MLflow.

It names the tag that decides, five figures with their meaning, answers and errors to look at, and links to the rest.
The figures and their meanings are the list under `## Main figures` in `tasks/applications/<model>/card.md`.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import pandas as pd
from mlflow.entities import Run

from llm.files import read_text
from tasks.registry.main_figures import compared, main_figures
from tasks.registry.markup import first_entries, number, plain, table
from tasks.registry.record import NONE, Record
from tasks.stages.hashes import PREFIX
from tasks.stages.names import evaluation_stage, training_stage

FIGURES, EXAMPLES = 5, 3
LONGEST = 400  # characters of an answer or an error


def description(
    model: str, metrics: Mapping[str, float], record: Record, run: Run, runs: Mapping[str, Run | None]
) -> str:
    """The description of the version whose own run is `run`; `runs` holds the runs of its training and evaluation."""
    base = next((path for path in record.hashes.deps if path.startswith("models/") and path != f"models/{model}"), None)
    made = f"{model.capitalize()}, trained by `{training_stage(model)}`" + (f" from `{base}`" if base else "")
    commit, uncommitted = record.facts["git.commit"], record.facts["uncommitted"]
    code = "**no git commit**" if commit == NONE else f"git commit `{commit[:12]}`"
    if uncommitted:
        code += f"; **{plain(uncommitted, 2000)}**".replace("-\\>", "->")
    links = {
        "review": _page(run, "artifacts/review/review.html"),
        "model card": _page(run, "artifacts/card/card.html"),
        "lineage": _page(run, "artifacts/lineage/lineage.md"),
        "evidence": _page(run, "artifacts/evaluation"),
        **{f"{what} run": _page(each) for what, each in runs.items() if each},
    }
    return "\n".join(
        [
            f"**To decide, set the tag `{PREFIX}.state` of this version to `approved` or `rejected`** and say why in "
            f"`{PREFIX}.why`. The next review or retraining carries it out. The review shows how it compares with "
            "the champion, or with the baseline where there is none.",
            "",
            f"{made}; measured on the test split by `{evaluation_stage(model)}`.",
            "",
            *_figures(model, metrics),
            *_examples(Path("reports/evaluation", model, "evidence")),
            "",
            ", ".join(f"[{name}]({page})" for name, page in links.items()),
            "",
            f"Made from {code}.",
        ]
    )


def _page(run: Run, path: str = "") -> str:
    """The address of a run in MLflow's pages, without host and port."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" + (f"/{path}" if path else "")


def _figures(model: str, metrics: Mapping[str, float]) -> list[str]:
    meanings = main_figures(model)
    figures = {each.name: each for each in compared(metrics)}
    rows = []
    for name in islice(filter(figures.__contains__, meanings or figures), FIGURES):
        _, value, interval, baseline = figures[name]
        shown = f"{number(value)}" + (f" ({interval})" if interval else "")
        rows.append((name, shown, number(baseline), meanings.get(name, "")))
    return table(("figure", "this version (95 % interval)", "baseline", "meaning"), rows, right=(1, 2))


def _examples(evidence: Path) -> Iterator[str]:
    """Some answers and errors, if the evaluation kept any."""
    answers, errors = _entries(evidence / "samples.md"), _entries(evidence / "errors.md")
    if (path := evidence / "answers.csv").exists():
        rows = pd.read_csv(path, keep_default_na=False)
        if {"instruction", "input", "answer", "output", "contains"} <= set(rows.columns):
            judged = rows[rows["contains"].astype(str).isin(("True", "False"))]
            right = judged["contains"].astype(str) == "True"
            answers, errors = (_answers(judged[which].drop_duplicates("kind")) for which in (right, ~right))
    for title, items in (("Answers", answers), ("Errors", errors)):
        if items:
            yield from ("", f"**{title}**", "", *items)


def _entries(path: Path) -> list[str]:
    """The first entries of a Markdown file, one list item each."""
    if not path.exists():
        return []
    text, _ = first_entries(read_text(path), EXAMPLES)
    entries = re.split(r"\n{2,}(?=\*\*)" if "**" in text else r"\n{2,}", text)
    entries = [re.sub(r"^\*\*[^*\n]*/", "**", entry) for entry in entries]  # the last part of a path
    return [f"- {_text(re.sub(r'^> ?|[*]{2}', '', entry, flags=re.MULTILINE))}" for entry in entries]


def _answers(rows: pd.DataFrame) -> list[str]:
    """Rows of an evaluation's answers, one list item each."""
    return [
        f"- {_text(f'{row.instruction} {row.input}'.strip())} → **{_text(row.answer or 'nothing')}**"
        + ("" if row.answer == row.output else f" (expected: {_text(row.output)})")
        for row in rows.head(EXAMPLES).itertuples()
    ]


def _text(text: str) -> str:
    """Text of other people on one line, without markup and links."""
    return plain(text, LONGEST).replace("://", ": //").replace("www.", "www .")
