"""The registry as the app reads it: versions by name, with what they can do, their files and cards.

A model's name alone is its champion, or its challenger while the model never had a champion. `assistant@challenger` is
the version of an alias, `assistant/3` a version.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from app.errors import NotFound, RequestError, Unavailable
from llm.errors import UserError
from llm.formats.model_folder import CONFIG
from llm.objectives import interface_of
from tasks.registry.history import had_champion
from tasks.registry.record import FILE, RECORD, Record
from tasks.registry.server import server_errors
from tasks.registry.tracking import configure_tracking, namespace
from tasks.registry.versions import CHALLENGER, CHAMPION, own_models, registered_name, versions

AGAIN = 30.0
"""Seconds until the files of a version that could not be read are read again."""
CARD = "card/card.md"
"""Among the artifacts of a version's run."""

logger = logging.getLogger(__name__)


class VersionName(NamedTuple):
    """A version of a model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class ListedVersion:
    """A version in the registry."""

    name: VersionName
    aliases: tuple[str, ...]
    created: int
    """Seconds since 1970."""
    description: str
    capabilities: tuple[str, ...]
    """What it can do (llm/objectives), the main thing first; empty if its files can't be read."""
    is_default: bool
    """Whether it answers by its model's name alone."""


class Registry:
    """The versions of the registry that MLflow points at on first use.

    All of it may block: call it in a thread.
    """

    def __init__(self) -> None:
        self._listed: list[ListedVersion] = []
        self._capabilities: dict[str, tuple[str, ...]] = {}  # by a version's source
        self._unreadable: dict[str, tuple[float, str]] = {}
        self._client: MlflowClient | None = None
        self._read_at = -math.inf  # or tried
        self._trouble: str | None = None
        self._reading = threading.Lock()

    @property
    def known(self) -> list[ListedVersion]:
        """All versions as of the last reading of the registry; none before the first."""
        return self._listed

    def listed(self) -> list[ListedVersion]:
        """The same, by model and the newest first; reads the registry if nothing is known."""
        return self._listed or self._fresh()

    def read(self) -> list[ListedVersion]:
        """Read the registry. Raises Unavailable if it does not answer."""
        with self._reading:
            self._read()
            return self._checked()

    def _fresh(self) -> list[ListedVersion]:
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

    def _checked(self) -> list[ListedVersion]:
        if self._trouble:
            raise Unavailable(self._trouble)
        return self._listed

    def _read(self) -> None:
        began = time.monotonic()
        try:
            with server_errors():
                self._listed = self._in_registry()
            self._read_at, self._trouble = began, None
        except (UserError, MlflowException) as error:
            self._read_at = time.monotonic()
            self._trouble = f"the registry does not answer: {' '.join(str(error).split())}"

    def _in_registry(self) -> list[ListedVersion]:
        client, found = self._store(), []
        for model, registered in own_models(client):
            aliases: dict[str, list[str]] = {}
            default = _default(registered)
            for alias, version in registered.aliases.items():
                aliases.setdefault(str(version), []).append(alias)
            for version in versions(client, registered.name):
                named = VersionName(model, str(version.version))
                own = tuple(sorted(aliases.get(named.version, ())))
                able = self._capabilities_of(version.source, named)
                listed = ListedVersion(
                    name=named,
                    aliases=own,
                    created=version.creation_timestamp // 1000,
                    description=version.description or "",
                    capabilities=able,
                    is_default=named.version == default,
                )
                found.append(listed)
        if found and not any(each.capabilities for each in found):
            *_, (_, reason) = self._unreadable.values()
            raise UserError(f"the files of no version can be read: {reason}")
        return sorted(found, key=lambda each: (each.name.model, -int(each.name.version)))

    def _store(self) -> MlflowClient:
        """The store that MLflow points to at the first call; later calls keep it."""
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient(mlflow.get_tracking_uri(), mlflow.get_registry_uri())
        return self._client

    def _capabilities_of(self, source: str, named: VersionName) -> tuple[str, ...]:
        tried, before = self._unreadable.get(source, (-math.inf, ""))
        if source not in self._capabilities and time.monotonic() - tried > AGAIN:
            try:
                with TemporaryDirectory() as fetched:
                    folder = self.files(named, Path(fetched), CONFIG).parent
                    self._capabilities[source] = interface_of(folder).capabilities
            except Exception as error:  # each kind of store has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                if not before:
                    logger.warning("%s can't be read: %s", named, reason)
                self._unreadable[source] = time.monotonic(), reason
        return self._capabilities.get(source, ())

    def files(self, named: VersionName, fetched: Path, file: str = "") -> Path:
        """The model folder of a version, or a file of it: on this machine, or downloaded into `fetched`."""
        client = self._store()
        place = client.get_model_version_download_uri(registered_name(named.model), named.version)
        uri, into = f"{place}/artifacts/{named.model}/{file}", None if is_local_uri(place) else str(fetched)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into, tracking_uri=client.tracking_uri))

    def card(self, named: VersionName) -> str | None:
        """The model card of a version in Markdown; None if it has none that can be read."""
        return self._text(named, CARD)

    def record(self, named: VersionName) -> Record | None:
        """The record of a version's origins; None if there is none."""
        text = self._text(named, RECORD)
        return None if text is None else FILE.validate_json(text)

    def _text(self, named: VersionName, artifact: str) -> str | None:
        with server_errors():
            run = self._store().get_model_version(registered_name(named.model), named.version).run_id
        with TemporaryDirectory() as folder:
            try:
                return Path(self._store().download_artifacts(run, artifact, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def find(self, name: str | None, capability: str | None = None) -> VersionName:
        """The version that a name means: `assistant`, `assistant@champion` or `assistant/3`, with or without the
        namespace before it; without a name the first model with the capability.

        Raises NotFound, also for the name of a model without a default version, and RequestError for a version without
        the capability.
        """
        if not name and capability:
            name = next(iter(models_with(self.listed(), capability)), None)
            if not name:
                raise NotFound(f"no model that can {capability} is registered; `make run` makes them", "model")
        try:
            found = pick(name, self.listed())
        except NotFound:  # it may be newer than the list
            found = pick(name, self._fresh())
        if capability and found.capabilities and capability not in found.capabilities:
            able = ", ".join(models_with(self._listed, capability)) or "none"
            reason = f"{found.name} can't {capability}; models that can: {able}"
            raise RequestError(reason, "model", "unsupported_model")
        return found.name


def pick(name: str, listed: Sequence[ListedVersion]) -> ListedVersion:
    """The version that a name means. Raises NotFound, which says what there is."""
    match = re.fullmatch(r"(?P<model>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))?", name)
    model = match["model"].removeprefix(f"{namespace()}-") if match else name
    of_model = [each for each in listed if each.name.model == model]
    if not match or not of_model:
        known = ", ".join(dict.fromkeys(each.name.model for each in listed)) or "none; `make run` makes them"
        raise NotFound(f"model {name!r} is not registered; those are: {known}", "model")
    if match["version"]:
        found = [each for each in of_model if each.name.version == match["version"]]
    elif match["alias"]:
        found = [each for each in of_model if match["alias"] in each.aliases]
    else:
        found = [each for each in of_model if each.is_default]
    if not found:
        missing = match["version"] or match["alias"]
        if not missing:
            missing = (
                f"champion: approve one with `threestage review approve`, or name a version such as {of_model[0].name}"
            )
        there = ", ".join(" ".join([each.name.version, *each.aliases]) for each in of_model)
        raise NotFound(f"model {model!r} has no {missing}; its versions are: {there}", "model")
    return found[0]


def models_with(listed: Sequence[ListedVersion], *wanted: str) -> list[str]:
    """The models with one of these capabilities: first those with a default version, and of these the ones whose main
    capability it is.

    What one version can do, all can: the files of one may be gone.
    """
    able = {each.name.model: each.capabilities for each in listed if set(each.capabilities) & set(wanted)}
    with_default = {each.name.model for each in listed if each.is_default}
    return sorted(able, key=lambda name: (name not in with_default, able[name][0] not in wanted, name))


def _default(registered: RegisteredModel) -> str | None:
    """The version that answers by a model's name: its champion, or its challenger if it never had a champion."""
    aliases = {alias: str(version) for alias, version in registered.aliases.items()}
    if CHAMPION in aliases or had_champion(registered):
        return aliases.get(CHAMPION)
    return aliases.get(CHALLENGER)
