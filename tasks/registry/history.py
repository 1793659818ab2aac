"""The state of a model in the registry, and the history of its versions.

The history is kept in tags of the registered model, one tag an event, and is only appended to.
"""

from dataclasses import dataclass, field
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from pydantic import TypeAdapter, ValidationError

from tasks.registry.versions import (
    APPROVED,
    CHALLENGER,
    CHAMPION,
    PENDING,
    PREVIOUS,
    REJECTED,
    SUPERSEDED,
    number_of,
    registered_model,
    registered_name,
    state_of,
    versions,
)
from tasks.stages.hashes import PREFIX

HISTORY, DECIDING = f"{PREFIX}.history.", f"{PREFIX}.deciding"
REGISTER, REVIEW, GATES, IN_MLFLOW = "register", "review", "gates", "somebody in MLflow"
"""The names recorded for a newer challenger, a comparison, a decision by the gates, and one in MLflow without a
name."""
STATES = {"compared": PENDING, "approved": APPROVED, "rejected": REJECTED, "superseded": SUPERSEDED}
"""The state of a version after an event about it."""

EventKind = Literal["compared", "approved", "rejected", "rolled back", "superseded", "withdrawn", "removed"]


@dataclass(frozen=True)
class Event:
    """An entry of a model's history."""

    event: EventKind
    version: str
    """For `rolled back` and `removed`, the champion before."""
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
        """Whether the champion after it is another one, or none."""
        return self.event in ("approved", "rolled back", "removed")

    @property
    def states(self) -> dict[str, str]:
        """The state of each version that it changed."""
        if self.event == "rolled back":
            states = {self.version: REJECTED}
            if self.champion:
                states[self.champion] = APPROVED
            return states
        state = STATES.get(self.event)
        return {self.version: state} if state else {}

    @property
    def outcome(self) -> str:
        """Such as `approved despite f1` or `rolled back to version 2`."""
        if self.event == "compared":
            return f"compared with {f'champion {self.champion}' if self.champion else 'the baseline'}"
        if self.event == "rolled back":
            return f"rolled back to {f'version {self.champion}' if self.champion else 'no champion'}"
        if self.event == "removed":
            return "removed as champion"
        return f"{self.event} despite {', '.join(self.despite)}" if self.despite else self.event

    def __str__(self) -> str:
        return f"version {self.version} {self.outcome} by {self.by}, {self.at}: {self.why}"


JSON = TypeAdapter(Event)


@dataclass(frozen=True)
class ModelState:
    """The aliases, tags and history of a model, read at one time."""

    name: str
    aliases: dict[str, str] = field(default_factory=dict)
    """The version of each alias; those of deleted versions are left out."""
    state_of: dict[str, str | None] = field(default_factory=dict)
    """The state in each version's tag, newest first; None without one."""
    tags_of: dict[str, dict[str, str]] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    """Oldest first."""
    deciding: Event | None = None
    """A decision that is not complete."""

    @property
    def champion(self) -> str | None:
        return self.aliases.get(CHAMPION)

    @property
    def previous(self) -> str | None:
        return self.aliases.get(PREVIOUS)

    @property
    def challenger(self) -> str | None:
        return self.aliases.get(CHALLENGER)

    @property
    def last_move(self) -> Event | None:
        """The last event that changed the champion."""
        return next((event for event in reversed(self.history) if event.moves), None)

    def events(self, version: str) -> list[Event]:
        """The events that gave a version its state, or withdrew it, the newest first."""
        return [
            event
            for event in reversed(self.history)
            if version in (event.version, *event.states) and event.event != "removed"
        ]

    def last(self, version: str, kind: str = "") -> Event | None:
        """The last of these events, or the last of one kind."""
        return next((event for event in self.events(version) if kind in ("", event.event)), None)

    def despite(self, version: str) -> tuple[str, ...]:
        """The gates despite which a version was approved: those that it failed, and those marked `(not known)`."""
        approved = self.last(version, "approved")
        return approved.despite if approved else ()

    def recorded(self, version: str) -> str | None:
        """The state that the history gives a version."""
        last = self.last(version)
        return last.states.get(version) if last else None

    def waits(self, version: str) -> bool:
        """Whether a version waits for a person, or for a run that carries out a decision made in MLflow."""
        state = self.state_of[version]
        return state == PENDING or state not in (None, self.recorded(version))


def read_state(model: str) -> ModelState:
    """The state of a model in the registry; a model that was never registered has no versions."""
    name = registered_name(model)
    registered = registered_model(name)
    if registered is None:
        return ModelState(name)
    present = {number_of(version): version for version in versions(MlflowClient(), name)}
    aliases = {alias: str(version) for alias, version in registered.aliases.items()}
    return ModelState(
        name=name,
        aliases={alias: version for alias, version in aliases.items() if version in present},
        state_of={number: state_of(version) for number, version in present.items()},
        tags_of={number: dict(version.tags) for number, version in present.items()},
        history=_history(registered),
        deciding=_parse(registered.tags.get(DECIDING, "")),
    )


def had_champion(registered: RegisteredModel) -> bool:
    """Whether the history of a model names a champion, the present one or an earlier one."""
    return any(event.moves and event.champion for event in _history(registered))


def _history(registered: RegisteredModel) -> list[Event]:
    keys = sorted(key for key in registered.tags if key.startswith(HISTORY))
    events = [_parse(registered.tags[key]) for key in keys]
    return [event for event in events if event]


def _parse(text: str) -> Event | None:
    """An event from its tag; None if a person wrote something else there."""
    try:
        return JSON.validate_json(text)
    except ValidationError:
        return None
