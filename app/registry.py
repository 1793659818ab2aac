"""The registry as the app reads it: versions by their names, what they can do, their files and cards.

A model's name alone is its champion, or its challenger while the model never had a champion. `assistant@challenger` is
the version of an alias, `assistant/3` a version.
"""

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from app.errors import NotFound, RequestError, Unavailable
from llm.errors import UserError
from llm.formats.model_folder import CONFIG
from llm.objectives import interface_of
from tasks.registry.card import CARD
from tasks.registry.markup import plain
from tasks.registry.store import configure_tracking, server_errors
from tasks.registry.versions import (
    APPROVED,
    CHALLENGER,
    CHAMPION,
    DATASET,
    GATES,
    STATE,
    had_champion,
    own_models,
    registered_name,
    run_id_of,
    versions,
)
from tasks.stages.hashes import LOCK, parse_stages, stages_behind
from tasks.stages.names import evaluation_stage, training_stage

NAME = re.compile(r"(?P<model>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))?")
AGAIN = 30.0
"""Seconds until the files of a model that could not be read are read again."""

logger = logging.getLogger(__name__)


class VersionName(NamedTuple):
    """A version of a model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry."""

    name: VersionName
    aliases: tuple[str, ...]
    created: int
    """Seconds since 1970."""
    description: str
    capabilities: tuple[str, ...]
    """What its model can do (llm/objectives), the main thing first; empty if no version's files can be read."""
    is_default: bool
    """Whether it answers by its model's name alone."""


def find(registered: Sequence[RegisteredVersion], name: str | None, capability: str | None = None) -> RegisteredVersion:
    """The version that a name means, with or without the namespace before it; without a name the default version of
    the first model with the capability.

    Raises NotFound, also for the name of a model without a default version, and RequestError for a version without
    the capability.
    """
    if not name and capability:
        models = models_with(registered, capability)
        if not models:
            raise NotFound(f"no model that can {capability} is registered; `make run` makes them", "model")
        name = models[0]
    version = _named(registered, name or "")
    if capability and version.capabilities and capability not in version.capabilities:
        able = ", ".join(models_with(registered, capability)) or "none"
        reason = f"{version.name} can't {capability}; models that can: {able}"
        raise RequestError(reason, "model", "unsupported_model")
    return version


def _named(registered: Sequence[RegisteredVersion], name: str) -> RegisteredVersion:
    parts = NAME.fullmatch(name)
    model = parts["model"].removeprefix(registered_name("")) if parts else name
    own = [version for version in registered if version.name.model == model]
    if not own:
        models = ", ".join(dict.fromkeys(version.name.model for version in registered)) or "none; `make run` makes them"
        raise NotFound(f"model {model!r} is not registered; those are: {models}", "model")
    number, alias = parts["version"], parts["alias"]
    for version in own:
        is_meant = version.name.version == number if number else alias in version.aliases
        if is_meant or (version.is_default and not number and not alias):
            return version
    approve = f"champion: approve one with `threestage approve`, or name a version such as {own[0].name}"
    there = ", ".join(" ".join([version.name.version, *version.aliases]) for version in own)
    raise NotFound(f"model {model!r} has no {number or alias or approve}; its versions are: {there}", "model")


def models_with(registered: Sequence[RegisteredVersion], *wanted: str) -> list[str]:
    """The models with one of these capabilities: first those with a default version, and of these the ones whose main
    capability it is."""
    ranks: dict[str, tuple[bool, bool, str]] = {}
    for version in registered:
        if set(version.capabilities) & set(wanted):
            model = version.name.model
            rank = (not version.is_default, version.capabilities[0] not in wanted, model)
            ranks[model] = min(rank, ranks.get(model, rank))
    return sorted(ranks, key=lambda model: ranks[model])


class Registry:
    """The store that MLflow points at on first use. All of it may block: call it in a thread."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._capabilities: dict[str, tuple[str, ...]] = {}  # by a version's source
        self._unreadable: dict[str, tuple[float, str]] = {}  # by model: when its files were tried, and why in vain

    def read(self) -> list[RegisteredVersion]:
        """All versions, by model and the newest first. Raises Unavailable if the registry does not answer."""
        try:
            with server_errors():
                models = sorted(own_models(self._store()), key=lambda named: named[0])
                registered: list[RegisteredVersion] = []
                for model, entry in models:
                    registered += self._versions_of(model, entry)
        except (UserError, MlflowException) as error:
            raise Unavailable(f"the registry does not answer: {' '.join(str(error).split())}") from error
        if registered and not any(version.capabilities for version in registered):
            *_, (_, reason) = self._unreadable.values()
            raise Unavailable(f"the registry does not answer: the files of no version can be read: {reason}")
        return registered

    def _versions_of(self, model: str, entry: RegisteredModel) -> list[RegisteredVersion]:
        aliases: dict[str, list[str]] = {}
        for alias, number in sorted(entry.aliases.items()):
            aliases.setdefault(str(number), []).append(alias)
        default = _default(entry)
        entries = versions(self._store(), entry.name)
        capabilities = self._capabilities_of(model, entries)
        registered = []
        for version in entries:
            number = str(version.version)
            registered.append(
                RegisteredVersion(
                    name=VersionName(model, number),
                    aliases=tuple(aliases.get(number, ())),
                    created=version.creation_timestamp // 1000,
                    description=approved_despite(version) + (version.description or ""),
                    capabilities=capabilities,
                    is_default=number == default,
                )
            )
        return registered

    def _capabilities_of(self, model: str, entries: Sequence[ModelVersion]) -> tuple[str, ...]:
        """What the versions of a model can do, by the first of them whose files can be read."""
        for version in entries:
            if version.source in self._capabilities:
                return self._capabilities[version.source]
        tried_at, reason_before = self._unreadable.get(model, (-math.inf, ""))
        if time.monotonic() - tried_at < AGAIN:
            return ()
        for version in entries:
            try:
                with TemporaryDirectory() as fetched:
                    folder = self.files(VersionName(model, str(version.version)), Path(fetched), CONFIG).parent
                    self._capabilities[version.source] = interface_of(folder).capabilities
                return self._capabilities[version.source]
            except Exception as error:  # each kind of store has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                self._unreadable[model] = time.monotonic(), reason
        if entries and not reason_before:
            logger.warning("the files of %s can't be read: %s", model, self._unreadable[model][1])
        return ()

    def _store(self) -> MlflowClient:
        """The store that MLflow points to at the first call; later calls keep it."""
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient(mlflow.get_tracking_uri(), mlflow.get_registry_uri())
        return self._client

    def files(self, name: VersionName, fetched: Path, file: str = "") -> Path:
        """The model folder of a version, or a file of it: on this machine, or downloaded into `fetched`."""
        client = self._store()
        source = client.get_model_version_download_uri(registered_name(name.model), name.version)
        uri = f"{source}/artifacts/{name.model}/{file}"
        destination = None if is_local_uri(source) else str(fetched)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=destination, tracking_uri=client.tracking_uri))

    def card(self, name: VersionName) -> str | None:
        """The model card of a version in Markdown; None if it has none that can be read."""
        text = self._text(name, CARD)
        return text and approved_despite(self._version(name)) + text

    def dataset(self, name: VersionName) -> str | None:
        """The dataset that a version learned; None if it is not known."""
        return self._run(name).data.params.get(DATASET)

    def stages(self, name: VersionName) -> dict[str, Any]:
        """The stages that made a version, as dvc.lock had them; none if they are not recorded."""
        text = self._text(name, str(LOCK))
        if text is None:
            return {}
        last = (training_stage(name.model), evaluation_stage(name.model))
        return stages_behind(*last, stages=parse_stages(text, str(LOCK)))

    def metrics(self, name: VersionName) -> dict[str, float]:
        """The metrics of a version on the test split."""
        return self._run(name).data.metrics

    def _version(self, name: VersionName) -> ModelVersion:
        with server_errors():
            return self._store().get_model_version(registered_name(name.model), name.version)

    def _run(self, name: VersionName) -> Run:
        """The run that holds a version's evidence."""
        version = self._version(name)
        with server_errors():
            return self._store().get_run(run_id_of(version))

    def _text(self, name: VersionName, artifact: str) -> str | None:
        run = self._run(name)
        with TemporaryDirectory() as folder:
            try:
                path = self._store().download_artifacts(run.info.run_id, artifact, folder)
                return Path(path).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None


def approved_despite(version: ModelVersion) -> str:
    """A paragraph in Markdown about the gates that a version was approved despite; empty if it passed all."""
    gates = version.tags.get(GATES)
    is_approved = version.tags.get(STATE) == APPROVED
    return f"**Approved despite these gates: {plain(gates)}.**\n\n" if gates and is_approved else ""


def _default(model: RegisteredModel) -> str | None:
    """The version that answers by a model's name: its champion, or its challenger if it never had a champion."""
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    if CHAMPION in aliases or had_champion(model):
        return aliases.get(CHAMPION)
    return aliases.get(CHALLENGER)
