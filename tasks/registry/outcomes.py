"""The event that a decision leads to, from the state of a model alone: what becomes champion, and what previous."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from llm.errors import UserError
from tasks.registry.history import GATES, IN_MLFLOW, REGISTER, REVIEW, Event, EventKind, ModelState
from tasks.registry.versions import APPROVED, BY, CHAMPION, REJECTED, STATE, WHY

BY_LENGTH, WHY_LENGTH = 200, 1000  # characters; PostgreSQL keeps 5000 of a model's tag


@dataclass(frozen=True)
class Reason:
    """Who decides, and why."""

    by: str
    why: str


def one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


def check_name(name: str) -> str:
    """The name of a person who decides. Raises UserError if it is not one short line of text, or is a program's."""
    name = name.strip()
    if not name.isprintable() or not 0 < len(name) <= BY_LENGTH:
        raise UserError(f"{name[:BY_LENGTH]!r}: the name of who decides is one line of up to {BY_LENGTH} characters")
    if name.casefold() in (REGISTER, REVIEW, GATES, IN_MLFLOW.casefold()):
        raise UserError(f"{name!r} is no person's name: threestage itself decides under it")
    return name


def checked_reason(by: str, reason: str) -> Reason:
    """The reason of a person, each part on one line. Raises UserError if one is missing."""
    checked = Reason(by=one_line(by), why=one_line(reason))
    if not checked.by:
        raise UserError("a decision needs the name of who decides, for those who ask later")
    if not checked.why:
        raise UserError("a decision needs a reason, for those who ask later")
    return checked


def new_event(state: ModelState, kind: EventKind, version: str, *, reason: Reason) -> Event:
    """An event that happens now and leaves champion and previous as they are."""
    return Event(
        event=kind,
        version=version,
        by=reason.by[:BY_LENGTH],
        at=_later(state),
        why=reason.why[:WHY_LENGTH],
        champion=state.champion,
        previous=state.previous,
    )


def compared_event(state: ModelState, version: str, failed: Sequence[str], unknown: Sequence[str]) -> Event:
    """A version was compared with the champion, and failed some gates or could not compute them."""
    lists = []
    if failed:
        lists.append(f"failed: {', '.join(failed)}")
    if unknown:
        lists.append(f"not known: {', '.join(unknown)}")
    reason = Reason(by=REVIEW, why="; ".join(lists) or "all gates passed")
    event = new_event(state, "compared", version, reason=reason)
    return replace(event, failed=tuple(failed), unknown=tuple(unknown))


def approved_event(state: ModelState, version: str, reason: Reason) -> Event:
    """A version becomes champion; `previous` is the champion before, unless a person moved both aliases."""
    recorded = state.last_move.previous if state.last_move else None
    moved_both = state.champion == version and state.previous not in (None, version, recorded)
    previous = state.previous if moved_both else _last_usable_champion(state, without=[version])
    comparison = state.last(version, "compared")
    despite: tuple[str, ...] = ()
    if comparison:
        despite = (*comparison.failed, *(f"{gate} (not known)" for gate in comparison.unknown))
    event = new_event(state, "approved", version, reason=reason)
    return replace(event, champion=version, previous=previous, despite=despite)


def rejected_event(state: ModelState, version: str, reason: Reason) -> Event:
    """A version that is not the champion loses its aliases."""
    previous = state.previous
    if previous == version:
        previous = _last_usable_champion(state, without=[version, state.champion])
    return replace(new_event(state, "rejected", version, reason=reason), previous=previous)


def rolled_back_event(state: ModelState, version: str, reason: Reason) -> Event:
    """From the champion to `previous`; to no champion if every earlier one was rejected."""
    champion = state.previous
    if champion is not None and (champion == version or state.state_of[champion] == REJECTED):
        champion = None
    previous = _last_usable_champion(state, without=[version, champion])
    return replace(new_event(state, "rolled back", version, reason=reason), champion=champion, previous=previous)


def decided_in_mlflow(state: ModelState) -> Event | None:
    """The first decision made in MLflow that the history lacks; the docstring of decide.py lists the cases."""
    recorded = state.last_move.champion if state.last_move else None
    if state.champion and state.champion != recorded:
        reason = _reason_in_tags(state, state.champion, otherwise=f"alias {CHAMPION} moved to it")
        return approved_event(state, state.champion, reason)
    if recorded and state.champion is None:
        why = f"alias {CHAMPION} deleted" if recorded in state.tags_of else "deleted in the registry"
        return new_event(state, "removed", recorded, reason=Reason(IN_MLFLOW, why))
    for version, word in reversed(state.state_of.items()):
        if word in (APPROVED, REJECTED) and word != state.recorded(version):
            return _decided_by_tag(state, version, word)
    for event in state.history:
        is_gone = event.version not in state.tags_of
        if event.event == "compared" and is_gone and state.last(event.version) is event:
            return new_event(state, "withdrawn", event.version, reason=Reason(IN_MLFLOW, "deleted in the registry"))
    return None


def _decided_by_tag(state: ModelState, version: str, word: str) -> Event:
    """A person set a version's tag to approved or rejected."""
    reason = _reason_in_tags(state, version, otherwise=f"tag {STATE} set to {word}")
    if word == REJECTED:
        event = rolled_back_event if version == state.champion else rejected_event
        return event(state, version, reason)
    comparison = state.last(version, "compared")
    if comparison is None or comparison.champion == state.champion:
        return approved_event(state, version, reason)
    why = f"approved, but the champion is {state.champion or 'gone'} now: review it again ({reason.why})"
    return replace(comparison, by=reason.by, at=_later(state), why=why[:WHY_LENGTH])


def _reason_in_tags(state: ModelState, version: str, otherwise: str) -> Reason:
    """Read from the version's tags who decided in MLflow, and why.

    Tags that repeat the previous event's values are ignored.
    """
    tags = state.tags_of[version]
    last = state.last(version)
    by = one_line(tags.get(BY, ""))
    why = one_line(tags.get(WHY, ""))
    if not by or (last and by == last.by):
        by = IN_MLFLOW
    if not why or (last and why == last.why):
        why = otherwise
    return Reason(by=by, why=why)


def _last_usable_champion(state: ModelState, without: Sequence[str | None]) -> str | None:
    """The latest champion, except rejected versions, deleted ones and those in `without`."""
    for event in reversed(state.history):
        champion = event.champion
        if not event.moves or champion is None or champion in without:
            continue
        if champion in state.tags_of and state.state_of[champion] != REJECTED:
            return champion
    return None


def _later(state: ModelState) -> str:
    """The time now, or a millisecond after the last event."""
    at = datetime.now(UTC)
    if state.history:
        at = max(at, datetime.fromisoformat(state.history[-1].at) + timedelta(milliseconds=1))
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
