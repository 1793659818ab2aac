"""The blocks of params.yaml as frozen, validated classes.

A dataset's `preprocess` section is the class `Params` of tasks/data/<name>.py; the `train` and `evaluate` sections
of a model are those of tasks/applications/<name>. Everything else has one form for all.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model

from llm.config import Config
from llm.errors import UserError
from tasks.data.sources import Source
from tasks.params.mistakes import validated
from tasks.params.slices import find_dataset, find_evaluation, find_training
from tasks.stages.names import FOUNDATION, model_key

Part = Literal["train", "evaluate"]


class Bounds(Config):
    """Bounds on metrics of an evaluation, by name."""

    at_least: dict[str, float] = Field(default_factory=dict)
    """Least values."""
    at_most: dict[str, float] = Field(default_factory=dict)
    """Greatest values."""


class Gates(Bounds):
    """The gates that a challenger must pass.

    Gates on answers and lineage are always checked, too. Data that failed its checks never reaches a model.
    """

    no_loss: tuple[str, ...] = ()
    """Metrics in which the challenger must not be significantly worse than the champion, nor than the baseline: it is
    if the whole 95 % interval of the difference, paired by test row, is on the worse side."""
    ahead: tuple[str, ...] = ()
    """Metrics in which it must be significantly better than the baseline."""
    drift: Annotated[float, Field(gt=0)] | None = 0.25
    """The largest distance of the training data from the champion's in any property, as a population stability index:
    above 0.25 is conventionally large. Null turns this gate off."""


class Smoke(Config):
    """The parameters and bounds of a smoke run; no stage reads them."""

    raw: tuple[str, ...] = ()
    """Globs of the files below `data/raw/` that it reads. A dataset without a glob is read whole."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Values that replace those of params.yaml, in existing blocks."""
    bounds: dict[str, Bounds] = Field(min_length=1)
    """By model; other models are not trained."""


class TrainOnly(Config):
    """The globs of sources in a `preprocess` section; its other keys are not checked."""

    model_config = ConfigDict(extra="allow")

    train_only: tuple[str, ...] = ()
    """See `Split` in tasks/data/splits.py."""


class DatasetOutline(Config):
    """What can be checked of a dataset's block without loading the dataset; other keys are not checked."""

    model_config = ConfigDict(extra="allow")

    sources: list[Source] = Field(default_factory=list, min_length=1)
    """The files that it is made from."""
    preprocess: TrainOnly = TrainOnly()
    """How they become rows."""


class DatasetBlock(Config):
    """The block of a dataset."""

    sources: list[Source] = Field(min_length=1)
    """The files that it is made from."""
    preprocess: Any
    """How they become rows: the class `params` of the dataset."""


class ModelBlock(Config):
    """The block of the foundation."""

    dataset: str
    """The dataset that it learns."""
    objective: str
    """The objective in its train.py, for DVC."""
    train: Any
    """How it is trained: the class `train` of its train.py, or values that are not checked."""
    evaluate: Any
    """How it is measured: the class `params` of its measure.py, or values that are not checked."""
    review: Gates = Gates()
    """When a version may become champion; no stage reads it."""


class ApplicationBlock(ModelBlock):
    """The block of an application."""

    base: str
    """The model that it starts from."""
    rehearses: Path
    """The base's own answers that it also learns."""


def parse_dataset(name: str, values: Any, path: Path) -> DatasetBlock:
    """A dataset's block. Raises UserError, a line for each mistake."""
    key = f"datasets.{name}"
    try:
        dataset = find_dataset(name)
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    block = create_model(name, __base__=DatasetBlock, preprocess=(dataset.Params, ...))
    return validated(block, values, key=key, file=path)


def parse_model(name: str, values: Any, path: Path, *, parts: tuple[Part, ...] = ("train", "evaluate")) -> ModelBlock:
    """The block of the foundation or an application. Raises UserError, a line for each mistake.

    A section that is not among `parts` is not checked, as that would import the libraries of its stage.
    """
    key = model_key(name)
    sections: dict[str, Any] = {}
    try:
        training = find_training(name)
        if "train" in parts:
            sections["train"] = (training.train, ...)
        if "evaluate" in parts:
            sections["evaluate"] = (find_evaluation(name).params, ...)
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    block = create_model(name, __base__=ModelBlock if name == FOUNDATION else ApplicationBlock, **sections)
    parsed = validated(block, values, key=key, file=path)
    if parsed.objective != training.objective:
        file = f"tasks/applications/{name}/train.py"
        raise UserError(f"{path}: {key}.objective: {file} has {training.objective}, not {parsed.objective!r}")
    return parsed
