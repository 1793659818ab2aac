"""The model card of a version: how good it is, its use and limits, and the data that it learned from.

People describe use and limits in `tasks/applications/<model>/card.md`. The card is no part of a version's key: a better
card of the same model and evidence makes no new version.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm.files import read_text
from tasks.registry.dataset_card import DATASET_CARD, data_sources, learned_from
from tasks.registry.main_figures import main_figures, own_figures
from tasks.registry.markup import render_markdown
from tasks.stages.hashes import Hashes, locked
from tasks.stages.names import PUBLISHED, evaluation_stage, training_stage

CARD = "card/card.md"
"""Among the artifacts of a version's run."""
TEMPLATE = Path(__file__).with_name("card.md.j2")
MAIN_FIGURES = re.compile(r"^## Main figures\n+(?:- .*\n?)*\n*", re.MULTILINE)  # the table of figures has them


@dataclass(frozen=True)
class CardSource:
    """What card and description are written from, besides the files of the project."""

    model: str
    name: str
    """Its name in the registry."""
    metrics: Mapping[str, float]
    training: Hashes
    """The hashes of its training in dvc.lock."""
    facts: Mapping[str, str]
    """The facts of the version's record."""


def made_by(model: str, training: Hashes) -> str:
    """Describe in Markdown how a model was trained, measured and started."""
    base = next((path for path in training.deps if path.startswith("models/")), None)
    trained = f"{model.capitalize()}, trained by `{training_stage(model)}`"
    stages = f"{trained} and measured on the test split by `{evaluation_stage(model)}`."
    if base is None:
        return stages
    start = f"{stages} It started from `{base}` (`{training.deps[base]}`)"
    if base != f"models/{PUBLISHED}":
        return f"{start}."
    weights = locked("load_published").params[PUBLISHED]
    return f"{start}, the weights `{weights}`."


def _prose(model: str) -> str:
    path = Path("tasks/applications", model, "card.md")
    if not path.exists():
        return f"## Use\n\nNobody has written it down yet, in `{path}`."
    return MAIN_FIGURES.sub("", read_text(path)).strip()


def model_card(source: CardSource) -> str:
    """The card in Markdown. The same files of the project give the same bytes."""
    meanings = main_figures(source.model)
    data = learned_from(source.training)
    licences = [entry.licence for entry in data_sources(Path(data).name) if entry.licence]
    return render_markdown(
        TEMPLATE,
        name=source.name,
        made_by=made_by(source.model, source.training),
        figures=sorted(own_figures(source.metrics), key=lambda figure: figure.name not in meanings),
        meanings=meanings,
        prose=_prose(source.model),
        data=data,
        data_hash=source.training.deps.get(data),
        licences=list(dict.fromkeys(licences)),
        dataset_card=DATASET_CARD,
    )
