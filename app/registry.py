"""The registry as the app reads it: its versions with what they can do, their files and cards."""

import logging
import math
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from app.errors import NotFound, RequestError, Unavailable
from app.names import ModelName, RegisteredVersion, VersionName, models_with, resolve
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

AGAIN = 30.0
"""Seconds until the files of a version that could not be read are read again."""

logger = logging.getLogger(__name__)


class Registry:
    """The versions of the registry that MLflow points at on first use.

    All of it may block: call it in a thread.
    """

    def __init__(self) -> None:
        self._versions: list[RegisteredVersion] = []
        self._capabilities: dict[str, tuple[str, ...]] = {}  # by a version's source
        self._unreadable: dict[str, tuple[float, str]] = {}  # when it was tried, and why it failed
        self._client: MlflowClient | None = None
        self._read_at = -math.inf  # or tried
        self._trouble: str | None = None
        self._reading = threading.Lock()

    @property
    def cached(self) -> list[RegisteredVersion]:
        """All versions as of the last reading of the registry; none before the first."""
        return self._versions

    def versions(self) -> list[RegisteredVersion]:
        """All versions, by model and the newest first; reads the registry if nothing is cached."""
        return self._versions or self._recent()

    def read(self) -> list[RegisteredVersion]:
        """Read the registry. Raises Unavailable if it does not answer."""
        with self._reading:
            self._read()
            return self._checked()

    def _recent(self) -> list[RegisteredVersion]:
        """The versions as of the last second, so that unknown names do not keep the registry busy. While another thread
        waits for a registry that did not answer before, nobody else waits."""
        asked = time.monotonic()
        if not self._reading.acquire(blocking=self._trouble is None):
            return self._checked()
        try:
            if asked - self._read_at > 1:
                self._read()
            return self._checked()
        finally:
            self._reading.release()

    def _checked(self) -> list[RegisteredVersion]:
        if self._trouble:
            raise Unavailable(self._trouble)
        return self._versions

    def _read(self) -> None:
        began = time.monotonic()
        try:
            with server_errors():
                self._versions = self._in_registry()
            self._read_at = began
            self._trouble = None
        except (UserError, MlflowException) as error:
            self._read_at = time.monotonic()
            self._trouble = f"the registry does not answer: {' '.join(str(error).split())}"

    def _in_registry(self) -> list[RegisteredVersion]:
        registered = []
        for model, entry in own_models(self._store()):
            registered += self._versions_of(model, entry)
        if registered and not any(version.capabilities for version in registered):
            *_, (_, reason) = self._unreadable.values()
            raise UserError(f"the files of no version can be read: {reason}")
        return sorted(registered, key=_order)

    def _versions_of(self, model: str, entry: RegisteredModel) -> list[RegisteredVersion]:
        aliases: dict[str, list[str]] = {}
        for alias, version in entry.aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        default = _default(entry)
        registered = []
        for version in versions(self._store(), entry.name):
            name = VersionName(model, str(version.version))
            registered.append(
                RegisteredVersion(
                    name=name,
                    aliases=tuple(sorted(aliases.get(name.version, ()))),
                    created=version.creation_timestamp // 1000,
                    description=approved_despite(version) + (version.description or ""),
                    capabilities=self._capabilities_of(version.source, name),
                    is_default=name.version == default,
                )
            )
        return registered

    def _store(self) -> MlflowClient:
        """The store that MLflow points to at the first call; later calls keep it."""
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient(mlflow.get_tracking_uri(), mlflow.get_registry_uri())
        return self._client

    def _capabilities_of(self, source: str, name: VersionName) -> tuple[str, ...]:
        tried_at, reason_before = self._unreadable.get(source, (-math.inf, ""))
        if source not in self._capabilities and time.monotonic() - tried_at > AGAIN:
            try:
                with TemporaryDirectory() as fetched:
                    folder = self.files(name, Path(fetched), CONFIG).parent
                    self._capabilities[source] = interface_of(folder).capabilities
            except Exception as error:  # each kind of store has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                if not reason_before:
                    logger.warning("%s can't be read: %s", name, reason)
                self._unreadable[source] = time.monotonic(), reason
        return self._capabilities.get(source, ())

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
        with server_errors():
            version = self._store().get_model_version(registered_name(name.model), name.version)
        return text and approved_despite(version) + text

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

    def _run(self, name: VersionName) -> Run:
        """The run that holds a version's evidence."""
        with server_errors():
            version = self._store().get_model_version(registered_name(name.model), name.version)
            return self._store().get_run(run_id_of(version))

    def _text(self, name: VersionName, artifact: str) -> str | None:
        run = self._run(name)
        with TemporaryDirectory() as folder:
            try:
                path = self._store().download_artifacts(run.info.run_id, artifact, folder)
                return Path(path).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def find(self, name: str | None, capability: str | None = None) -> VersionName:
        """The version that a name means: `assistant`, `assistant@champion` or `assistant/3`, with or without the
        namespace before it; without a name the first model with the capability.

        Raises NotFound, also for the name of a model without a default version, and RequestError for a version without
        the capability.
        """
        if not name and capability:
            name = self._first_with(capability)
        wanted = parse_name(name or "")
        try:
            version = resolve(wanted, self.versions())
        except NotFound:  # it may be newer than the list
            version = resolve(wanted, self._recent())
        if capability and version.capabilities and capability not in version.capabilities:
            able = ", ".join(models_with(self._versions, capability)) or "none"
            reason = f"{version.name} can't {capability}; models that can: {able}"
            raise RequestError(reason, "model", "unsupported_model")
        return version.name

    def _first_with(self, capability: str) -> str:
        models = models_with(self.versions(), capability)
        if not models:
            raise NotFound(f"no model that can {capability} is registered; `make run` makes them", "model")
        return models[0]


def approved_despite(version: ModelVersion) -> str:
    """A paragraph in Markdown about the gates that a version was approved despite; empty if it passed all."""
    gates = version.tags.get(GATES)
    is_approved = version.tags.get(STATE) == APPROVED
    return f"**Approved despite these gates: {plain(gates)}.**\n\n" if gates and is_approved else ""


def parse_name(text: str) -> ModelName:
    """A model's name, with or without our namespace before it."""
    return ModelName.parse(text, prefix=registered_name(""))


def _order(version: RegisteredVersion) -> tuple[str, int]:
    return version.name.model, -int(version.name.version)


def _default(model: RegisteredModel) -> str | None:
    """The version that answers by a model's name: its champion, or its challenger if it never had a champion."""
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    if CHAMPION in aliases or had_champion(model):
        return aliases.get(CHAMPION)
    return aliases.get(CHALLENGER)
