"""What programs see of a model: the columns of its rows and answers, its options, and what it can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

CHAT = "chat"
"""Needs a GPT with a template as its `chat`."""
COMPLETE = "complete"
"""Needs a GPT."""
CLASSIFY = "classify"
"""Needs a `Classifier`."""
GUARD = "guard"
"""Needs a `Classifier` with replies."""

Columns = Mapping[str, type | UnionType]
"""Names of columns with their types; a column of type `T | None` may be missing."""


@dataclass(frozen=True)
class Interface:
    """How a model is asked, and how it answers."""

    inputs: Columns
    """The columns of a row that it answers."""
    outputs: Columns
    """The columns of its answer."""
    example: Mapping[str, str]
    """A row to try it with."""
    capabilities: tuple[str, ...]
    """What the app can offer with it, the main one first: CHAT, COMPLETE, CLASSIFY or GUARD."""
    options: Mapping[str, tuple[type, Any]] = field(default_factory=dict)
    """The options of an answer, each with its type and default."""
