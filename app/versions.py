"""Registered versions in memory: loaded on request, and replaced when their alias moves.

A version that is let go finishes what it began.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import tiktoken
from mlflow.exceptions import MlflowException
from torch import nn

from app.async_engine import AsyncEngine, check_room
from app.cleaning import Cleaner
from app.errors import NotFound, Unavailable
from app.registry import Registry, VersionName, models_with, pick
from app.settings import Settings
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import CHAT, CLASSIFY, GUARD, load_for_inference
from tasks.registry.versions import CHALLENGER, CHAMPION, registered_name

PRELOADED = (CHAT, CLASSIFY, GUARD)
"""The default versions of models with these capabilities are loaded before the first request."""
DATASET = "data/processed/"
KEPT = 5
"""Versions that stay loaded; one more lets go the one that was asked least recently. Defaults always stay, and one
more besides them."""
GRACE = 10.0
"""Seconds in which a version that is let go still accepts texts, of requests that got it before."""
ENDING = "the server is ending"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedVersion:
    """A version in memory."""

    name: VersionName
    model: nn.Module
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
    client_share: float = 1.0
    """The share of one client network in the requests that may wait for the classifier."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request whose mails are read now; the next one waits for it without a thread."""
    classifying: list[str | None] = field(default_factory=list)
    """The client networks of all requests whose mails are read or classified, or that wait for it."""
    asked: float = field(default_factory=time.monotonic)

    @property
    def registered_name(self) -> str:
        """The name in the registry, with the version."""
        return f"{registered_name(self.name.model)}/{self.name.version}"

    @contextmanager
    def classified_by(self, most: int, network: str | None = None) -> Iterator[None]:
        """While mails of a request are read, or wait for their `turn`.

        Raises Busy if `most` requests do already, or the network's share of them.
        """
        check_room(self.classifying, 1, most, max(1, int(self.client_share * most)), network, seconds=0)
        self.classifying.append(network)
        try:
            yield
        finally:
            self.classifying.remove(network)


class Versions:
    """The versions of a registry. All of it may block, on the registry or on loading: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry()
        self._preloaded = [ability for ability in PRELOADED if settings.guard or ability != GUARD]
        self._loaded: dict[VersionName, LoadedVersion] = {}
        self._answered: dict[str, VersionName] = {}
        self._defaults: set[VersionName] = set()
        self._failed: dict[VersionName, tuple[float, Unavailable]] = {}
        self._leaving: set[LoadedVersion] = set()
        self._cleaner = Cleaner()
        self._lock = threading.Lock()  # of what is loaded or leaving, and of which version answered
        self._loading = threading.Lock()
        self._ending = threading.Event()

    def defaults(self) -> dict[str, str | None]:
        """Each preloaded model that has a default version, with the version that answers by its name and the alias of
        that version, or with None until it is loaded; as of the last reading of the registry."""
        known = self.registry.known
        with_default = {version.name.model for version in known if version.is_default}
        defaults: dict[str, str | None] = {}
        for model in models_with(known, *self._preloaded):
            if model not in with_default:
                continue
            with self._lock:
                named = self._answered.get(model)
                is_loaded = named in self._loaded
            aliases = next((version.aliases for version in known if version.name == named), ())
            alias = next((alias for alias in (CHAMPION, CHALLENGER) if alias in aliases), None)
            defaults[model] = ", ".join(filter(None, (str(named), alias))) if is_loaded else None
        return defaults

    def is_unapproved(self, named: VersionName) -> bool:
        """Whether a version answers by its model's name although its model never had a champion."""
        listed = next((version for version in self.registry.known if version.name == named), None)
        return listed is not None and listed.is_default and CHAMPION not in listed.aliases

    def at_hand(self, name: str | None, capability: str) -> LoadedVersion | None:
        """The version that a name means, if it is loaded. Raises as `Registry.find`.

        If an alias has moved to a version that is not loaded, the one before goes on: `refresh` loads the new one.
        """
        named = self.registry.find(name, capability)
        name = name or named.model
        with self._lock:
            loaded = self._loaded.get(named) or self._loaded.get(self._answered.get(name))
            if loaded:  # under the lock, so that it is not let go in between
                self._answered[name], loaded.asked = loaded.name, time.monotonic()
        return loaded

    def get(self, name: str | None, capability: str) -> LoadedVersion:
        """The same, loaded if need be. Raises Unavailable, too, if it can't be loaded."""
        if loaded := self.at_hand(name, capability):
            return loaded
        named = self.registry.find(name, capability)
        loaded = self.load(named)
        with self._lock:
            self._answered[name or named.model], loaded.asked = named, time.monotonic()
        self._make_room()
        return loaded

    def load(self, named: VersionName) -> LoadedVersion:
        """A version in memory; while it is loaded, others answer.

        Raises Unavailable if it can't be loaded; that is tried again after `poll_seconds`.
        """
        if loaded := self._loaded.get(named):
            return loaded
        with self._loading:
            if loaded := self._loaded.get(named):
                return loaded
            if self._ending.is_set():
                raise Unavailable(ENDING)
            tried, before = self._failed.get(named, (-math.inf, None))
            if before and time.monotonic() - tried < self.settings.poll_seconds:
                raise Unavailable(str(before), before.param)
            try:
                loaded = self._load(named)
            except Unavailable as error:
                self._failed[named] = time.monotonic(), error
                raise
            self._failed.pop(named, None)
            with self._lock:
                if not self._ending.is_set():
                    self._loaded[named] = loaded
                    state = "; nobody has approved it" if self.is_unapproved(named) else ""
                    logger.info("%s is loaded%s", loaded.registered_name, state)
                    return loaded
            self._end(loaded, 0)  # the server began to end meanwhile
            raise Unavailable(ENDING)

    def _load(self, named: VersionName) -> LoadedVersion:
        settings, engine = self.settings, None
        fetched = TemporaryDirectory(prefix="threestage-version-")
        try:
            record = self.registry.record(named)
            folder = self.registry.files(named, Path(fetched.name))
            model, encoding = load_for_inference(folder)
            if isinstance(model, GPT):
                shape = {"rows": settings.rows, "queue": settings.queue, "context_length": settings.context_length}
                engine = AsyncEngine(model, **shape, share=settings.client_share)
        except Exception as error:  # of any kind: other versions are loaded, and the one before goes on
            fetched.cleanup()
            reason = " ".join(str(error).split())
            if not isinstance(error, UserError | MlflowException | OSError):  # a bug, or no memory
                reason = f"{type(error).__name__}: {reason}"
                if named not in self._failed:
                    logger.exception("%s can't be loaded", named)
            raise Unavailable(f"{named} can't be loaded: {reason}", "model") from error
        deps = record.hashes.deps if record else {}
        dataset = next((path.removeprefix(DATASET) for path in deps if path.startswith(DATASET)), None)
        return LoadedVersion(
            name=named,
            model=model,
            encoding=encoding,
            folder=folder,
            fetched=fetched,
            dataset=dataset,
            engine=engine,
            cleaner=self._cleaner,
            client_share=settings.client_share,
        )

    def refresh(self) -> None:
        """Load the preloaded models' default versions, and the version to which the alias of a loaded one has moved;
        let go what is gone from the registry, or was not asked for recently.

        If one can't be loaded, the one before goes on. Raises Unavailable when the rest is done: for what can't be
        loaded, and for a model without a default version.
        """
        listed, failed, defaults = self.registry.read(), [], set()
        models = models_with(listed, *self._preloaded)
        with self._lock:
            self._answered = {name: named for name, named in self._answered.items() if named in self._loaded}
            names = dict.fromkeys([*models, *self._answered])
        for name in names:
            try:
                named = pick(name, listed).name
                self.load(named)
            except NotFound as error:
                if name in models:
                    failed.append(str(error))
                continue
            except Unavailable as error:
                named = self._answered.get(name)
                failed.append(f"{error}; {named} goes on" if named else str(error))
            if named:
                with self._lock:
                    self._answered[name] = named
                if name in models:
                    defaults.add(named)
        self._defaults = defaults
        self._make_room()
        if failed:
            raise Unavailable("; ".join(dict.fromkeys(failed)))

    def _make_room(self) -> None:
        """Let go what is gone from the registry, and what was asked least recently if there is more than KEPT."""
        with self._lock:
            known = {each.name for each in self.registry.known}
            others = [each for each in self._loaded.values() if each.name not in self._defaults]
            others.sort(key=lambda each: -each.asked)
            room = max(1, KEPT - len(self._defaults))
            gone = [each for place, each in enumerate(others) if place >= room or each.name not in known]
            for each in gone:
                del self._loaded[each.name]
            self._leaving.update(gone)
        for each in gone:
            threading.Thread(target=self._let_go, args=(each,), daemon=True).start()

    def _let_go(self, loaded: LoadedVersion) -> None:
        self._ending.wait(GRACE)
        self._end(loaded, self.settings.request_seconds)

    def _end(self, loaded: LoadedVersion, patience: float) -> None:
        if loaded.engine:
            loaded.engine.close(patience)
        deadline = time.monotonic() + patience
        while loaded.classifying and time.monotonic() < deadline:  # its folder says how they are cleaned
            time.sleep(0.1)
        loaded.fetched.cleanup()
        with self._lock:
            self._leaving.discard(loaded)
        logger.info("%s is unloaded", loaded.registered_name)

    @property
    def loaded(self) -> list[LoadedVersion]:
        """The versions in memory."""
        with self._lock:
            return list(self._loaded.values())

    def close(self, patience: float) -> None:
        """Load nothing more, and let each version finish what it began, within `patience` seconds."""
        deadline = time.monotonic() + patience
        with self._lock:
            self._ending.set()
            here = [*self._loaded.values(), *self._leaving]
        threads = [threading.Thread(target=self._end, args=(each, patience)) for each in here]
        for thread in threads:
            thread.start()
        if self._loading.acquire(timeout=max(0.0, deadline - time.monotonic())):  # what is being loaded ends there
            self._loading.release()
        for thread in threads:
            thread.join()
        self._cleaner.close(max(0.0, deadline - time.monotonic()))


class Loader:
    """Versions for requests, loaded in a thread of its own: the threads that answer are few, and loading takes long."""

    def __init__(self, versions: Versions) -> None:
        self._versions, self._thread = versions, ThreadPoolExecutor(1, "loader")

    async def get(self, name: str | None, capability: str) -> LoadedVersion:
        """Like `Versions.get`. Also raises Unavailable if it takes longer than a request may."""
        if loaded := await asyncio.to_thread(self._versions.at_hand, name, capability):
            return loaded
        loading = asyncio.get_running_loop().run_in_executor(self._thread, self._versions.get, name, capability)
        try:
            async with asyncio.timeout(self._versions.settings.request_seconds):
                return await loading
        except TimeoutError:
            raise Unavailable(f"{name or 'the model'} is still being loaded", "model") from None
