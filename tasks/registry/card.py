"""The model card of a version: how good it is, its use and limits, and the data that it learned from.

People describe use, limits and main figures in `tasks/applications/<model>/card.md`. The card is no part of a version's
key: a better card of the same model and evidence makes no new version.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from llm.errors import UserError
from llm.files import read_text
from tasks.registry.main_figures import MAIN_FIGURES, main_figures, own_figures
from tasks.registry.markup import plain, render_markdown
from tasks.registry.versions import CHAMPION
from tasks.stages.hashes import Hashes, locked
from tasks.stages.names import PUBLISHED, evaluation_stage, training_stage

CARD = "card.md"
"""Among the artifacts of a version's run."""
TEMPLATE = Path(__file__).with_name("card.md.j2")
PROCESSED = "data/processed/"
FIGURES = 5
"""Of the description, of which a database may keep 5,000 characters."""


def model_card(model: str, hashes: Hashes, metrics: Mapping[str, float]) -> str:
    """The card in Markdown, of a training and evaluation with these hashes. The same files give the same bytes."""
    meanings = main_figures(model)
    prose = Path("tasks/applications", model, "card.md")
    use = f"## Use\n\nNobody has written it down yet, in `{prose}`."
    return render_markdown(
        TEMPLATE,
        title=model.capitalize(),
        made_by=made_by(model, hashes),
        figures=sorted(own_figures(metrics), key=lambda figure: figure.name not in meanings),
        meanings=meanings,
        prose=MAIN_FIGURES.sub("", read_text(prose)).strip() if prose.exists() else use,
        datasets=[_dataset(path, md5) for path, md5 in hashes.deps.items() if path.startswith(PROCESSED)],
    )


def made_by(model: str, hashes: Hashes) -> str:
    """Describe in Markdown how a model was trained, measured and started."""
    stages = f"Trained by `{training_stage(model)}`, measured on the test split by `{evaluation_stage(model)}`."
    for path, md5 in hashes.deps.items():
        if path == f"models/{PUBLISHED}":
            weights = locked("load_published").params[PUBLISHED]
            return f"{stages} It started from `{path}` (`{md5}`), the weights `{weights}`."
        if path.startswith("models/") and path != f"models/{model}":
            return f"{stages} It started from `{path}` (`{md5}`)."
    return stages


def _dataset(path: str, md5: str) -> dict[str, Any]:
    """What the card says of a processed dataset: its sources, and what `preprocess` counted."""
    name = path.removeprefix(PROCESSED)
    try:
        entries: list[Any] = locked(f"fetch@{name}").params.get(f"datasets.{name}.sources", [])
    except UserError:  # the data was pulled, not fetched
        entries = []
    summary = Path("reports/quality", name, "summary.json")
    numbers = json.loads(summary.read_text()) if summary.exists() else {}
    return {
        "path": path,
        "md5": md5,
        "sources": [_as_mapping(entry) for entry in entries],
        "dropped": numbers.pop("dropped", {}),
        "numbers": {name: _whole(value) for name, value in numbers.items()},
    }


def _whole(value: float) -> float | int:
    """A count as an int."""
    return int(value) if float(value).is_integer() else value


def _as_mapping(source: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"source": source} if isinstance(source, str) else source


def description(model: str, metrics: Mapping[str, float], run: Run, *, uncommitted: str) -> str:
    """The description of a new version, which a reviewer opens first: how to decide, its main figures, and links."""
    meanings = main_figures(model)
    figures = {figure.name: figure for figure in own_figures(metrics)}
    lines = [
        f"**To make this version champion, move the alias `{CHAMPION}` to it**, or run `threestage approve {model}`.",
        "",
    ]
    for name in [name for name in meanings or figures if name in figures][:FIGURES]:
        figure = figures[name]
        interval = f" ({figure.interval})" if figure.interval else ""
        baseline = "" if figure.baseline is None else f", the baseline {figure.baseline:.3f}"
        lines.append(f"- {figure.title}: {figure.value:.3f}{interval}{baseline}")
    artifacts = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts"
    lines += ["", f"[model card]({artifacts}/{CARD}), [evidence]({artifacts}/evaluation)"]
    if uncommitted:
        lines += ["", f"**Made with files that no commit holds: {plain(uncommitted)}**"]
    return "\n".join(lines) + "\n"
