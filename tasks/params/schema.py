"""The JSON schema of params.yaml, with which editors complete keys, explain them and mark mistakes.

`python -m tasks.params.schema` writes params.schema.json anew, after a change of a class or of the names of blocks.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema

from llm.config import Replay
from llm.files import write_atomic
from tasks.params.blocks import ApplicationBlock, DatasetBlock, Gates, ModelBlock, Smoke
from tasks.params.slices import find_dataset, find_evaluation, find_training
from tasks.stages.names import FOUNDATION, PARAMS_FILE, PUBLISHED, REPLAY, SMOKE
from tasks.stages.yaml_text import read_yaml

SCHEMA_FILE = Path("params.schema.json")
CLOSED = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Untitled(GenerateJsonSchema):
    """Titles would repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def params_schema(values: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a params.yaml with the blocks of `values`: these names alone, with the classes of their slices."""
    datasets: dict[str, Any] = {}
    for name in values["datasets"]:
        block = create_model(f"{name}_dataset", __base__=DatasetBlock, preprocess=(find_dataset(name).Params, ...))
        datasets[name] = (block, ...)
    applications: dict[str, Any] = {
        name: (_model_block(name, ApplicationBlock), ...) for name in values["applications"]
    }
    replays: dict[str, Any] = dict.fromkeys(values[REPLAY], (Replay, ...))
    sections: dict[str, Any] = {
        PUBLISHED: (str, Field(description="Weights that a fine-tune with `base: published` starts from.")),
        REPLAY: (create_model("replays", __config__=CLOSED, **replays), ...),
        "datasets": (create_model("datasets", __config__=CLOSED, **datasets), ...),
        FOUNDATION: (_model_block(FOUNDATION, ModelBlock), ...),
        "applications": (create_model("applications", __config__=CLOSED, **applications), ...),
        SMOKE: (Smoke | None, None),
    }
    schema = create_model("params.yaml", __config__=CLOSED, **sections).model_json_schema(schema_generator=Untitled)
    return {"$schema": Untitled.schema_dialect, **schema}


def _model_block(name: str, base: type[ModelBlock]) -> type[BaseModel]:
    sections: dict[str, Any] = {
        "train": (find_training(name).train, ...),
        "evaluate": (find_evaluation(name).params, ...),
        "review": (Gates, Gates()),
    }
    return create_model(f"{name}_model", __base__=base, **sections)


def schema_text(values: Mapping[str, Any]) -> str:
    """The content of params.schema.json."""
    return json.dumps(params_schema(values), indent=1) + "\n"


def may_be_wrong(path: Path = PARAMS_FILE) -> bool:
    """Whether params.yaml differs from params.schema.json, within a quarter of a second: the classes take two seconds.

    They decide, as the schema may be older than they are.
    """
    from jsonschema import Draft202012Validator

    if not SCHEMA_FILE.exists():
        return False
    validator = Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    return not validator.is_valid(read_yaml(path))


if __name__ == "__main__":
    write_atomic(SCHEMA_FILE, schema_text(read_yaml(PARAMS_FILE)))
