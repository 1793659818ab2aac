"""What the registry has, as the app asks for it: versions by name, their files and cards.

A model's name alone is its champion, and its challenger where there is no champion yet; `assistant@challenger` is what
an alias points at, `assistant/3` a version.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from app.errors import NotFound, Unavailable
from llm.errors import UserError
from llm.formats.model_folder import CONFIG, read_config
from tasks.registry.record import FILE, RECORD, Record
from tasks.registry.tracking import configure_tracking, namespace, server_errors
from tasks.registry.versions import CHALLENGER, CHAMPION, own_models, registered_name, versions

BY_DEFAULT = (CHAMPION, CHALLENGER)
AGAIN = 30.0
"""Seconds until a version whose files could not be read is looked at again."""
CARD = "card/card.md"
"""Among the artifacts of a version's run."""


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
    """The module of llm/objectives by which it answers."""


class Registry:
    """The versions of the registry that MLflow points at when this is first asked.

    All of it may block: call it in a thread.
    """

    def __init__(self) -> None:
        self._listed: list[Listed] = []
        self._objectives: dict[str, str] = {}
        self._unreadable: dict[str, tuple[float, str]] = {}
        self._client: MlflowClient | None = None
        self._read_at = -math.inf  # or was tried
        self._trouble: str | None = None
        self._reading = threading.Lock()

    @property
    def known(self) -> list[Listed]:
        """All versions, as they were when the registry was last read, which may be never."""
        return self._listed

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
        client, found, reason = self._store(), [], ""
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
                _, reason = self._unreadable.get(version.source, (0.0, reason))
        if found and not any(each.objective for each in found):
            raise UserError(f"the files of no version can be read: {reason}")
        return sorted(found, key=lambda each: (each.named.model, -int(each.named.version)))

    def _store(self) -> MlflowClient:
        """The store that was MLflow's when this was first asked; it stays the same wherever MLflow points then."""
        if self._client is None:
            configure_tracking()
            self._client = MlflowClient(mlflow.get_tracking_uri(), mlflow.get_registry_uri())
        return self._client

    def _objective(self, version: ModelVersion, model: str) -> str:
        """By which module a version answers; empty where its files can't be read, which is tried again later."""
        source = version.source
        tried, _ = self._unreadable.get(source, (-math.inf, ""))
        if source not in self._objectives and time.monotonic() - tried > AGAIN:
            named = Named(model, str(version.version))
            try:
                with TemporaryDirectory() as fetched:
                    folder = self.files(named, Path(fetched), CONFIG).parent
                    self._objectives[source] = read_config(folder)["objective"]
                self._unreadable.pop(source, None)
            except Exception as error:  # each kind of store has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                if source not in self._unreadable:
                    logger.warning("%s can't be read: %s", named, reason)
                self._unreadable[source] = time.monotonic(), reason
        return self._objectives.get(source, "")

    def files(self, named: Named, fetched: Path, file: str = "") -> Path:
        """The model folder of a version, or a file of it: on this machine, or below `fetched`, from a server."""
        client = self._store()
        place = client.get_model_version_download_uri(registered_name(named.model), named.version)
        uri, into = f"{place}/artifacts/{named.model}/{file}", None if is_local_uri(place) else str(fetched)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into, tracking_uri=client.tracking_uri))

    def version(self, named: Named) -> ModelVersion:
        """What MLflow says of a version."""
        return self._store().get_model_version(registered_name(named.model), named.version)

    def card(self, named: Named) -> str | None:
        """The model card of a version in Markdown; None where it has none, or where it can't be had."""
        return self._text(named, CARD)

    def record(self, named: Named) -> Record | None:
        """What a version was made from; None where that is not recorded."""
        text = self._text(named, RECORD)
        return None if text is None else FILE.validate_json(text)

    def _text(self, named: Named, artifact: str) -> str | None:
        with server_errors():
            run = self.version(named).run_id
        with TemporaryDirectory() as folder:
            try:
                return Path(self._store().download_artifacts(run, artifact, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def find(self, name: str) -> Named:
        """The version that a name means: `assistant`, `assistant@champion` or `assistant/3`, with or without the
        namespace before it. Raises NotFound with what there is."""
        try:
            return self.pick(name, self.listed())
        except NotFound:  # it may be newer than the list
            return self.pick(name, self._fresh())

    def pick(self, name: str, listed: Sequence[Listed]) -> Named:
        """The same, among these."""
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
        return next(iter(models_of(self.listed(), (objective,))), None)


def models_of(listed: Sequence[Listed], objectives: Sequence[str]) -> list[str]:
    """The models of these objectives that answer by their name alone. One of a version's files may be gone: what one
    version does, all do."""
    able = {each.named.model for each in listed if each.objective in objectives}
    aliased = {each.named.model for each in listed if set(each.aliases) & set(BY_DEFAULT)}
    return [name for name in dict.fromkeys(each.named.model for each in listed) if name in able & aliased]
