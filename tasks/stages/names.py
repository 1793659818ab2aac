"""Names that params.yaml gives, and the stages, files and folders that belong to them. It reads plain values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.errors import UserError
from tasks.stages.yaml_text import read_yaml

PARAMS_FILE = Path("params.yaml")
FOUNDATION = "foundation"
PUBLISHED = "published"
REPLAY = "replay"
NOTHING_TO_REHEARSE = Path("data/replay/nothing.jsonl")
GATES_ON_METRICS = ("at_least", "at_most", "no_loss", "ahead")
"""Keys under `review` that name metrics."""


def inner(values: Any, *keys: str) -> Any:
    """The value under nested keys; None if one is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def named_blocks(values: Mapping[str, Any], section: str, path: Path) -> dict[str, Any]:
    """The blocks of a section, by name. Raises UserError if there is no such section."""
    blocks = values.get(section)
    if blocks is None:
        raise UserError(f"{path}: {section}: missing")
    if not isinstance(blocks, dict):
        raise UserError(f"{path}: {section}: {blocks!r} is no mapping of names")
    return blocks


def dataset_names(path: Path = PARAMS_FILE) -> list[str]:
    """The datasets, in the order of params.yaml."""
    return list(named_blocks(read_yaml(path), "datasets", path))


def replay_names(path: Path = PARAMS_FILE) -> list[str]:
    """The replays, in the order of params.yaml."""
    return list(named_blocks(read_yaml(path), REPLAY, path))


def application_names(path: Path = PARAMS_FILE) -> list[str]:
    """The applications that are fine-tuned, in the order of params.yaml."""
    return list(named_blocks(read_yaml(path), "applications", path))


def model_names(path: Path = PARAMS_FILE) -> list[str]:
    """Every model that is evaluated and registered: the foundation, then the applications."""
    return [FOUNDATION, *application_names(path)]


def model_key(model: str) -> str:
    """The key of a model's block in params.yaml."""
    return model if model == FOUNDATION else f"applications.{model}"


def training_stage(model: str) -> str:
    """The DVC stage that trains a model."""
    return "pretrain" if model == FOUNDATION else f"finetune@{model}"


def evaluation_stage(model: str) -> str:
    """The DVC stage that measures a model."""
    return "evaluate_foundation" if model == FOUNDATION else f"evaluate@{model}"


def training_report(model: str) -> Path:
    """The folder of a model's training report."""
    return Path("reports/training") / ("pretrain" if model == FOUNDATION else model)


def replay_file(name: str) -> Path:
    """The answers that a replay makes, an out of its stage."""
    return Path("data/replay") / f"{name}.jsonl"
