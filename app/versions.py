"""Registered versions in memory: loaded on request, and replaced when their alias moves.

A version that is let go finishes what it began.
"""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.exceptions import MlflowException

from app.async_engine import AsyncEngine
from app.cleaning import Cleaner
from app.errors import NotFound, Unavailable
from app.loaded_version import LoadedVersion
from app.names import VersionName, models_with, resolve
from app.registry import Registry, parse_name
from app.settings import Settings
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import CHAT, CLASSIFY, GUARD, load_for_inference
from tasks.registry.versions import CHALLENGER, CHAMPION

PRELOADED = (CHAT, CLASSIFY, GUARD)
"""The default versions of models with these capabilities are loaded before the first request."""
KEPT = 5
"""Versions that stay loaded; one more lets go the one that was asked least recently. Defaults always stay, and one
more besides them."""
GRACE = 10.0
"""Seconds in which a version that is let go still accepts texts, of requests that got it before."""
ENDING = "the server is ending"

logger = logging.getLogger(__name__)


class Versions:
    """The versions of a registry. All of it may block, on the registry or on loading: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry()
        self._preloaded = [capability for capability in PRELOADED if settings.guard or capability != GUARD]
        self._loaded: dict[VersionName, LoadedVersion] = {}
        self._answered: dict[str, VersionName] = {}
        """The version that last answered by each name."""
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
        registered = self.registry.cached
        with_default = {version.name.model for version in registered if version.is_default}
        aliases = {version.name: version.aliases for version in registered}
        defaults: dict[str, str | None] = {}
        for model in models_with(registered, *self._preloaded):
            if model not in with_default:
                continue
            defaults[model] = None
            with self._lock:
                name = self._answered.get(model)
                is_loaded = name in self._loaded
            if name and is_loaded:
                alias = [alias for alias in (CHAMPION, CHALLENGER) if alias in aliases.get(name, ())]
                defaults[model] = ", ".join([str(name), *alias[:1]])
        return defaults

    def is_unapproved(self, name: VersionName) -> bool:
        """Whether a version answers by its model's name although its model never had a champion."""
        for version in self.registry.cached:
            if version.name == name:
                return version.is_default and CHAMPION not in version.aliases
        return False

    def if_loaded(self, name: str | None, capability: str) -> LoadedVersion | None:
        """The version that a name means, if it is loaded. Raises as `Registry.find`.

        If an alias has moved to a version that is not loaded, the one before goes on: `refresh` loads the new one.
        """
        version = self.registry.find(name, capability)
        name = name or version.model
        with self._lock:
            loaded = self._loaded.get(version)
            if loaded is None and name in self._answered:
                loaded = self._loaded.get(self._answered[name])
            if loaded:  # under the lock, so that it is not let go in between
                self._answered[name] = loaded.name
                loaded.asked = time.monotonic()
        return loaded

    def get(self, name: str | None, capability: str) -> LoadedVersion:
        """The same, loaded if need be. Raises Unavailable, too, if it can't be loaded."""
        if loaded := self.if_loaded(name, capability):
            return loaded
        version = self.registry.find(name, capability)
        loaded = self.load(version)
        with self._lock:
            self._answered[name or version.model] = version
            loaded.asked = time.monotonic()
        self._make_room()
        return loaded

    def load(self, name: VersionName) -> LoadedVersion:
        """A version in memory; while it is loaded, others answer.

        Raises Unavailable if it can't be loaded; that is tried again after `poll_seconds`.
        """
        if loaded := self._loaded.get(name):
            return loaded
        with self._loading:
            if loaded := self._loaded.get(name):
                return loaded
            if self._ending.is_set():
                raise Unavailable(ENDING)
            self._check_failed(name)
            try:
                loaded = self._load(name)
            except Unavailable as error:
                self._failed[name] = time.monotonic(), error
                raise
            self._failed.pop(name, None)
            with self._lock:
                if not self._ending.is_set():
                    self._loaded[name] = loaded
                    state = "; nobody has approved it" if self.is_unapproved(name) else ""
                    logger.info("%s is loaded%s", loaded.registered_name, state)
                    return loaded
            self._end(loaded, 0)  # the server began to end meanwhile
            raise Unavailable(ENDING)

    def _check_failed(self, name: VersionName) -> None:
        """Raise the error of the last try to load a version, if that was just now."""
        if name not in self._failed:
            return
        failed_at, error = self._failed[name]
        if time.monotonic() - failed_at < self.settings.poll_seconds:
            raise Unavailable(str(error), error.param)

    def _load(self, name: VersionName) -> LoadedVersion:
        settings = self.settings
        fetched = TemporaryDirectory(prefix="threestage-version-")
        engine = None
        try:
            dataset = self.registry.dataset(name)
            folder = self.registry.files(name, Path(fetched.name))
            model, encoding = load_for_inference(folder)
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
        return LoadedVersion(
            name=name,
            model=model,
            encoding=encoding,
            folder=folder,
            fetched=fetched,
            dataset=dataset,
            engine=engine,
            cleaner=self._cleaner,
        )

    def refresh(self) -> None:
        """Load the preloaded models' default versions, and the version to which the alias of a loaded one has moved;
        let go what is gone from the registry, or was not asked for recently.

        If one can't be loaded, the one before goes on. Raises Unavailable when the rest is done: for what can't be
        loaded, and for a model without a default version.
        """
        registered = self.registry.read()
        models = models_with(registered, *self._preloaded)
        failures: dict[str, None] = {}
        defaults = set()
        with self._lock:
            self._answered = {name: version for name, version in self._answered.items() if version in self._loaded}
            names = dict.fromkeys([*models, *self._answered])
        for name in names:
            try:
                version: VersionName | None = resolve(parse_name(name), registered).name
                self.load(version)
            except NotFound as error:
                if name in models:
                    failures[str(error)] = None
                continue
            except Unavailable as error:
                version = self._answered.get(name)
                failures[f"{error}; {version} goes on" if version else str(error)] = None
            if version:
                with self._lock:
                    self._answered[name] = version
                if name in models:
                    defaults.add(version)
        self._defaults = defaults
        self._make_room()
        if failures:
            raise Unavailable("; ".join(failures))

    def _make_room(self) -> None:
        """Let go what is gone from the registry, and what was asked least recently if there is more than KEPT."""
        with self._lock:
            registered = {version.name for version in self.registry.cached}
            besides = [loaded for loaded in self._loaded.values() if loaded.name not in self._defaults]
            besides.sort(key=lambda loaded: -loaded.asked)
            room = max(1, KEPT - len(self._defaults))
            gone = [*besides[room:], *(loaded for loaded in besides[:room] if loaded.name not in registered)]
            for loaded in gone:
                del self._loaded[loaded.name]
            self._leaving.update(gone)
        for loaded in gone:
            threading.Thread(target=self._let_go, args=(loaded,), daemon=True).start()

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
        threads = [threading.Thread(target=self._end, args=(loaded, patience)) for loaded in here]
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
        self._versions = versions
        self._thread = ThreadPoolExecutor(1, "loader")

    async def get(self, name: str | None, capability: str) -> LoadedVersion:
        """Like `Versions.get`. Also raises Unavailable if it takes longer than a request may."""
        if loaded := await asyncio.to_thread(self._versions.if_loaded, name, capability):
            return loaded
        load = partial(self._versions.get, name, capability)
        loading = asyncio.get_running_loop().run_in_executor(self._thread, load)
        try:
            async with asyncio.timeout(self._versions.settings.request_seconds):
                return await loading
        except TimeoutError:
            raise Unavailable(f"{name or 'the model'} is still being loaded", "model") from None
