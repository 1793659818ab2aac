"""Decisions: which version of a model is champion, who decided it and why.

Three aliases say what is served: `challenger`, `champion` and `previous`. Tags of a version keep the decision: its
state (pending, approved or rejected), who, when and why, and the gates that it had not passed. A person may also move
the alias `champion` in MLflow's pages: the next run or review writes the tags of that.

In one folder a lock keeps deciders apart. Between machines that share a server there is none: of two decisions about a
version the later one stands, and its reason names the one before.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from tasks.registry.store import configure_tracking, is_missing, server_errors
from tasks.registry.versions import (
    AGAINST,
    APPROVED,
    AT,
    BASELINE,
    BY,
    CHALLENGER,
    CHAMPION,
    GATES,
    HAD_CHAMPION,
    PENDING,
    PREVIOUS,
    REJECTED,
    STATE,
    UNKNOWN,
    WHY,
    number_of,
    registered_model,
    registered_name,
    versions,
)
from tasks.stages.lock import exclusive
from tasks.stages.names import model_names

LOCK = "register"
"""The lock of registrations: they, too, move the challenger."""
Decision = Literal["approve", "reject", "rollback"]
IN_MLFLOW = "somebody in MLflow"
BY_LENGTH, WHY_LENGTH = 200, 1000  # characters


@dataclass(frozen=True)
class ModelState:
    """The aliases and versions of a model, read at one time."""

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The version of each alias."""
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The tags of each version, the newest first."""

    @property
    def champion(self) -> str | None:
        """The version that is served."""
        return self.aliases.get(CHAMPION)

    @property
    def challenger(self) -> str | None:
        """The version that waits for a decision; None if it is the champion."""
        challenger = self.aliases.get(CHALLENGER)
        return None if challenger == self.champion else challenger

    def state_of(self, version: str) -> str:
        """Pending, approved or rejected."""
        return self.tags[version].get(STATE, PENDING)

    def decision(self, version: str) -> str:
        """The decision about a version in words; empty if there is none."""
        tags = self.tags.get(version, {})
        if AT not in tags or self.state_of(version) == PENDING:
            return ""
        despite = f" despite {tags[GATES]}" if tags.get(GATES) and tags[STATE] == APPROVED else ""
        return f"version {version} {tags[STATE]}{despite} by {tags.get(BY)}, {tags[AT]}: {tags.get(WHY)}"

    def usable_champion(self, *without: str | None) -> str | None:
        """The version that was approved last, except these."""
        approved = [version for version in self.tags if self.state_of(version) == APPROVED and version not in without]
        return max(approved, key=lambda version: self.tags[version].get(AT, ""), default=None)


def read_state(model: str) -> ModelState:
    """The state of a model; one that was never registered has no versions."""
    name = registered_name(model)
    registered = registered_model(name)
    if registered is None:
        return ModelState(name)
    tags = {number_of(version): dict(version.tags) for version in versions(MlflowClient(), name)}
    aliases = {alias: str(version) for alias, version in registered.aliases.items()}
    return ModelState(
        name=name, aliases={alias: version for alias, version in aliases.items() if version in tags}, tags=tags
    )


def model_state(model: str) -> ModelState:
    """The same, after what a person did in MLflow's pages is written down."""
    with _deciding(model) as state:
        return state


def carry_out(
    decision: Decision, model: str, version: str = "", *, by: str, reason: str, despite_gates: bool = False
) -> tuple[str, str]:
    """Carry out a person's decision: by default on the challenger, or for a rollback on the champion.

    Returns the version and the decision in words. Raises UserError for an unknown model, if no version waits, and if
    the decision is not possible.
    """
    names = model_names()
    if model not in names:
        raise UserError(f"there is no model {model!r}; those are: {', '.join(names)}")
    state = model_state(model)
    if decision == "rollback":
        champion = version or state.champion
        return champion or "", roll_back(model, by=by, reason=reason, champion=champion)
    version = version or state.challenger or ""
    if not version:
        raise UserError(f"{model}: no version waits for a decision; name one as {model}/VERSION")
    if decision == "approve":
        return version, approve(model, version, by=by, reason=reason, despite_gates=despite_gates)
    return version, reject(model, version, by=by, reason=reason)


def challenge(model: str, version: str) -> None:
    """Make a new version the challenger. The caller holds the lock."""
    client = MlflowClient()
    name = registered_name(model)
    client.set_registered_model_alias(name, CHALLENGER, version)
    client.set_model_version_tag(name, version, key=STATE, value=PENDING)


def approve(model: str, version: str, *, by: str, reason: str, despite_gates: bool = False) -> str:
    """Make a version the champion, and the champion before `previous`. Returns the decision in words.

    Raises UserError if the version was not compared with the present champion, did not pass a gate (unless
    `despite_gates`), is the champion or is missing, and without a name or a reason.
    """
    with _deciding(model) as state:
        _check_is_there(state, version)
        if state.champion == version:
            raise UserError(f"{state.name} version {version} is the champion already")
        against = state.tags[version].get(AGAINST)
        if against is None:
            raise UserError(f"{state.name} version {version} was not compared yet: run `threestage review {model}`")
        if against != (state.champion or BASELINE):
            now = state.decision(state.champion) if state.champion else "there is no champion"
            was = f"{state.name} version {version} was compared with {against}"
            raise UserError(f"{was}, and now {now}: run `threestage review {model}`")
        failed = [
            gate for gate in state.tags[version].get(GATES, "").split("; ") if gate and not gate.endswith(UNKNOWN)
        ]
        if failed and not despite_gates:
            way_out = "--despite-gates approves it all the same, and its tags say so"
            raise UserError(f"{state.name} version {version} failed {'; '.join(failed)}: {way_out}")
        _tag(state, version, APPROVED, by=by, reason=reason)
        return _promote(model, state, version)


def reject(model: str, version: str, *, by: str, reason: str) -> str:
    """Take a version's aliases away. Returns the decision in words.

    Raises UserError if it is the champion or is missing, and without a name or a reason.
    """
    with _deciding(model) as state:
        _check_is_there(state, version)
        if state.champion == version:
            raise UserError(f"{state.name} version {version} is the champion and can't be rejected: roll back instead")
        _tag(state, version, REJECTED, by=by, reason=reason)
        client = MlflowClient()
        if state.aliases.get(CHALLENGER) == version:
            client.delete_registered_model_alias(state.name, CHALLENGER)
        if state.aliases.get(PREVIOUS) == version:
            _move(state.name, PREVIOUS, state.usable_champion(version, state.champion))
        return read_state(model).decision(version)


def roll_back(model: str, *, by: str, reason: str, champion: str | None = None) -> str:
    """Make `previous` the champion again, and reject the champion. Returns the decision in words.

    With `champion` only that one is rolled back, so that two people roll back once. Raises UserError if there is no
    previous version, and without a name or a reason.
    """
    with _deciding(model) as state:
        if champion not in (None, state.champion):
            now = state.champion or "gone"
            raise UserError(f"{state.name}: the champion is {now}, not {champion}; look again")
        previous = state.aliases.get(PREVIOUS)
        if previous is None:
            raise UserError(f"{state.name} has no {PREVIOUS} version: move the alias {CHAMPION} in MLflow")
        _check_words(by, reason)
        _move(state.name, CHAMPION, previous)  # first, so that what is rejected below is no champion
        _move(state.name, PREVIOUS, state.usable_champion(previous, state.champion))
        if state.champion:
            _tag(state, state.champion, REJECTED, by=by, reason=reason)
        return f"rolled back to version {previous}; {read_state(model).decision(state.champion or previous)}"


@contextmanager
def _deciding(model: str) -> Generator[ModelState]:
    """The state of a model, for a decision. Raises UserError if a server goes away, or a version is deleted."""
    configure_tracking()
    with server_errors(), exclusive(LOCK):
        try:
            yield _settled(model)
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise UserError(f"{' '.join(str(error).split())}: it was deleted meanwhile; look again") from error


def _settled(model: str) -> ModelState:
    """The state of a model, once the tags say what a person did with its aliases in MLflow's pages."""
    state = read_state(model)
    champion = state.champion
    if champion is None or (state.state_of(champion) == APPROVED and state.aliases.get(PREVIOUS) != champion):
        return state
    if state.state_of(champion) != APPROVED:
        no_words: dict[str, str] = {}
        words = no_words if AT in state.tags[champion] else state.tags[champion]  # a time is of another decision
        reason = words.get(WHY) or f"alias {CHAMPION} moved to it"
        by = words.get(BY) or IN_MLFLOW
        _tag(state, champion, APPROVED, by=by[:BY_LENGTH], reason=reason[:WHY_LENGTH])
    _promote(model, state, champion)
    return read_state(model)


def _promote(model: str, state: ModelState, version: str) -> str:
    """Move the aliases to a version that its tags approve; doing it again changes nothing."""
    client = MlflowClient()
    client.set_registered_model_tag(state.name, HAD_CHAMPION, "true")
    before = state.champion if state.champion != version else state.usable_champion(version)
    _move(state.name, PREVIOUS, before)
    _move(state.name, CHAMPION, version)
    if state.aliases.get(CHALLENGER) == version:
        client.delete_registered_model_alias(state.name, CHALLENGER)
    return read_state(model).decision(version)


def _move(name: str, alias: str, version: str | None) -> None:
    if version:
        MlflowClient().set_registered_model_alias(name, alias, version)
    else:
        MlflowClient().delete_registered_model_alias(name, alias)


def _tag(state: ModelState, version: str, word: str, *, by: str, reason: str) -> None:
    """Write a decision to a version's tags; the reason names the decision before."""
    _check_words(by, reason)
    before = state.decision(version)
    if before and len(reason) + len(before) < WHY_LENGTH:
        reason = f"{reason} (before: {before})"
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    tags = {BY: _one_line(by), AT: at, WHY: _one_line(reason), STATE: word}
    for tag, text in tags.items():
        MlflowClient().set_model_version_tag(state.name, version, key=tag, value=text)


def _check_words(by: str, reason: str) -> None:
    """Raise UserError without a name or a reason, and for one that is too long."""
    for text, what, longest in ((by, "the name of who decides", BY_LENGTH), (reason, "a reason", WHY_LENGTH)):
        if not 0 < len(_one_line(text)) <= longest:
            raise UserError(f"a decision needs {what}, of up to {longest} characters, for those who ask later")


def _one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


def _check_is_there(state: ModelState, version: str) -> None:
    """Raise UserError if a model has no such version."""
    if not state.tags:
        raise UserError(f"{state.name} has no version yet: `make run` makes one")
    if version not in state.tags:
        raise UserError(f"{state.name} has no version {version}; there are: {', '.join(state.tags)}")
