"""The description of a version: the page that a reviewer opens first in MLflow.

It names the tag that decides, five figures with their meaning, answers and errors to look at, and links to the rest.
The figures and their meanings are the list under `## Main figures` in `tasks/applications/<model>/card.md`.
"""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup
from mlflow.entities import Run

from llm.files import read_text
from tasks.registry.card import CardSource, made_by
from tasks.registry.dataset_card import DATASET_CARD
from tasks.registry.main_figures import main_figures, own_figures
from tasks.registry.markup import cut, entries_markdown, first_entries, render_markdown
from tasks.registry.record import NONE
from tasks.stages.hashes import PREFIX

TEMPLATE = Path(__file__).with_name("description.md.j2")
FIGURES, EXAMPLES = 5, 3
LONGEST = 200  # characters of a line; a database may keep 5000 of the description


def description(source: CardSource, run: Run, runs: Mapping[str, Run | None]) -> str:
    """The description of the version whose own run is `run`; `runs` holds the runs of its training and evaluation."""
    meanings = main_figures(source.model)
    figures = {figure.name: figure for figure in own_figures(source.metrics)}
    names = [name for name in meanings or figures if name in figures]
    evidence = Path("reports/evaluation", source.model, "evidence")
    commit = source.facts["git.commit"]
    links = {
        "review": _address(run, "artifacts/review/review.html"),
        "model card": _address(run, "artifacts/card/card.md"),
        "dataset card": _address(run, f"artifacts/{DATASET_CARD}"),
        "lineage": _address(run, "artifacts/lineage/lineage.txt"),
        "evidence": _address(run, "artifacts/evaluation"),
    }
    for what, stage_run in runs.items():
        if stage_run:
            links[f"{what} run"] = _address(stage_run)
    return render_markdown(
        TEMPLATE,
        tag_state=f"{PREFIX}.state",
        tag_why=f"{PREFIX}.why",
        made_by=made_by(source.model, source.training),
        figures=[figures[name] for name in names[:FIGURES]],
        meanings=meanings,
        answers=_examples(evidence / "samples.md"),
        errors=_examples(evidence / "errors.md"),
        links=links,
        commit="" if commit == NONE else commit,
        uncommitted=source.facts["uncommitted"],
    )


def _examples(path: Path) -> Markup:
    """The first entries of samples.md or errors.md, without links; nothing if the evaluation kept none."""
    if not path.exists():
        return Markup()
    text = first_entries(read_text(path), EXAMPLES)
    lines = [cut(line, LONGEST) for line in text.replace("://", ": //").replace("www.", "www .").split("\n")]
    return entries_markdown("\n".join(lines))


def _address(run: Run, path: str = "") -> str:
    """The address of a run in MLflow's pages, without host and port."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" + (f"/{path}" if path else "")
