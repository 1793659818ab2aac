"""What the assistant's block says about its dataset."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llm.errors import UserError
from tasks.data.sources import Source, check_globs
from tasks.stages.names import inner

FOREIGN = {"labels": "mails with labels", "tokenizer": "text without questions"}
"""Keys under `preprocess` of datasets that hold no instructions, and what they hold."""


def check(block: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """See `Check` in tasks/applications/__init__.py."""
    name = block["dataset"]
    dataset = inner(values, "datasets", name)
    preprocess = inner(dataset, "preprocess") or {}
    for key, content in FOREIGN.items():
        if key in preprocess:
            yield "dataset", f"{name} holds {content}, and an assistant learns instructions with answers"
            return
    try:
        sources = TypeAdapter(list[Source]).validate_python(inner(dataset, "sources") or [])
        check_globs(sources, inner(block, "train", "twice") or [])
    except ValidationError:  # reported with the dataset
        return
    except UserError as error:
        yield "train.twice", str(error)
