"""A version in memory: its model, and what its requests share."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiktoken

from app.async_engine import AsyncEngine, check_room
from app.cleaning import Cleaner
from app.names import VersionName
from tasks.registry.versions import registered_name


@dataclass(eq=False, kw_only=True)
class LoadedVersion:
    """A version in memory."""

    name: VersionName
    model: Any
    """The module that the version's objective makes."""
    encoding: tiktoken.Encoding
    folder: Path
    fetched: TemporaryDirectory[str]
    """Its files, if they came from a server."""
    dataset: str | None
    """The dataset that it was trained on, whose inbox accepts feedback on its answers."""
    engine: AsyncEngine | None
    """The engine of a model that writes text."""
    cleaner: Cleaner
    """Reads the mails to classify."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request whose mails are read now; the next one waits for it without a thread."""
    classifying: int = 0
    """Requests whose mails are read or classified, or that wait for it."""
    asked: float = field(default_factory=time.monotonic)

    @property
    def registered_name(self) -> str:
        """The name in the registry, with the version."""
        return f"{registered_name(self.name.model)}/{self.name.version}"

    @contextmanager
    def classified_by(self, most: int) -> Generator[None]:
        """While mails of a request are read, or wait for their `turn`. Raises Busy if `most` requests do already."""
        check_room(self.classifying, 1, room=most, seconds=0)
        self.classifying += 1
        try:
            yield
        finally:
            self.classifying -= 1
