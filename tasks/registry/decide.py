"""Decisions: which version of a model is champion, who decided it and why.

A version has up to three aliases (`challenger`, `champion`, `previous`) and four tags: `threestage.state` (pending,
approved, rejected or superseded), `.by`, `.at` and `.why`. The registered model keeps the history, one tag an event,
which is only appended to. Nothing else writes them.

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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from tasks.registry.card import note_gates
from tasks.registry.events import DECIDED, emit
from tasks.registry.history import (
    DECIDING,
    GATES,
    HISTORY,
    IN_MLFLOW,
    JSON,
    REGISTER,
    REVIEW,
    Event,
    ModelState,
    read_state,
)
from tasks.registry.server import is_missing, server_errors
from tasks.registry.superseding import is_requested, untouched
from tasks.registry.tracking import configure_tracking
from tasks.registry.versions import (
    APPROVED,
    AT,
    BY,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REJECTED,
    STATE,
    SUPERSEDED,
    WHY,
)
from tasks.stages.lock import exclusive

BY_LENGTH, WHY_LENGTH = 200, 1000  # characters; PostgreSQL keeps 5000 of a model's tag


@contextmanager
def _errors() -> Iterator[None]:
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
    with _errors():
        now = read_state(model)
        if now.deciding or _by_hand(now):
            return True
    if now.challenger in (None, now.champion):
        return False
    last = now.last(now.challenger)
    if last is None or last.event != "compared" or last.champion != now.champion:
        return True
    return pending and (bool(last.failed) or not last.unknown)


def settle(model: str) -> list[Event]:
    """Complete an interrupted decision, and carry out decisions made in MLflow. Returns their events, in order."""
    with _errors():
        now = read_state(model)
        if not now.deciding and not _by_hand(now):  # a registration may hold the lock for minutes
            return []
        with exclusive("register"):
            return _settled(model)[1]


def challenge(model: str, version: str) -> bool:
    """Make a new version the challenger, and supersede the versions that waited before it.

    A version that a person touched is not superseded. Returns False, and moves nothing, if a person made another
    version the challenger and no review has compared it since. The caller holds the lock `register`.
    """
    with _errors():
        now, _ = _settled(model)
        if now.challenger not in (None, version, now.champion) and is_requested(now, now.challenger, version):
            return False
        MlflowClient().set_registered_model_alias(now.name, CHALLENGER, version)
        for waiting in untouched(now, version):
            _decide(now, _event(now, "superseded", waiting, REGISTER, f"version {version} is the challenger"))
        return True


def compared(
    model: str, version: str, champion: str | None, failed: Sequence[str], unknown: Sequence[str] = ()
) -> Event:
    """Record that a version was compared with a champion (None: the baseline) and waits for a decision.

    Raises UserError if the version is missing, is the champion, was rejected or is superseded, and if the champion is
    another by now.
    """
    with _deciding(model) as now:
        title = _title(now, version)
        if now.champion == version:
            raise UserError(f"{title} is the champion: there is nothing to decide")
        if now.challenger != version:
            _check_state(now, version, REJECTED, SUPERSEDED)
        _check_champion(now, version, champion)
        lists = [f"{what}: {', '.join(gates)}" for what, gates in (("failed", failed), ("not known", unknown)) if gates]
        why = "; ".join(lists) or "all gates passed"
        return _decide(now, _event(now, "compared", version, REVIEW, why, failed=(*failed,), unknown=(*unknown,)))


def approve(model: str, version: str, by: str, reason: str, despite_gates: bool = False) -> Event:
    """Make a version the champion; the alias `previous` moves to the one before.

    The history keeps the gates that it failed and those that could not be computed. Raises UserError if the version was
    not compared with the present champion, failed a gate (unless `despite_gates`), was rejected, is the champion or is
    missing, and without a name or a reason.
    """
    with _deciding(model) as now:
        title, (by, reason) = _title(now, version), _check_texts(by, reason)
        if now.champion == version:
            raise UserError(f"{title} is the champion already")
        _check_state(now, version, REJECTED)
        if (comparison := now.last(version, "compared")) is None:
            raise UserError(f"{title} was not compared yet: review it first, or move the alias {CHAMPION} in MLflow")
        _check_champion(now, version, comparison.champion)
        if comparison.failed and not despite_gates:
            gates = ", ".join(comparison.failed)
            raise UserError(f"{title} failed {gates}: --despite-gates approves it all the same, and is recorded")
        return _decide(now, _approved(now, version, by, reason))


def reject(model: str, version: str, by: str, reason: str) -> Event:
    """Take a version's aliases away.

    Raises UserError if it is the champion or is missing, and without a name or a reason.
    """
    with _deciding(model) as now:
        title, (by, reason) = _title(now, version), _check_texts(by, reason)
        if now.champion == version:
            raise UserError(f"{title} is the champion and can't be rejected: roll back instead")
        return _decide(now, _rejected(now, version, by, reason))


def roll_back(model: str, by: str, reason: str, instead_of: str | None = None) -> Event:
    """Make `previous` the champion again, and reject the champion; it may also have been deleted.

    `previous` is then the champion before both. With `instead_of` only that champion is rolled back, so that two people
    roll back once. Raises UserError if there is no previous version.
    """
    with _deciding(model) as now:
        by, reason = _check_texts(by, reason)
        if instead_of not in (None, now.champion):
            raise UserError(f"{now.name}: the champion is {now.champion or 'gone'}, not {instead_of}; look again")
        leaving = now.champion or _removed(now)
        if leaving is None or (event := _rolled_back(now, leaving, by, reason)).champion is None:
            raise UserError(f"{now.name} has no {PREVIOUS} version: move the alias {CHAMPION} in MLflow")
        return _decide(now, event)


def check_name(name: str) -> str:
    """The name of a person who decides. Raises UserError if it is not one short line of text, or is a program's."""
    if not (name := name.strip()).isprintable() or not 0 < len(name) <= BY_LENGTH:
        raise UserError(f"{name[:BY_LENGTH]!r}: the name of who decides is one line of up to {BY_LENGTH} characters")
    if name.casefold() in (REGISTER, REVIEW, GATES, IN_MLFLOW.casefold()):
        raise UserError(f"{name!r} is no person's name: threestage itself decides under it")
    return name


@contextmanager
def _deciding(model: str) -> Iterator[ModelState]:
    with _errors(), exclusive("register"):  # the same lock as register: both move the challenger
        yield _settled(model)[0]


def _settled(model: str) -> tuple[ModelState, list[Event]]:
    done: list[Event] = []
    while True:
        now = read_state(model)
        if (event := now.deciding) and event.moves and event.champion not in (None, *now.tags_of):
            MlflowClient().delete_registered_model_tag(now.name, DECIDING)  # its version was deleted: undo it
        elif event:
            done.append(_carry_out(now, event))
        elif event := _by_hand(now):
            done.append(_decide(now, event))
        else:
            return now, done


def _by_hand(now: ModelState) -> Event | None:
    """The first decision made in MLflow that the history lacks; the module's docstring lists the cases."""
    recorded = now.last_move.champion if now.last_move else None
    if now.champion and now.champion != recorded:
        return _approved(now, now.champion, *_who_and_why(now, now.champion, f"alias {CHAMPION} moved to it"))
    if recorded and now.champion is None:
        why = f"alias {CHAMPION} deleted" if recorded in now.tags_of else "deleted in the registry"
        return _event(now, "removed", recorded, IN_MLFLOW, why)
    for version, state in reversed(now.state_of.items()):
        if state not in (APPROVED, REJECTED) or state == now.recorded(version):
            continue
        by, why = _who_and_why(now, version, f"tag {STATE} set to {state}")
        if state == REJECTED:
            return (_rolled_back if version == now.champion else _rejected)(now, version, by, why)
        comparison = now.last(version, "compared")
        if comparison is None or comparison.champion == now.champion:
            return _approved(now, version, by, why)
        why = f"approved, but the champion is {now.champion or 'gone'} now: review it again ({why})"
        return replace(comparison, by=by, at=_later(now), why=why[:WHY_LENGTH])
    for event in now.history:
        if event.event == "compared" and event.version not in now.tags_of and now.last(event.version) is event:
            return _event(now, "withdrawn", event.version, IN_MLFLOW, "deleted in the registry")
    return None


def _who_and_why(now: ModelState, version: str, otherwise: str) -> tuple[str, str]:
    """Who decided in MLflow, and why: the version's tags, unless they belong to the event before."""
    tags, last = now.tags_of[version], now.last(version)
    by, why = _one_line(tags.get(BY, "")), _one_line(tags.get(WHY, ""))
    before = (last.by, last.why) if last else ("", "")
    return by if by not in ("", before[0]) else IN_MLFLOW, why if why not in ("", before[1]) else otherwise


def _removed(now: ModelState) -> str | None:
    """The champion that a person removed, if nothing was decided about the champion since."""
    return now.last_move.version if now.last_move and now.last_move.event == "removed" else None


def _later(now: ModelState) -> str:
    """The time now, or a millisecond after the last event."""
    at = datetime.now(UTC)
    if now.history:
        at = max(at, datetime.fromisoformat(now.history[-1].at) + timedelta(milliseconds=1))
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(now: ModelState, event: str, version: str, by: str, why: str, **more: object) -> Event:
    """An event that leaves champion and previous as they are, unless `more` changes them."""
    after = {"champion": now.champion, "previous": now.previous} | more
    return Event(event, version, by[:BY_LENGTH], _later(now), why[:WHY_LENGTH], **after)


def _approved(now: ModelState, version: str, by: str, why: str) -> Event:
    """`previous` is the champion before, unless a person moved both aliases."""
    known = now.last_move and now.last_move.previous
    both = now.champion == version and now.previous not in (None, version, known)
    previous = now.previous if both else _way_back(now, version)
    comparison = now.last(version, "compared")
    unknown = tuple(f"{gate} (not known)" for gate in comparison.unknown) if comparison else ()
    despite = (*comparison.failed, *unknown) if comparison else ()
    return _event(now, "approved", version, by, why, champion=version, previous=previous, despite=despite)


def _rejected(now: ModelState, version: str, by: str, why: str) -> Event:
    previous = _way_back(now, version, now.champion) if now.previous == version else now.previous
    return _event(now, "rejected", version, by, why, previous=previous)


def _rolled_back(now: ModelState, version: str, by: str, why: str) -> Event:
    """To `previous`; to no champion if every earlier one was rejected."""
    usable = now.previous not in (None, version) and now.state_of[now.previous] != REJECTED
    target = now.previous if usable else None
    previous = _way_back(now, version, target)
    return _event(now, "rolled back", version, by, why, champion=target, previous=previous)


def _way_back(now: ModelState, *without: str | None) -> str | None:
    """The latest champion, except rejected versions, deleted ones and those in `without`."""
    champions = (each.champion for each in reversed(now.history) if each.moves)
    usable = (each for each in champions if each in now.tags_of and each not in without)
    return next((each for each in usable if now.state_of[each] != REJECTED), None)


def _one_line(text: str) -> str:
    return "".join(each for each in " ".join(text.split()) if each.isprintable())


def _check_texts(by: str, reason: str) -> tuple[str, str]:
    by, reason = _one_line(by), _one_line(reason)
    if not by or not reason:
        raise UserError(f"a decision needs {'a reason' if by else 'the name of who decides'}, for those who ask later")
    return by, reason


def _title(now: ModelState, version: str) -> str:
    if not now.tags_of:
        raise UserError(f"{now.name} has no version yet: `make run` makes one")
    if version not in now.state_of:
        there = ", ".join(now.state_of)
        raise UserError(f"{now.name} version {version} is not there, or not any more; there are: {there}")
    return f"{now.name} version {version}"


def _check_state(now: ModelState, version: str, *refused: str) -> None:
    state = now.state_of[version]
    if state in refused:
        last = now.last(version)
        by = f" by {last.by} ({last.why})" if last else ""
        way_out = f"to change that, move the alias {CHALLENGER} to it in MLflow and review it again"
        raise UserError(f"{now.name} version {version} was {state}{by}; {way_out}")


def _check_champion(now: ModelState, version: str, champion: str | None) -> None:
    if now.champion != champion:
        was = f"{now.name} version {version} was compared with champion {champion or 'none'}"
        raise UserError(f"{was}, and it is {now.champion or 'none'} now: review it again")


def _decide(now: ModelState, event: Event) -> Event:
    MlflowClient().set_registered_model_tag(now.name, DECIDING, JSON.dump_json(event).decode())
    return _carry_out(now, event)


def _carry_out(now: ModelState, event: Event) -> Event:
    """Move the aliases, write the tags, and append to the history. Doing it again changes nothing."""
    client, name = MlflowClient(), now.name

    def move(alias: str, version: str | None) -> None:
        if version in now.tags_of:
            client.set_registered_model_alias(name, alias, version)
        else:
            client.delete_registered_model_alias(name, alias)

    if event.event in ("approved", "rolled back"):
        move(CHAMPION, event.champion)
    if event.event in ("approved", "rolled back", "rejected"):
        move(PREVIOUS, event.previous)
        if (
            str(client.get_registered_model(name).aliases.get(CHALLENGER)) in event.states
        ):  # another version may be by now
            client.delete_registered_model_alias(name, CHALLENGER)
    if event.event == "approved":
        note_gates(client.get_model_version(name, event.version).run_id, event.despite)
    for version in event.states.keys() & now.tags_of.keys():
        for tag, text in ((STATE, event.states[version]), (BY, event.by), (AT, event.at), (WHY, event.why)):
            client.set_model_version_tag(name, version, tag, text)
    client.set_registered_model_tag(name, f"{HISTORY}{event.at}.{event.version}", JSON.dump_json(event).decode())
    client.delete_registered_model_tag(name, DECIDING)
    if event.event not in ("compared", "superseded"):
        emit(DECIDED, name, event.version, outcome=event.outcome, by=event.by, reason=event.why)
    return event
