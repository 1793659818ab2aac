"""Registered versions as the app serves them: found by name, loaded when asked for, swapped when their alias moves.

A model's name alone is its champion, and its challenger where there is no champion yet; `assistant@challenger` is what
an alias points at, `assistant/3` a version. A version that is swapped out answers what it began, and then goes.
"""

import asyncio
import logging
import math
import re
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import tiktoken
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from torch import nn

from app.async_engine import AsyncEngine
from app.cleaning import Cleaner
from app.errors import NotFound, Unavailable
from app.settings import Settings
from llm.applications import load, load_for_inference
from llm.errors import UserError
from llm.formats.model_folder import CONFIG, read_config
from llm.generation.packed import quantize_int8
from llm.model.gpt import GPT
from tasks.registry.listing import own_models, versions
from tasks.registry.register import CHALLENGER, registered_name
from tasks.registry.standing import CHAMPION
from tasks.registry.tracking import configure_tracking, namespace, server_errors
from tasks.stages.hashes import PREFIX

BY_DEFAULT = (CHAMPION, CHALLENGER)
DATASET = f"{PREFIX}.dvc.dep.data/processed/"
KEPT = 4
"""Versions that stay loaded; one more sends off the one that was asked for least lately. Defaults stay in any case, and
one beside them."""
GRACE = 10.0
"""Seconds in which one that is let go still takes texts, of requests that were given it before."""
CARD = "card/card.md"
"""Among the artifacts of a version's run."""

ENDING = "the server is ending"

logger = logging.getLogger(__name__)


class Named(NamedTuple):
    """A version of a model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class Listed:
    """What the registry says of a version."""

    named: Named
    aliases: tuple[str, ...]
    created: int
    """Seconds since 1970."""
    description: str
    objective: str
    """The module of llm/applications by which it answers."""


@dataclass(eq=False)
class Loaded:
    """A version in memory."""

    named: Named
    objective: str
    model: nn.Module
    encoding: tiktoken.Encoding
    folder: Path
    dataset: str | None
    """The dataset that it learned from, whose inbox takes what people say of its answers."""
    engine: AsyncEngine | None
    """Of a model that writes text."""
    cleaner: Cleaner
    """Reads the mails that are to be classified."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the request whose mails are read now; the next waits for it without a thread."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held by who classifies."""
    classifying: int = 0
    """Requests that classify, or wait for it."""
    asked: float = field(default_factory=time.monotonic)

    @property
    def registered_name(self) -> str:
        """The name in the registry, with the version."""
        return f"{registered_name(self.named.model)}/{self.named.version}"


class Versions:
    """The versions of a registry. All of it may block, on the registry or on loading: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loaded: dict[Named, Loaded] = {}
        self._listed: list[Listed] = []
        self._objectives: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._answered: dict[str, Named] = {}
        self._wanted: set[Named] = set()
        self._failed: dict[Named, tuple[float, Unavailable]] = {}
        self._read_at = -math.inf  # or was tried
        self._trouble: str | None = None
        self._leaving: set[Loaded] = set()
        self._cleaner = Cleaner()
        self._lock = threading.Lock()  # of what is loaded or leaving, and of who answered
        self._reading, self._loading = threading.Lock(), threading.Lock()
        self._ending = threading.Event()

    def listed(self) -> list[Listed]:
        """All versions, by model and the newest first, as they were when the registry was last read."""
        return self._listed or self._fresh()

    def _fresh(self) -> list[Listed]:
        """The registry's versions as of the last second: names that nobody knows must not keep it busy, nor keep the
        threads that others need where it does not answer."""
        asked, trouble = time.monotonic(), self._trouble
        if not self._reading.acquire(blocking=trouble is None):  # somebody tries it now
            raise Unavailable(trouble)
        try:
            if asked - self._read_at > 1:  # else by who was before this one
                with suppress(UserError, MlflowException):  # which `_trouble` has
                    self._read()
            listed, trouble = self._listed, self._trouble
        finally:
            self._reading.release()
        if trouble:
            raise Unavailable(trouble)
        return listed

    def read(self) -> list[Listed]:
        """Read the registry. Raises UserError or MlflowException where it does not answer."""
        with self._reading:
            return self._read()

    def _read(self) -> list[Listed]:
        """The same, for who holds `_reading`."""
        began = time.monotonic()
        try:
            with server_errors():
                self._listed = self._in_registry()
        except (UserError, MlflowException) as error:
            self._read_at = time.monotonic()
            self._trouble = f"the registry does not answer: {' '.join(str(error).split())}"
            raise
        self._read_at, self._trouble = began, None
        return self._listed

    def _in_registry(self) -> list[Listed]:
        client, found = self._registry(), []
        for model, registered in own_models(client):
            aliases: dict[str, list[str]] = {}
            for alias, version in registered.aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            for version in versions(client, registered.name):
                found.append(
                    Listed(
                        Named(model, str(version.version)),
                        tuple(sorted(aliases.get(str(version.version), ()))),
                        version.creation_timestamp // 1000,
                        version.description or "",
                        self._objective(version, model),
                    )
                )
        return sorted(found, key=lambda each: (each.named.model, -int(each.named.version)))

    def _registry(self) -> MlflowClient:
        """The store that was MLflow's when this was first asked; it stays the same wherever MLflow points then."""
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient(mlflow.get_tracking_uri(), mlflow.get_registry_uri())
        return self._client

    def _objective(self, version: ModelVersion, model: str) -> str:
        """By which module a version answers; empty where its files are gone."""
        if version.source not in self._objectives:
            try:
                folder = self._files(Named(model, str(version.version)), CONFIG).parent
                self._objectives[version.source] = read_config(folder)["objective"]
            except (UserError, MlflowException, OSError):
                return ""
        return self._objectives[version.source]

    def _files(self, named: Named, file: str = "") -> Path:
        """The model folder of a version, or a file of it, on this machine; from a server it is fetched."""
        client = self._registry()
        place = client.get_model_version_download_uri(registered_name(named.model), named.version)
        uri = f"{place}/artifacts/{named.model}/{file}"
        return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=client.tracking_uri))

    def card(self, named: Named) -> str | None:
        """The model card of a version in Markdown; None where it has none, or where it can't be had."""
        client = self._registry()
        with server_errors():
            run = client.get_model_version(registered_name(named.model), named.version).run_id
        with TemporaryDirectory() as folder:
            try:
                return Path(client.download_artifacts(run, CARD, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def find(self, name: str) -> Named:
        """The version that a name means: `assistant`, `assistant@champion` or `assistant/3`, with or without the
        namespace before it. Raises NotFound with what there is."""
        try:
            return self._pick(name, self.listed())
        except NotFound:  # it may be newer than the list
            return self._pick(name, self._fresh())

    def _pick(self, name: str, listed: Sequence[Listed]) -> Named:
        match = re.fullmatch(r"(?P<model>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))?", name)
        model = match["model"].removeprefix(f"{namespace()}-") if match else name
        of_model = [each for each in listed if each.named.model == model]
        if not match or not of_model:
            known = ", ".join(dict.fromkeys(each.named.model for each in listed)) or "none; `make run` makes them"
            raise NotFound(f"model {name!r} is not registered; those are: {known}", "model")
        if match["version"]:
            found = [each for each in of_model if each.named.version == match["version"]]
        else:
            wanted = [match["alias"]] if match["alias"] else BY_DEFAULT
            found = [each for alias in wanted for each in of_model if alias in each.aliases]
        if not found:
            there = ", ".join(" ".join([each.named.version, *each.aliases]) for each in of_model)
            what = match["version"] or match["alias"] or " or ".join(BY_DEFAULT)
            raise NotFound(f"model {model!r} has no {what}; its versions are: {there}", "model")
        return found[0].named

    def default(self, objective: str) -> str | None:
        """The model that answers for an objective where nobody names one: the first of its kind that has an alias."""
        return next(iter(_models(self.listed(), (objective,))), None)

    def defaults(self, objectives: Sequence[str]) -> dict[str, str | None]:
        """Each model of these objectives with the version that answers by its name and the alias that it has, or with
        None where it is not loaded yet; as of when the registry was last read."""
        found: dict[str, str | None] = {}
        for model in _models(self._listed, objectives):
            with self._lock:
                named = self._answered.get(model)
                there = named in self._loaded
            aliases = next((each.aliases for each in self._listed if each.named == named), ())
            alias = next((alias for alias in BY_DEFAULT if alias in aliases), None)
            found[model] = ", ".join(filter(None, (str(named), alias))) if there else None
        return found

    def get(self, name: str) -> Loaded:
        """The version that a name means, loaded. Raises as `find`, and Unavailable where it can't be loaded.

        Where an alias has moved to a version that is not loaded, what answered before goes on: `refresh` loads it.
        """
        named = self.find(name)
        with self._lock:
            loaded = self._loaded.get(named) or self._loaded.get(self._answered.get(name))
            if loaded:  # at once, so that it is not let go in between
                self._answered[name], loaded.asked = loaded.named, time.monotonic()
        if loaded is None:
            loaded = self.load(named)
            with self._lock:
                if named in self._loaded:
                    self._answered[name], loaded.asked = named, time.monotonic()
            self._make_room()
        return loaded

    def load(self, named: Named) -> Loaded:
        """A version in memory; one that is not there yet is loaded while others answer.

        Raises Unavailable where it can't be; that is tried again after `poll_seconds`.
        """
        with self._lock:
            loaded = self._loaded.get(named)
        if loaded is None:
            with self._loading:
                with self._lock:
                    loaded = self._loaded.get(named)
                if loaded is None:
                    loaded = self._try(named)
                    with self._lock:
                        if ended := self._ending.is_set():
                            self._leaving.add(loaded)
                        else:
                            self._loaded[named] = loaded
                    if ended:  # while it was loaded
                        self._end(loaded, 0)
                        raise Unavailable(ENDING)
                    logger.info("%s is loaded", loaded.registered_name)
        return loaded

    def _try(self, named: Named) -> Loaded:
        if self._ending.is_set():
            raise Unavailable(ENDING)
        tried, error = self._failed.get(named, (-math.inf, None))
        if error and time.monotonic() - tried < self.settings.poll_seconds:
            raise Unavailable(str(error), error.param)
        try:
            loaded = self._load(named)
        except Unavailable as error:
            self._failed[named] = time.monotonic(), error
            raise
        self._failed.pop(named, None)
        return loaded

    def _load(self, named: Named) -> Loaded:
        settings, engine = self.settings, None
        try:
            version = self._registry().get_model_version(registered_name(named.model), named.version)
            folder = self._files(named)
            objective = read_config(folder)["objective"]
            model, encoding = load(folder) if settings.int8 else load_for_inference(folder)
            if isinstance(model, GPT):
                model = quantize_int8(model) if settings.int8 else model
                shape = {"rows": settings.rows, "queue": settings.queue, "context_length": settings.context_length}
                engine = AsyncEngine(model, **shape)
        except (UserError, MlflowException, OSError) as error:
            raise Unavailable(f"{named} can't be loaded: {' '.join(str(error).split())}", "model") from error
        except Exception as error:  # a bug, or no memory: other versions are loaded, and what answered before goes on
            if named not in self._failed:
                logger.exception("%s can't be loaded", named)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise Unavailable(f"{named} can't be loaded: {reason}", "model") from error
        dataset = next((tag.removeprefix(DATASET) for tag in version.tags if tag.startswith(DATASET)), None)
        return Loaded(named, objective, model, encoding, folder, dataset, engine, self._cleaner)

    def refresh(self, objectives: Sequence[str]) -> None:
        """Load what answers by default for these objectives and what its alias has moved to; let go what is gone or
        replaced, and what is not asked for of late.

        One that can't be loaded leaves in place what answered before. Raises Unavailable for it when the rest is done.
        """
        listed, failed = self.read(), []
        models, answering = _models(listed, objectives), dict[str, Named | None]()
        with self._lock:
            self._answered = {name: each for name, each in self._answered.items() if each in self._loaded}
            before = set(self._answered.values())
            names = dict.fromkeys([*models, *self._answered])
        for name in names:
            try:
                named = self._pick(name, listed)
                self.load(named)
            except NotFound:  # nobody made it champion or challenger, or not any more
                continue
            except Unavailable as error:
                named = self._answered.get(name)
                failed.append(f"{error}; {named} goes on" if named else str(error))
            with self._lock:
                answering[name] = named
                if named:
                    self._answered[name] = named
        self._wanted = {each for model in models if (each := answering.get(model))}
        self._make_room(before)
        if failed:
            raise Unavailable("; ".join(dict.fromkeys(failed)))

    def _make_room(self, before: Collection[Named] = ()) -> None:
        """Let go what was not asked for of late where there is more than KEPT, what is not in the registry any more,
        and of what answered `before` that for which nobody asks now by any name."""
        with self._lock:
            known = {each.named for each in self._listed} - (set(before) - set(self._answered.values()))
            others = [each for each in self._loaded.values() if each.named not in self._wanted]
            others.sort(key=lambda each: -each.asked)
            room = max(1, KEPT - len(self._wanted))
            gone = [each for place, each in enumerate(others) if place >= room or each.named not in known]
            for each in gone:
                del self._loaded[each.named]
            self._leaving.update(gone)
        for each in gone:
            threading.Thread(target=self._let_go, args=(each,), daemon=True).start()

    def _let_go(self, loaded: Loaded) -> None:
        self._ending.wait(GRACE)
        self._end(loaded, self.settings.request_seconds)

    def _end(self, loaded: Loaded, patience: float) -> None:
        if loaded.engine:
            loaded.engine.close(patience)
        with self._lock:
            self._leaving.discard(loaded)
        logger.info("%s is unloaded", loaded.registered_name)

    @property
    def loaded(self) -> list[Loaded]:
        """What is in memory."""
        with self._lock:
            return list(self._loaded.values())

    def close(self, patience: float) -> None:
        """Load nothing more, and let each version end what it began, `patience` seconds at most."""
        deadline = time.monotonic() + patience
        with self._lock:
            self._ending.set()
            here = [*self._loaded.values(), *self._leaving]
        threads = [threading.Thread(target=self._end, args=(each, patience)) for each in here]
        for thread in threads:
            thread.start()
        if self._loading.acquire(timeout=max(0.0, deadline - time.monotonic())):  # who loads now ends what it loaded
            self._loading.release()
        for thread in threads:
            thread.join()
        self._cleaner.close()


def _models(listed: Sequence[Listed], objectives: Sequence[str]) -> list[str]:
    """The models of these objectives that answer by their name alone. One of a version's files may be gone: what one
    version does, all do."""
    able = {each.named.model for each in listed if each.objective in objectives}
    aliased = {each.named.model for each in listed if set(each.aliases) & set(BY_DEFAULT)}
    return [name for name in dict.fromkeys(each.named.model for each in listed) if name in able & aliased]
