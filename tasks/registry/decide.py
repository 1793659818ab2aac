"""Decisions: which version of a model is champion, who decided it and why.

A version has up to three aliases (`challenger`, `champion`, `previous`) and five tags: `threestage.state` (pending,
approved, rejected or superseded), `.by`, `.at`, `.why` and `.despite`, the gates that an approved version did not
pass. The registered model keeps the history, one tag an event, which is only appended to. Nothing else writes them.

A person may also decide in MLflow's pages; the next run carries that out and records it. Each case has one outcome:

- The tag `threestage.state` set to `approved` makes the version champion. If another version became champion since the
  comparison, it waits again, and a review compares it with the new one.
- Set to `rejected` it takes the aliases away. On the champion that is a rollback; without a previous version nobody is
  champion any more. Any other word changes nothing.
- The alias `champion` moved to a version approves it, whatever was decided before.
- The alias `champion` deleted, or its version, is recorded: the model has no champion until one is approved.
- The alias `challenger` moved to a version that was decided or superseded has it reviewed again. It stays there until
  that review, even if `register` makes a newer version.
- A version that is deleted while it waits is withdrawn.

A decision is written to the model's tag `threestage.deciding` first, then carried out, then moved to the history: the
next run completes one that was killed. In one folder a lock keeps writers apart. Between machines that share a server
there is none: of two decisions within a second the later one stands.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from tasks.registry.events import DECIDED, emit
from tasks.registry.history import (
    DECIDING,
    HISTORY,
    JSON,
    REGISTER,
    Event,
    ModelState,
    read_state,
)
from tasks.registry.outcomes import (
    Reason,
    approved_event,
    checked_reason,
    compared_event,
    decided_in_mlflow,
    new_event,
    rejected_event,
    rolled_back_event,
)
from tasks.registry.server import is_missing, server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.superseding import is_requested, untouched
from tasks.registry.versions import (
    AT,
    BY,
    CHALLENGER,
    CHAMPION,
    DESPITE,
    PREVIOUS,
    REJECTED,
    STATE,
    SUPERSEDED,
    WHY,
)
from tasks.stages.lock import exclusive

LOCK = "register"  # the lock of registrations: they, too, move the challenger


@contextmanager
def _errors() -> Generator[None]:
    """Raise UserError if a server goes away, or a version is deleted meanwhile."""
    configure_tracking()
    with server_errors():
        try:
            yield
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise UserError(f"{' '.join(str(error).split())}: it was deleted meanwhile; look again") from error


def model_state(model: str) -> ModelState:
    """The aliases, tags and history of a model; one that was never registered has no versions."""
    with _errors():
        return read_state(model)


def history(model: str) -> list[Event]:
    """The events of a model's versions, deleted ones too, oldest first."""
    return model_state(model).history


def is_open(model: str, *, pending: bool = False) -> bool:
    """Whether a review has something to do: compare a challenger with the present champion, carry out a decision, or
    with `pending` let the gates decide on a challenger."""
    state = model_state(model)
    if state.deciding or decided_in_mlflow(state):
        return True
    if state.challenger is None or state.challenger == state.champion:
        return False
    last = state.last(state.challenger)
    if last is None or last.event != "compared" or last.champion != state.champion:
        return True
    return pending and (bool(last.failed) or not last.unknown)


def settle(model: str) -> list[Event]:
    """Complete an interrupted decision, and carry out decisions made in MLflow. Returns their events, in order."""
    with _errors():
        state = read_state(model)
        if not state.deciding and not decided_in_mlflow(state):  # a registration may hold the lock for minutes
            return []
        with exclusive(LOCK):
            return _settle(model).history[len(state.history) :]


def challenge(model: str, version: str) -> bool:
    """Make a new version the challenger, and supersede the versions that waited before it.

    A version that a person touched is not superseded. Returns False, and moves nothing, if a person made another
    version the challenger and no review has compared it since. The caller holds the lock `register`.
    """
    with _errors():
        state = _settle(model)
        challenger = state.challenger
        waits = challenger and challenger not in (version, state.champion)
        if challenger and waits and is_requested(state, challenger, newer=version):
            return False
        MlflowClient().set_registered_model_alias(state.name, CHALLENGER, version)
        reason = Reason(by=REGISTER, why=f"version {version} is the challenger")
        for waiting in untouched(state, newer=version):
            _decide(state, new_event(state, "superseded", waiting, reason=reason))
        return True


def compared(
    model: str, version: str, champion: str | None, *, failed: Sequence[str] = (), unknown: Sequence[str] = ()
) -> Event:
    """Record that a version was compared with a champion (None: the baseline) and waits for a decision.

    `failed` and `unknown` name the gates that it failed and those that could not be computed. Raises UserError if the
    version is missing, is the champion, was rejected or is superseded, and if the champion is another by now.
    """
    with _deciding(model) as state:
        title = _title(state, version)
        if state.champion == version:
            raise UserError(f"{title} is the champion: there is nothing to decide")
        if state.challenger != version:
            _check_state(state, version, refused=(REJECTED, SUPERSEDED))
        _check_champion(state, version, champion)
        return _decide(state, compared_event(state, version, failed=failed, unknown=unknown))


def approve(model: str, version: str, *, by: str, reason: str, despite_gates: bool = False) -> Event:
    """Make a version the champion; the alias `previous` moves to the one before.

    The history keeps the gates that it failed and those that could not be computed. Raises UserError if the version was
    not compared with the present champion, failed a gate (unless `despite_gates`), was rejected, is the champion or is
    missing, and without a name or a reason.
    """
    with _deciding(model) as state:
        title = _title(state, version)
        checked = checked_reason(by, reason)
        if state.champion == version:
            raise UserError(f"{title} is the champion already")
        _check_state(state, version, refused=(REJECTED,))
        comparison = state.last(version, "compared")
        if comparison is None:
            raise UserError(f"{title} was not compared yet: review it first, or move the alias {CHAMPION} in MLflow")
        _check_champion(state, version, comparison.champion)
        if comparison.failed and not despite_gates:
            gates = ", ".join(comparison.failed)
            raise UserError(f"{title} failed {gates}: --despite-gates approves it all the same, and is recorded")
        return _decide(state, approved_event(state, version, checked))


def reject(model: str, version: str, *, by: str, reason: str) -> Event:
    """Take a version's aliases away.

    Raises UserError if it is the champion or is missing, and without a name or a reason.
    """
    with _deciding(model) as state:
        title = _title(state, version)
        checked = checked_reason(by, reason)
        if state.champion == version:
            raise UserError(f"{title} is the champion and can't be rejected: roll back instead")
        return _decide(state, rejected_event(state, version, checked))


def roll_back(model: str, *, by: str, reason: str, instead_of: str | None = None) -> Event:
    """Make `previous` the champion again, and reject the champion; it may also have been deleted.

    `previous` is then the champion before both. With `instead_of` only that champion is rolled back, so that two people
    roll back once. Raises UserError if there is no previous version.
    """
    with _deciding(model) as state:
        checked = checked_reason(by, reason)
        if instead_of not in (None, state.champion):
            raise UserError(f"{state.name}: the champion is {state.champion or 'gone'}, not {instead_of}; look again")
        leaving = state.champion or _removed(state)
        event = rolled_back_event(state, leaving, checked) if leaving else None
        if event is None or event.champion is None:
            raise UserError(f"{state.name} has no {PREVIOUS} version: move the alias {CHAMPION} in MLflow")
        return _decide(state, event)


@contextmanager
def _deciding(model: str) -> Generator[ModelState]:
    with _errors(), exclusive(LOCK):
        yield _settle(model)


def _settle(model: str) -> ModelState:
    """Carry out all open decisions of a model, and return its state then. The caller holds the lock."""
    while True:
        state = read_state(model)
        event = state.deciding or decided_in_mlflow(state)
        if event is None:
            return state
        if state.deciding and event.moves and event.champion not in (None, *state.tags_of):
            MlflowClient().delete_registered_model_tag(state.name, DECIDING)  # its version was deleted: undo it
        else:
            _decide(state, event)


def _removed(state: ModelState) -> str | None:
    """The champion that a person removed, if nothing was decided about the champion since."""
    return state.last_move.version if state.last_move and state.last_move.event == "removed" else None


def _title(state: ModelState, version: str) -> str:
    """The version's name for people. Raises UserError if there is no such version."""
    if not state.tags_of:
        raise UserError(f"{state.name} has no version yet: `make run` makes one")
    if version not in state.state_of:
        there = ", ".join(state.state_of)
        raise UserError(f"{state.name} version {version} is not there, or not any more; there are: {there}")
    return f"{state.name} version {version}"


def _check_state(state: ModelState, version: str, refused: Sequence[str]) -> None:
    word = state.state_of[version]
    if word in refused:
        last = state.last(version)
        by = f" by {last.by} ({last.why})" if last else ""
        way_out = f"to change that, move the alias {CHALLENGER} to it in MLflow and review it again"
        raise UserError(f"{state.name} version {version} was {word}{by}; {way_out}")


def _check_champion(state: ModelState, version: str, champion: str | None) -> None:
    if state.champion != champion:
        was = f"{state.name} version {version} was compared with champion {champion or 'none'}"
        raise UserError(f"{was}, and it is {state.champion or 'none'} now: review it again")


def _decide(state: ModelState, event: Event) -> Event:
    MlflowClient().set_registered_model_tag(state.name, DECIDING, JSON.dump_json(event).decode())
    return _carry_out(state, event)


def _carry_out(state: ModelState, event: Event) -> Event:
    """Move the aliases, write the tags, and append to the history. Doing it again changes nothing."""
    client = MlflowClient()
    _move_aliases(client, state, event)
    if event.event == "approved":
        _tag_gates(client, state.name, event)
    for version in event.states.keys() & state.tags_of.keys():
        tags = {STATE: event.states[version], BY: event.by, AT: event.at, WHY: event.why}
        for tag, text in tags.items():
            client.set_model_version_tag(name=state.name, version=version, key=tag, value=text)
    key = f"{HISTORY}{event.at}.{event.version}"
    client.set_registered_model_tag(state.name, key, JSON.dump_json(event).decode())
    client.delete_registered_model_tag(state.name, DECIDING)
    if event.event not in ("compared", "superseded"):
        details = {"outcome": event.outcome, "by": event.by, "reason": event.why}
        emit(DECIDED, state.name, event.version, **details)
    return event


def _tag_gates(client: MlflowClient, name: str, event: Event) -> None:
    """Tag an approved version with the gates that it did not pass, for those who see no history."""
    if event.despite:
        gates = ", ".join(event.despite)
        client.set_model_version_tag(name=name, version=event.version, key=DESPITE, value=gates)
    else:
        client.delete_model_version_tag(name=name, version=event.version, key=DESPITE)


def _move_aliases(client: MlflowClient, state: ModelState, event: Event) -> None:
    """Give the aliases to the versions that an event names."""

    def move(alias: str, version: str | None) -> None:
        if version in state.tags_of:
            client.set_registered_model_alias(state.name, alias, version)
        else:
            client.delete_registered_model_alias(state.name, alias)

    if event.event in ("approved", "rolled back"):
        move(CHAMPION, event.champion)
    if event.event in ("approved", "rolled back", "rejected"):
        move(PREVIOUS, event.previous)
        challenger = client.get_registered_model(state.name).aliases.get(CHALLENGER)  # a newer one may have it by now
        if str(challenger) in event.states:
            client.delete_registered_model_alias(state.name, CHALLENGER)
