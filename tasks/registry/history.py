"""The state of a model in the registry, and the history of its versions.

The history is kept in tags of the registered model, one tag an event, and is only appended to.
"""

from dataclasses import dataclass, field
from typing import Literal

from mlflow import MlflowClient
from pydantic import TypeAdapter, ValidationError

from tasks.registry.server import if_there
from tasks.registry.versions import (
    APPROVED,
    CHALLENGER,
    CHAMPION,
    PENDING,
    PREVIOUS,
    REJECTED,
    registered_name,
    state_of,
    versions,
)
from tasks.stages.hashes import PREFIX

HISTORY, DECIDING = f"{PREFIX}.history.", f"{PREFIX}.deciding"


@dataclass(frozen=True)
class Event:
    """An entry of a model's history."""

    event: Literal["compared", "approved", "rejected", "rolled back", "withdrawn"]
    version: str
    """For `rolled back`, the champion before."""
    by: str
    at: str
    """ISO 8601, UTC."""
    why: str
    champion: str | None
    """The champion after the event; for `compared`, the one that the version was compared with."""
    previous: str | None
    """After it."""
    failed: tuple[str, ...] = ()
    """The gates that a compared version failed."""
    unknown: tuple[str, ...] = ()
    """The gates that could not be computed."""
    despite: tuple[str, ...] = ()
    """The gates that the version had failed when it was approved, and those marked `(not known)`."""

    @property
    def moves(self) -> bool:
        """Whether it made a champion."""
        return self.event in ("approved", "rolled back")

    @property
    def states(self) -> dict[str, str]:
        """The state of each version that it changed."""
        if self.event == "rolled back":
            return {self.version: REJECTED} | ({self.champion: APPROVED} if self.champion else {})
        state = {"compared": PENDING, "approved": APPROVED, "rejected": REJECTED}.get(self.event)
        return {self.version: state} if state else {}

    @property
    def outcome(self) -> str:
        """Such as `approved despite f1` or `rolled back to version 2`."""
        if self.event == "compared":
            return f"compared with {f'champion {self.champion}' if self.champion else 'the baseline'}"
        if self.event == "rolled back":
            return f"rolled back to {f'version {self.champion}' if self.champion else 'no champion'}"
        return f"{self.event} despite {', '.join(self.despite)}" if self.despite else self.event

    def __str__(self) -> str:
        return f"version {self.version} {self.outcome} by {self.by}, {self.at}: {self.why}"


JSON = TypeAdapter(Event)


@dataclass(frozen=True)
class ModelState:
    """The aliases, tags and history of a model, read at one time."""

    name: str
    champion: str | None = None
    previous: str | None = None
    challenger: str | None = None
    state_of: dict[str, str | None] = field(default_factory=dict)
    """The state in each version's tag, newest first; None without one."""
    tags_of: dict[str, dict[str, str]] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    """Oldest first."""
    deciding: Event | None = None
    """A decision that is not complete."""

    @property
    def last_move(self) -> Event | None:
        """The last event that made a champion."""
        return next((each for each in reversed(self.history) if each.moves), None)

    def last(self, version: str, event: str = "") -> Event | None:
        """The last event of a version, or the last of this kind."""
        events = (each for each in reversed(self.history) if version in (each.version, *each.states))
        return next((each for each in events if event in ("", each.event)), None)

    def despite(self, version: str) -> tuple[str, ...]:
        """The gates despite which a version was approved: those that it failed, and those marked `(not known)`."""
        approved = self.last(version, "approved")
        return approved.despite if approved else ()

    def recorded(self, version: str) -> str | None:
        """The state that the history gives a version."""
        return last.states.get(version) if (last := self.last(version)) else None

    def waits(self, version: str) -> bool:
        """Whether a version waits for a person, or for a run that carries out a decision made in MLflow."""
        state = self.state_of[version]
        return state == PENDING or state not in (None, self.recorded(version))


def read_state(model: str) -> ModelState:
    """The state of a model in the registry; a model that was never registered has no versions."""
    name = registered_name(model)
    if (registered := if_there(lambda: MlflowClient().get_registered_model(name))) is None:
        return ModelState(name)
    there = {str(each.version): each for each in versions(MlflowClient(), name)}
    aliases = (str(registered.aliases.get(alias)) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
    events = (_parse(registered.tags[key]) for key in sorted(registered.tags) if key.startswith(HISTORY))
    return ModelState(
        name,
        *(version if version in there else None for version in aliases),
        {version: state_of(each) for version, each in there.items()},
        {version: dict(each.tags) for version, each in there.items()},
        [*filter(None, events)],
        _parse(registered.tags.get(DECIDING, "")),
    )


def _parse(text: str) -> Event | None:
    """An event from its tag; None if a person wrote something else there."""
    try:
        return JSON.validate_json(text)
    except ValidationError:
        return None
