"""All versions in the registry, at a glance.

A SQLite store is read directly: to import MLflow takes seconds, and a command needs four of its tables.
"""

import json
import os
import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks.stages.hashes import PREFIX

SQLITE = "sqlite:///"
DELETED = "Deleted_Internal"
"""MLflow's mark of a deleted version, in its `current_stage`."""
STATE = f"{PREFIX}.state"
"""The tag of a version's state; tasks/registry/versions.py names the states."""
SHOWN_STATES = ("pending", "rejected", "superseded")
HISTORY = f"{PREFIX}.history."
"""Tags of a registered model; tasks/registry/history.py writes them."""


class ListedVersion(NamedTuple):
    """A version of a model."""

    model: str
    """Its name in the project, such as `classifier`."""
    version: str
    created: str
    """To the minute, UTC."""
    aliases: list[str]
    state: str | None
    """Pending, rejected or superseded; None for a version that has been approved, or of which nothing is known."""
    despite: list[str]
    """The gates that it had failed when it was approved."""


def store_file() -> Path | None:
    """The file of a SQLite store, which may be missing; None if the registry is a server's."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def local_prefix() -> str:
    """The beginning of our models' names in a SQLite store."""
    return f"{os.environ.get('THREESTAGE_NAMESPACE') or PREFIX}-"


def list_versions() -> list[ListedVersion]:
    """The versions of this namespace, by model and the newest first.

    Raises UserError if the store can't be read or its server does not answer.
    """
    if path := store_file():
        try:
            return _from_file(path)
        except sqlite3.DatabaseError:  # MLflow says what is wrong with it
            pass
    return _from_mlflow()


def _from_file(path: Path) -> list[ListedVersion]:
    prefix = local_prefix()
    versions: list[ListedVersion] = []
    aliases: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    states: dict[tuple[str, int], str] = {}
    events: defaultdict[str, list[str]] = defaultdict(list)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
        for name, version, alias in store.execute("SELECT name, version, alias FROM registered_model_aliases"):
            aliases[name, version].append(alias)
        query = "SELECT name, version, value FROM model_version_tags WHERE key = ?"
        for name, version, state in store.execute(query, [STATE]):
            states[name, version] = state
        query = "SELECT name, value FROM registered_model_tags WHERE substr(key, 1, ?) = ? ORDER BY key"
        for name, value in store.execute(query, (len(HISTORY), HISTORY)):
            events[name].append(value)
        query = (
            "SELECT name, version, creation_time FROM model_versions "
            "WHERE substr(name, 1, ?) = ? AND current_stage != ? ORDER BY name, version DESC"
        )
        for name, version, created in store.execute(query, (len(prefix), prefix, DELETED)):
            listed = ListedVersion(
                model=name.removeprefix(prefix),
                version=str(version),
                created=_minute(created),
                aliases=sorted(aliases[name, version]),
                state=_shown_state(states.get((name, version))),
                despite=_despite(str(version), events[name]),
            )
            versions.append(listed)
    return versions


def _shown_state(tag: str | None) -> str | None:
    """The word in the tag, which people may write by hand."""
    state = (tag or "").strip().casefold()
    return state if state in SHOWN_STATES else None


def _despite(version: str, events: list[str]) -> list[str]:
    """As `ModelState.despite`, from the history's tags, oldest first."""
    despite: list[str] = []
    for text in events:
        try:
            event: Any = json.loads(text)
        except ValueError:  # a person wrote something else there
            continue
        if isinstance(event, dict) and (event.get("event"), event.get("version")) == ("approved", version):
            despite = list(event.get("despite") or ())
    return despite


def _minute(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "minutes")


def _from_mlflow() -> list[ListedVersion]:
    from mlflow import MlflowClient

    from tasks.registry.decide import model_state
    from tasks.registry.server import server_errors
    from tasks.registry.store import configure_tracking
    from tasks.registry.versions import number_of, own_models, versions

    listed = []
    with server_errors():
        configure_tracking()
        client = MlflowClient()
        for model, registered in own_models(client):
            state = model_state(model)
            for entry in versions(client, registered.name):
                version = number_of(entry)
                aliases = sorted(name for name, target in registered.aliases.items() if str(target) == version)
                despite = list(state.despite(version))
                listed.append(
                    ListedVersion(
                        model=model,
                        version=version,
                        created=_minute(entry.creation_timestamp),
                        aliases=aliases,
                        state=_shown_state(entry.tags.get(STATE)),
                        despite=despite,
                    )
                )
    return listed
