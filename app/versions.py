"""Registered versions as the app serves them: found by name, loaded when asked for, swapped when their alias moves.

A model's name alone is its champion, and its challenger where there is no champion yet; `assistant@challenger` is what
an alias points at, `assistant/3` a version. A version that is swapped out answers what it began, and then goes.
"""

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import tiktoken
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from torch import nn

from app.async_engine import AsyncEngine
from app.errors import NotFound, Unavailable
from app.settings import Settings
from llm.applications import load, load_for_inference
from llm.errors import UserError
from llm.formats.model_folder import CONFIG, read_config
from llm.generation.packed import quantize_int8
from llm.model.gpt import GPT
from tasks.registry.register import CHALLENGER, registered_name
from tasks.registry.tracking import configure_tracking, namespace, server_errors
from tasks.stages.hashes import PREFIX

CHAMPION = "champion"
BY_DEFAULT = (CHAMPION, CHALLENGER)
DATASET = f"{PREFIX}.dvc.dep.data/processed/"
KEPT = 4
"""Versions that stay loaded; one more sends off the one that was asked for least lately."""

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


@dataclass
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
        self._lock = threading.Lock()  # of what is loaded
        self._reading, self._loading = threading.Lock(), threading.Lock()

    def listed(self) -> list[Listed]:
        """All versions, by model and the newest first, as they were when the registry was last read."""
        return self._listed or self.read()

    def read(self) -> list[Listed]:
        """Read the registry. Raises UserError where it does not answer."""
        with self._reading, server_errors():
            self._listed = self._read()
        return self._listed

    def _read(self) -> list[Listed]:
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient()
        prefix = f"{namespace()}-"
        found = []
        for registered in self._client.search_registered_models(f"name LIKE '{prefix}%'"):
            aliases: dict[str, list[str]] = {}
            for alias, version in registered.aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            for version in self._client.search_model_versions(f"name = '{registered.name}'"):
                found.append(
                    Listed(
                        Named(registered.name.removeprefix(prefix), str(version.version)),
                        tuple(sorted(aliases.get(str(version.version), ()))),
                        version.creation_timestamp // 1000,
                        version.description or "",
                        self._objective(version, registered.name.removeprefix(prefix)),
                    )
                )
        return sorted(found, key=lambda each: (each.named.model, -int(each.named.version)))

    def _objective(self, version: ModelVersion, model: str) -> str:
        """By which module a version answers; empty where its files are gone."""
        if version.source not in self._objectives:
            try:
                self._objectives[version.source] = read_config(_fetch(version, model, CONFIG).parent)["objective"]
            except (UserError, MlflowException, OSError):
                return ""
        return self._objectives[version.source]

    def find(self, name: str) -> Named:
        """The version that a name means: `assistant`, `assistant@champion` or `assistant/3`, with or without the
        namespace before it. Raises NotFound with what there is."""
        try:
            return self._pick(name, self.listed())
        except NotFound:  # it may be newer than the list
            return self._pick(name, self.read())

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
        for each in self.listed():
            if each.objective == objective and set(each.aliases) & set(BY_DEFAULT):
                return each.named.model
        return None

    def get(self, name: str) -> Loaded:
        """The version that a name means, loaded. Raises as `find`, and Unavailable where it can't be loaded."""
        return self.load(self.find(name))

    def load(self, named: Named) -> Loaded:
        """A version in memory; one that is not there yet is loaded while others answer."""
        with self._lock:
            loaded = self._loaded.get(named)
        if loaded is None:
            with self._loading:
                with self._lock:
                    loaded = self._loaded.get(named)
                if loaded is None:
                    loaded = self._load(named)
                    with self._lock:
                        self._loaded[named] = loaded
                    logger.info("%s is loaded", loaded.registered_name)
        loaded.asked = time.monotonic()
        return loaded

    def _load(self, named: Named) -> Loaded:
        settings, engine = self.settings, None
        try:
            version = self._client.get_model_version(registered_name(named.model), named.version)
            folder = _fetch(version, named.model)
            objective = read_config(folder)["objective"]
            model, encoding = load(folder) if settings.int8 else load_for_inference(folder)
            if isinstance(model, GPT):
                model = quantize_int8(model) if settings.int8 else model
                shape = {"rows": settings.rows, "queue": settings.queue, "context_length": settings.context_length}
                engine = AsyncEngine(model, **shape)
        except (UserError, MlflowException, OSError) as error:
            raise Unavailable(f"{named} can't be loaded: {' '.join(str(error).split())}", "model") from error
        dataset = next((tag.removeprefix(DATASET) for tag in version.tags if tag.startswith(DATASET)), None)
        return Loaded(named, objective, model, encoding, folder, dataset, engine)

    @property
    def listed_before(self) -> list[Listed]:
        """What was listed when the registry was last read; nothing before that."""
        return self._listed

    def refresh(self, objectives: Sequence[str]) -> None:
        """Load what answers by default for these objectives; let go what is gone, and what is not asked for of late.

        One that can't be loaded leaves in place what answered before; raises its error when the rest is done.
        """
        listed, wanted, failed = self.read(), set[Named](), None
        for model in dict.fromkeys(each.named.model for each in listed if each.objective in objectives):
            try:
                wanted.add(self.load(self._pick(model, listed)).named)
            except NotFound:  # nobody made it champion or challenger
                continue
            except Unavailable as error:
                failed = error
        known = {each.named for each in listed}
        with self._lock:
            others = sorted((each for key, each in self._loaded.items() if key not in wanted), key=lambda e: -e.asked)
            room = max(0, KEPT - len(wanted))
            gone = [each for place, each in enumerate(others) if place >= room or each.named not in known]
            for each in gone:
                del self._loaded[each.named]
        for each in gone:
            threading.Thread(target=_let_go, args=(each, self.settings.request_seconds), daemon=True).start()
        if failed:
            raise failed

    @property
    def loaded(self) -> list[Loaded]:
        """What is in memory."""
        with self._lock:
            return list(self._loaded.values())

    def close(self, patience: float) -> None:
        """Let each version end what it began, `patience` seconds at most."""
        threads = [threading.Thread(target=_let_go, args=(each, patience)) for each in self.loaded]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _fetch(version: ModelVersion, model: str, file: str = "") -> Path:
    """The model folder of a version, or a file of it, on this machine; from a server it is fetched."""
    return Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts/{model}/{file}"))


def _let_go(loaded: Loaded, patience: float) -> None:
    if loaded.engine:
        loaded.engine.close(patience)
    logger.info("%s is unloaded", loaded.registered_name)
