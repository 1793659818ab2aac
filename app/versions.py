"""Versions in memory: the defaults of models, and those that somebody named, loaded once and shared by all requests.

A thread of the server asks the registry for aliases every few seconds (`refresh`). Requests find what is loaded by the
last answer and never wait for MLflow; what is not loaded yet is loaded in a thread of its own.
"""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiktoken
from mlflow.exceptions import MlflowException

from app.async_engine import AsyncEngine, check_room
from app.cleaning import Cleaner
from app.errors import Busy, NotFound, RequestError, Unavailable
from app.registry import RegisteredVersion, Registry, VersionName, find, models_with
from app.settings import Settings
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import CHAT, CLASSIFY, GUARD, load_for_inference
from tasks.registry.versions import CHALLENGER, CHAMPION, registered_name

PRELOADED = (CHAT, CLASSIFY, GUARD)
"""The default versions of models with these capabilities are loaded before the first request."""
KEPT = 5
"""Versions that stay loaded; for one more, the one that was asked least recently goes. Defaults always stay, and one
more besides them. As many others may still finish what they began."""
ENDING = "the server is ending"

logger = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class LoadedVersion:
    """A version in memory. Its engine ends once nobody refers to it any more: neither the cache nor a request."""

    name: VersionName
    model: Any
    """The module that the version's objective makes."""
    encoding: tiktoken.Encoding
    folder: Path
    fetched: TemporaryDirectory[str]
    """Its files, if they came from a server."""
    dataset: str | None
    """The dataset that it was trained on, whose inbox accepts feedback on its answers."""
    card: str | None
    """Its model card in Markdown."""
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


class Versions:
    """The cache. What may block, on the registry or on loading, says so."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry()
        self.registered: list[RegisteredVersion] = []
        """All versions of the registry as of its last answer."""
        self._was_read = False
        self._preloaded = [capability for capability in PRELOADED if settings.guard or capability != GUARD]
        self._loaded: dict[VersionName, LoadedVersion] = {}
        self._in_memory: weakref.WeakSet[LoadedVersion] = weakref.WeakSet()
        self._answering: dict[str, VersionName] = {}
        """The version that last answered by each name."""
        self._defaults: set[VersionName] = set()
        self._failed: dict[VersionName | None, tuple[float, Unavailable]] = {}
        """When a version, or for None the registry, could not be read, and why."""
        self._cleaner = Cleaner()
        self._lock = threading.Lock()  # of what is loaded and which version answers; nobody waits while holding it
        self._loading = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "loader")
        self._ending = threading.Event()

    @property
    def loaded(self) -> list[LoadedVersion]:
        """The versions in memory."""
        with self._lock:
            return list(self._loaded.values())

    def defaults(self) -> dict[str, str | None]:
        """Each preloaded model that has a default version, with the version that answers by its name and the alias of
        that version, or with None until it is loaded."""
        aliases = {version.name: version.aliases for version in self.registered}
        with_default = {version.name.model for version in self.registered if version.is_default}
        defaults: dict[str, str | None] = {}
        for model in models_with(self.registered, *self._preloaded):
            if model not in with_default:
                continue
            with self._lock:
                name = self._answering.get(model)
                is_loaded = name in self._loaded
            defaults[model] = None
            if name and is_loaded:
                alias = [alias for alias in (CHAMPION, CHALLENGER) if alias in aliases.get(name, ())]
                defaults[model] = ", ".join([str(name), *alias[:1]])
        return defaults

    def is_unapproved(self, name: VersionName) -> bool:
        """Whether a version answers by its model's name although its model never had a champion."""
        return any(
            version.is_default and CHAMPION not in version.aliases
            for version in self.registered
            if version.name == name
        )

    def if_loaded(self, name: str | None, capability: str) -> LoadedVersion | None:
        """The version that a name means, if it is loaded. Raises as `find`.

        If an alias has moved to a version that is not loaded, the one before goes on: `refresh` loads the new one.
        """
        if not self._was_read:
            return None
        version = find(self.registered, name, capability).name
        name = name or version.model
        with self._lock:
            loaded = self._loaded.get(version) or self._loaded.get(self._answering.get(name, version))
            if loaded:  # under the lock, so that it is not let go in between
                self._answering[name] = loaded.name
                loaded.asked = time.monotonic()
        return loaded

    async def wait_for(self, name: str | None, capability: str) -> LoadedVersion:
        """Like `get`, without a thread if the version is loaded. Also raises Unavailable if it takes longer than a
        request may."""
        if loaded := self.if_loaded(name, capability):
            return loaded
        loading = asyncio.get_running_loop().run_in_executor(self._loader, self.get, name, capability)
        try:
            async with asyncio.timeout(self.settings.request_seconds):
                return await loading
        except TimeoutError:
            raise Unavailable(f"{name or 'the model'} is still being loaded", "model") from None

    def get(self, name: str | None, capability: str) -> LoadedVersion:
        """The version that a name means. It blocks until it is loaded, and reads the registry if nobody has.

        Raises as `find`, Unavailable if it can't be loaded, and Busy if too many others still finish what they began.
        """
        if not self._was_read:
            self._check_failed(None)
            self.read()
        if loaded := self.if_loaded(name, capability):
            return loaded
        version = find(self.registered, name, capability).name
        loaded = self._load(version, is_default=False)
        with self._lock:
            self._answering[name or version.model] = version
        return loaded

    def read(self) -> list[RegisteredVersion]:
        """Ask the registry. It blocks; raises Unavailable if the registry does not answer."""
        try:
            self.registered = self.registry.read()
        except Unavailable as error:
            self._failed[None] = time.monotonic(), error
            raise
        self._was_read = True
        return self.registered

    def _check_failed(self, name: VersionName | None) -> None:
        """Raise the error of the last try, if that was just now."""
        failed_at, failure = self._failed.get(name, (0.0, None))
        if failure and time.monotonic() - failed_at < self.settings.poll_seconds:
            raise Unavailable(str(failure), failure.param)

    def refresh(self) -> None:
        """Load the preloaded models' default versions, and the version to which the alias of a loaded one has moved;
        let go what is gone from the registry. It blocks.

        If one can't be loaded, the one before goes on. Raises Unavailable when the rest is done: for what can't be
        loaded, and for a model without a default version.
        """
        registered = self.read()
        models = models_with(registered, *self._preloaded)
        failures: dict[str, None] = {}
        defaults = set()
        with self._lock:
            self._answering = {name: version for name, version in self._answering.items() if version in self._loaded}
            names = dict.fromkeys([*models, *self._answering])
        for name in names:
            try:
                version = find(registered, name).name
                self._load(version, is_default=name in models)
            except NotFound as error:
                if name in models:
                    failures[str(error)] = None
                continue
            except RequestError as error:
                before = self._answering.get(name)
                failures[f"{error}; {before} goes on" if before else str(error)] = None
                version = before
            if version:
                with self._lock:
                    self._answering[name] = version
                if name in models:
                    defaults.add(version)
        self._defaults = defaults
        self._let_go(room=0)
        if failures:
            raise Unavailable("; ".join(failures))

    def _load(self, name: VersionName, *, is_default: bool) -> LoadedVersion:
        """A version in memory; while it is loaded, others answer. A failure is not tried again for `poll_seconds`."""
        with self._loading:
            if loaded := self._loaded.get(name):
                return loaded
            if self._ending.is_set():
                raise Unavailable(ENDING)
            self._check_failed(name)
            if not is_default:
                self._make_room()
            try:
                loaded = self._read_version(name)
            except Unavailable as error:
                self._failed[name] = time.monotonic(), error
                raise
            self._failed.pop(name, None)
            with self._lock:
                if not self._ending.is_set():
                    self._loaded[name] = loaded
                    self._in_memory.add(loaded)
                    state = "; nobody has approved it" if self.is_unapproved(name) else ""
                    logger.info("%s is loaded%s", loaded.registered_name, state)
                    return loaded
            _end(loaded, 0)  # the server began to end meanwhile
            raise Unavailable(ENDING)

    def _read_version(self, name: VersionName) -> LoadedVersion:
        settings = self.settings
        fetched = TemporaryDirectory(prefix="threestage-version-")
        try:
            dataset = self.registry.dataset(name)
            card = self.registry.card(name)
            folder = self.registry.files(name, Path(fetched.name))
            model, encoding = load_for_inference(folder)
            engine = None
            if isinstance(model, GPT):
                engine = AsyncEngine(
                    model,
                    rows=settings.rows,
                    queue=settings.queue,
                    context_length=settings.context_length,
                )
        except Exception as error:  # of any kind: other versions are loaded, and the one before goes on
            fetched.cleanup()
            reason = " ".join(str(error).split())
            if not isinstance(error, UserError | MlflowException | OSError):  # a bug, or no memory
                reason = f"{type(error).__name__}: {reason}"
                if name not in self._failed:
                    logger.exception("%s can't be loaded", name)
            raise Unavailable(f"{name} can't be loaded: {reason}", "model") from error
        loaded = LoadedVersion(
            name=name,
            model=model,
            encoding=encoding,
            folder=folder,
            fetched=fetched,
            dataset=dataset,
            card=card,
            engine=engine,
            cleaner=self._cleaner,
        )
        weakref.finalize(loaded, _end_in_thread, name, engine, fetched).atexit = False
        return loaded

    def _make_room(self) -> None:
        """Let one go for a new one if as many as may be are loaded. Raises Busy if too many are in use besides."""
        self._let_go(room=1)
        if len(self._in_memory) >= 2 * KEPT:
            gc.collect()  # an error may have left a circle of references
        if len(self._in_memory) >= 2 * KEPT:
            raise Busy(f"{len(self._in_memory)} versions are in use already; ask again, or ask one of them", 10)

    def _let_go(self, room: int) -> None:
        """Let go what is gone from the registry, and what was asked least recently if that leaves no `room`."""
        registered = {version.name for version in self.registered}
        with self._lock:
            besides = [loaded for loaded in self._loaded.values() if loaded.name not in self._defaults]
            besides.sort(key=lambda loaded: -loaded.asked)
            most = max(1, KEPT - len(self._defaults)) - room
            for number, loaded in enumerate(besides):
                if number >= most or loaded.name not in registered:
                    del self._loaded[loaded.name]

    def close(self, patience: float) -> None:
        """Load nothing more, and let each version finish what it began, within `patience` seconds."""
        deadline = time.monotonic() + patience
        with self._lock:
            self._ending.set()
            in_memory = list(self._in_memory)
        threads = [threading.Thread(target=_end, args=(loaded, patience)) for loaded in in_memory]
        for thread in threads:
            thread.start()
        if self._loading.acquire(timeout=max(0.0, deadline - time.monotonic())):  # what is being loaded ends there
            self._loading.release()
        for thread in threads:
            thread.join()
        self._cleaner.close(max(0.0, deadline - time.monotonic()))


def _end(loaded: LoadedVersion, patience: float) -> None:
    """End a version that requests may still use."""
    deadline = time.monotonic() + patience
    if loaded.engine:
        loaded.engine.close(patience)
    while loaded.classifying and time.monotonic() < deadline:
        time.sleep(0.1)
    loaded.fetched.cleanup()


def _end_in_thread(name: VersionName, engine: AsyncEngine | None, fetched: TemporaryDirectory[str]) -> None:
    """End the engine of a version to which nobody refers any more, and remove its files."""

    def end() -> None:
        if engine:
            engine.close()
        fetched.cleanup()
        logger.info("%s is unloaded", name)

    threading.Thread(target=end, daemon=True).start()
