"""Where a model stands: its champion, what was said of each version, and what was decided.

The state is in the registry alone, in aliases and tags, and a person may change it in MLflow's own pages: that counts
as said. decisions.py carries it out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from llm.errors import UserError
from tasks.registry.listing import versions
from tasks.registry.register import CHALLENGER, REJECTED, REVIEW, registered_name
from tasks.registry.server import if_there, is_missing, server_errors
from tasks.registry.tracking import configure_tracking
from tasks.stages.hashes import PREFIX

CHAMPION, PREVIOUS = "champion", "previous"
BY, AT, REASON, PAGE = (f"{REVIEW}.{name}" for name in ("by", "at", "reason", "page"))
INSTEAD_OF = f"{REVIEW}.instead_of"  # the champion that the version was compared with, or NONE
DECISION = f"{PREFIX}.decision"  # on a version, the last one that was carried out; on the model, one tag each
PENDING, APPROVED = "pending", "approved"
NONE = "none"
IN_MLFLOW = "somebody in MLflow"


@dataclass(frozen=True)
class Decision:
    """A decision that was carried out."""

    decision: Literal["approved", "rejected", "rolled back", "withdrawn"]
    version: str
    """What was decided on: for `rolled back`, the champion that went."""
    by: str
    at: str
    """ISO 8601, UTC."""
    reason: str
    champion: str | None
    """After it."""
    previous: str | None
    """After it."""

    @property
    def outcome(self) -> str:
        """What came of it, such as `rolled back to version 2`."""
        return f"{self.decision} to version {self.champion}" if self.decision == "rolled back" else self.decision

    def __str__(self) -> str:
        return f"version {self.version} {self.outcome} by {self.by}, {self.at}: {self.reason}"


TEXT = TypeAdapter(Decision)


@dataclass(frozen=True)
class Standing:
    """The versions of a model that have an alias, and the state of every version, newest first; None: not reviewed."""

    model: str
    champion: str | None
    previous: str | None
    challenger: str | None
    state_of: dict[str, str | None]


@dataclass(frozen=True)
class Said:
    """What was said of a version, by the commands or by hand; `done` when it was carried out.

    `withdrawn`: the version was deleted. `unclear`: the tag holds something else, which `reason` names.
    """

    decision: Literal["approved", "rejected", "withdrawn", "unclear"]
    by: str
    reason: str
    done: bool


@dataclass(frozen=True)
class Registry:
    """What the registry holds of a model, as of one reading."""

    name: str
    there: bool
    aliases: dict[str, str]
    tags_of: dict[str, dict[str, str]]
    """By version, newest first."""
    history: dict[str, Decision]
    """By the model's tag that holds it, oldest first."""

    def state(self, version: str) -> str | None:
        """The word that a version's tag says."""
        return " ".join(self.tags_of[version].get(REVIEW, "").split()).casefold() or None

    def recorded(self, version: str) -> Decision | None:
        """The last decision on a version that was carried out."""
        return _decision(self.tags_of[version].get(DECISION, ""))

    @property
    def last(self) -> Decision | None:
        return next(reversed(self.history.values()), None)

    def titled(self, version: str) -> str:
        return f"{self.name} version {version}"


def _decision(text: str) -> Decision | None:
    try:
        return TEXT.validate_json(text)
    except ValidationError:
        return None


def number_of(key: str) -> int:
    """Of a decision's tag, such as `threestage.decision.0007.3` on version 3; 0 of any other tag."""
    number = key.removeprefix(f"{DECISION}.").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def read_registry(model: str) -> Registry:
    client, name = MlflowClient(), registered_name(model)
    if (found := if_there(lambda: client.get_registered_model(name))) is None:
        return Registry(name, False, {}, {}, {})
    tags_of = {str(each.version): dict(each.tags) for each in versions(client, name)}
    aliases = {alias: str(version) for alias, version in found.aliases.items() if str(version) in tags_of}
    decisions = ((key, _decision(found.tags[key])) for key in sorted(found.tags, key=number_of))
    history = {key: decision for key, decision in decisions if decision and key.startswith(f"{DECISION}.")}
    return Registry(name, True, aliases, tags_of, history)


@contextmanager
def registry_errors() -> Iterator[None]:
    """Say in a line what is raised where a server goes away, or a version does meanwhile."""
    with server_errors():
        try:
            yield
        except MlflowException as error:
            if not is_missing(error):
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{reason}: it was deleted meanwhile; look again at what is there") from error


def standing(model: str) -> Standing:
    """Where a model stands; one that was never registered has no versions."""
    configure_tracking()
    with registry_errors():
        registry = read_registry(model)
    champion, previous, challenger = (registry.aliases.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
    return Standing(model, champion, previous, challenger, {each: registry.state(each) for each in registry.tags_of})


def history(model: str) -> list[Decision]:
    """The last decisions on a model's versions, also on those that are deleted by now, oldest first."""
    configure_tracking()
    with registry_errors():
        return list(read_registry(model).history.values())


def said(model: str, version: str) -> Said | None:
    """What was said of a version; None while it is pending, or nobody reviewed it."""
    configure_tracking()
    with registry_errors():
        return said_of(read_registry(model), version)


def said_of(registry: Registry, version: str) -> Said | None:
    if version not in registry.tags_of:
        ended = any(each.decision == "withdrawn" and each.version == version for each in registry.history.values())
        return Said("withdrawn", IN_MLFLOW, "deleted in the registry", ended or not registry.there)
    tags, word, recorded = registry.tags_of[version], registry.state(version), registry.recorded(version)
    last = registry.last
    before = REJECTED if recorded and recorded.decision == "rolled back" else recorded and recorded.decision
    if word in (APPROVED, REJECTED) and word != before:  # the tag, by hand
        by, reason = one_line(tags.get(BY, "")), one_line(tags.get(REASON, ""))
        if recorded and recorded.at == tags.get(AT):  # what is unchanged is of the earlier decision
            by = by if by != recorded.by else ""
            reason = reason if reason != recorded.reason else ""
        return Said(word, by or IN_MLFLOW, reason or f"tag {REVIEW} set to {word}", False)
    if registry.aliases.get(CHAMPION) == version and (last is None or last.champion != version):
        return Said("approved", IN_MLFLOW, f"alias {CHAMPION} moved to it", False)
    if word in (APPROVED, REJECTED):
        return Said(word, recorded.by, recorded.reason, True)
    if word in (None, PENDING):
        return None
    wrong = f"tag {REVIEW} is '{word}', not one of {PENDING}, {APPROVED}, {REJECTED}"
    return Said("unclear", IN_MLFLOW, wrong, False)


def is_open(model: str, *, pending: bool = False) -> bool:
    """Whether a review has something to do: a challenger that was not compared with the champion of now, or a word that
    a person said by hand and nobody carried out.

    With `pending` also a challenger that was compared and waits for a decision.
    """
    configure_tracking()
    with registry_errors():
        registry = read_registry(model)
    found = (said_of(registry, version) for version in registry.tags_of)
    if any(each and not each.done and each.decision != "unclear" for each in found):
        return True
    challenger, champion = (registry.aliases.get(alias) for alias in (CHALLENGER, CHAMPION))
    if challenger in (None, champion):
        return False
    state, compared = registry.state(challenger), registry.tags_of[challenger].get(INSTEAD_OF)
    return state is None or (state == PENDING and (pending or compared != (champion or NONE)))


def one_line(text: str) -> str:
    """In one line of printable characters."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())
