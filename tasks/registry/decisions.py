"""Decisions: which version of a model is champion, who said so and why, and the way back.

A version is compared, then `pending`, then `approved` or `rejected`; only what is pending can be approved. What a
person did in MLflow's own pages is carried out by whoever comes next, and is never undone. A decision that was killed
halfway looks the same, and is finished in the same way.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.events import DECIDED, emit
from tasks.registry.register import CHALLENGER, REJECTED, REVIEW
from tasks.registry.standing import (
    APPROVED,
    AT,
    BY,
    CHAMPION,
    DECISION,
    INSTEAD_OF,
    NONE,
    PAGE,
    PENDING,
    PREVIOUS,
    REASON,
    TEXT,
    Decision,
    Registry,
    Said,
    number_of,
    one_line,
    read_registry,
    registry_errors,
    said_of,
)
from tasks.registry.tracking import configure_tracking
from tasks.stages.lock import exclusive

KEPT = 50  # decisions a model
BY_LENGTH, REASON_LENGTH = 200, 1000  # in the history: PostgreSQL keeps 5000 characters of a model's tag

logger = logging.getLogger(__name__)


@contextmanager
def _deciding(model: str) -> Iterator[Registry]:
    """What the registry holds, for one writer at a time in this folder; a champion moved by hand is recorded first.

    Between folders that share a server there is no lock: each looks right before it writes.
    """
    configure_tracking()
    with registry_errors(), exclusive("register"):  # the same, as both move the challenger
        registry = read_registry(model)
        champion = registry.aliases.get(CHAMPION)
        said = said_of(registry, champion) if champion else None
        if said and said.decision == APPROVED and not said.done:
            _approve(registry, champion, said.by, said.reason)
            registry = read_registry(model)
        yield registry


def set_pending(model: str, version: str, page: str, *, instead_of: str | None) -> None:
    """A version was compared with the champion `instead_of`, None where there was none, and waits for a person.

    `page` is where the comparison is: an artifact's path or a URL. What a person said meanwhile stays said, but for an
    approval that was given against another champion. Raises UserError for a version that is not there, is the champion
    or was rejected, and where another is champion by now.
    """
    with _deciding(model) as registry:
        _check_there(registry, version)
        title = registry.titled(version)
        if registry.aliases.get(CHAMPION) == version:
            raise UserError(f"{title} is the champion: there is nothing to decide")
        _check_not_rejected(registry, version)
        _check_champion(registry, version, instead_of or NONE)
        client, tags, compared = MlflowClient(), registry.tags_of[version], instead_of or NONE
        said = said_of(registry, version)
        meanwhile = said is not None and not said.done
        if meanwhile and said.decision == APPROVED and tags.get(INSTEAD_OF, compared) != compared:
            against = f"{said.by} approved it against champion {tags[INSTEAD_OF]}"
            logger.warning("%s: %s, and it is %s now: it waits for a decision again", title, against, compared)
            meanwhile = False
        for key, value in ((PAGE, page), (INSTEAD_OF, compared)):
            client.set_model_version_tag(registry.name, version, key, value)
        if meanwhile:
            return
        client.set_model_version_tag(registry.name, version, REVIEW, PENDING)
        for key in (DECISION, BY, AT, REASON):
            if key in tags:
                client.delete_model_version_tag(registry.name, version, key)


def approve(model: str, version: str, *, by: str, reason: str) -> Decision:
    """Make a pending version the champion; `previous` keeps the one before.

    Raises UserError where somebody or a reason is missing, for a version that is not there, is no longer or not yet
    pending, and where the champion is another than the version was compared with.
    """
    with _deciding(model) as registry:
        by, reason = _given(registry, version, by, reason)
        recorded, title = registry.recorded(version), registry.titled(version)
        approved = f", approved by {recorded.by}" if recorded and recorded.decision == APPROVED else ""
        if registry.aliases.get(CHAMPION) == version:
            raise UserError(f"{title} is the champion already{approved}")
        _check_not_rejected(registry, version)
        if approved or registry.state(version) is None or INSTEAD_OF not in registry.tags_of[version]:
            was = f"was champion before{approved}" if approved else "was not compared yet"
            raise UserError(f"{title} {was}: review it first, or move the alias {CHAMPION} in MLflow")
        _check_champion(registry, version)
        return _approve(registry, version, by, reason)


def reject(model: str, version: str, *, by: str, reason: str) -> Decision:
    """Say of a version that it is not to be champion; it is no challenger and no way back any more.

    Raises UserError where somebody or a reason is missing, and for a version that is not there, is the champion or was
    rejected before.
    """
    with _deciding(model) as registry:
        by, reason = _given(registry, version, by, reason)
        _check_not_champion(registry, version)
        said = said_of(registry, version)
        if said and said.done and said.decision == REJECTED:
            raise UserError(f"{registry.titled(version)} was rejected already by {said.by}: {said.reason}")
        return _reject(registry, version, by, reason)


def rollback(model: str, *, by: str, reason: str, instead_of: str | None = None) -> str:
    """Make `previous` the champion again, and return it; the one that goes is rejected.

    `previous` then is the champion before that, so that a second rollback goes one further back. With `instead_of`
    only that champion goes: of two people who roll back at once, one does. Where there is no champion any more,
    `previous` is approved. Raises UserError where there is no way back.
    """
    with _deciding(model) as registry:
        champion, target = registry.aliases.get(CHAMPION), registry.aliases.get(PREVIOUS)
        if instead_of is not None and champion != instead_of:
            raise UserError(f"{registry.name}: the champion is {champion or NONE}, not {instead_of}; look again")
        if target is None or target == champion:
            raise UserError(f"{registry.name} has no {PREVIOUS} version: move the alias {CHAMPION} in MLflow yourself")
        if registry.state(target) == REJECTED:
            raise UserError(f"{registry.titled(target)}, the {PREVIOUS} one, was rejected: move the alias {PREVIOUS}")
        by, reason = _given(registry, target, by, reason)
        kind, word = ("rolled back", REJECTED) if champion else ("approved", APPROVED)
        at = _say(registry, champion or target, word, by, reason)
        MlflowClient().set_registered_model_alias(registry.name, CHAMPION, target)
        previous = _way_back(registry, target, {target, champion})
        _move(registry, PREVIOUS, previous)
        decision = Decision(kind, champion or target, by, at, reason, target, previous)
        _record(registry, decision)
    return target


def carry_out(model: str, version: str) -> Said | None:
    """Do what a person said of a version by hand, and return it; nothing where nothing was said or all is done.

    Raises UserError for a word that is none, for an approval where another is champion than the version was compared
    with, and for a champion that is rejected.
    """
    with _deciding(model) as registry:
        said = said_of(registry, version)
        if said is None or said.done:
            return said
        title = registry.titled(version)
        match said.decision:
            case "approved":
                if INSTEAD_OF in registry.tags_of[version]:
                    _check_champion(registry, version)
                _approve(registry, version, said.by, said.reason)
            case "rejected":
                _check_not_champion(registry, version)
                _reject(registry, version, said.by, said.reason)
            case "withdrawn":
                _record(registry, _stays(registry, "withdrawn", version, said.by, said.reason, _now()))
            case "unclear":
                raise UserError(f"{title}: {said.reason}; set it in MLflow")
        return said


def settle(model: str) -> dict[str, Said]:
    """Carry out all that people said by hand of versions that are there; what can't be is logged, and stays said."""
    configure_tracking()
    with registry_errors():
        registry = read_registry(model)
    done = {}
    for version in reversed(registry.tags_of):
        said = said_of(registry, version)
        if said is None or said.done:
            continue
        try:
            carry_out(model, version)
        except UserError as error:
            logger.warning("%s", error)
        else:
            done[version] = said
    return done


def _check_there(registry: Registry, version: str) -> None:
    if not registry.tags_of:
        raise UserError(f"{registry.name} has no version yet: `make run` makes one")
    if version not in registry.tags_of:
        there = ", ".join(registry.tags_of)
        raise UserError(f"{registry.titled(version)} is not there, or not any more; there are: {there}")


def _given(registry: Registry, version: str, by: str, reason: str) -> tuple[str, str]:
    """Who decides on a version that is there, and why."""
    _check_there(registry, version)
    by, reason = one_line(by), one_line(reason)
    for what, text in (("the name of who decides", by), ("a reason", reason)):
        if not text:
            raise UserError(f"{registry.titled(version)}: a decision needs {what}, for those who ask later")
    return by, reason


def _check_not_rejected(registry: Registry, version: str) -> None:
    said = said_of(registry, version)
    if said and said.decision == REJECTED:
        way_out = f"to change that, remove its tag {REVIEW} in MLflow and review it again"
        raise UserError(f"{registry.titled(version)} was rejected by {said.by} ({said.reason}); {way_out}")


def _check_not_champion(registry: Registry, version: str) -> None:
    if registry.aliases.get(CHAMPION) == version:
        way_out = f"roll back, or move the alias {CHAMPION} to another version first"
        raise UserError(f"{registry.titled(version)} is the champion and can't be rejected: {way_out}")


def _check_champion(registry: Registry, version: str, compared: str | None = None) -> None:
    """That nobody moved the champion since the version was compared with it."""
    champion = registry.aliases.get(CHAMPION)
    compared = compared or registry.tags_of[version][INSTEAD_OF]
    if champion != version and (champion or NONE) != compared:
        was = f"{registry.titled(version)} was compared with champion {compared}"
        raise UserError(f"{was}, and it is {champion or NONE} now: review it again")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _say(registry: Registry, version: str, word: str, by: str, reason: str) -> str:
    """Write on a version what is decided, the word last; return when it was: one that was killed keeps its time."""
    tags, last, recorded = registry.tags_of[version], registry.last, registry.recorded(version)
    killed = last and last.version == version and last.at == tags.get(AT) and (not recorded or recorded.at != last.at)
    at = last.at if killed else _now()
    for key, value in ((BY, by), (REASON, reason), (AT, at), (REVIEW, word)):
        MlflowClient().set_model_version_tag(registry.name, version, key, value)
    return at


def _move(registry: Registry, alias: str, version: str | None) -> None:
    if version:
        MlflowClient().set_registered_model_alias(registry.name, alias, version)
    elif alias in registry.aliases:
        MlflowClient().delete_registered_model_alias(registry.name, alias)


def _way_back(registry: Registry, start: str | None, without: set[str | None]) -> str | None:
    """The latest of the champions from `start` on backwards that is there, was not rejected and is not left out."""
    before = {each.version: each.previous for each in registry.history.values() if each.decision == APPROVED}
    seen: set[str | None] = {None}
    while start not in seen:
        seen.add(start)
        if start in registry.tags_of and start not in without and registry.state(start) != REJECTED:
            return start
        start = before.get(start)
    return None


def _approve(registry: Registry, version: str, by: str, reason: str) -> Decision:
    """Move the champion, or record that a person did: then `previous` moves, too, unless they moved that as well."""
    aliases, last = registry.aliases, registry.last
    moved = aliases.get(CHAMPION) == version
    before = _way_back(registry, (last and last.champion) if moved else aliases.get(CHAMPION), {version})
    known = last.previous if last and last.previous in registry.tags_of else None
    at = _say(registry, version, APPROVED, by, reason)
    _move(registry, CHAMPION, version)
    previous = aliases.get(PREVIOUS)
    if (before or previous == version) and (not moved or previous == known):
        previous = before
        _move(registry, PREVIOUS, previous)
    if aliases.get(CHALLENGER) == version:
        _move(registry, CHALLENGER, None)
    decision = Decision("approved", version, by, at, reason, version, previous)
    _record(registry, decision)
    return decision


def _reject(registry: Registry, version: str, by: str, reason: str) -> Decision:
    at = _say(registry, version, REJECTED, by, reason)
    if registry.aliases.get(CHALLENGER) == version:
        _move(registry, CHALLENGER, None)
    decision = _stays(registry, "rejected", version, by, reason, at)
    if registry.aliases.get(PREVIOUS) == version:
        _move(registry, PREVIOUS, decision.previous)
    _record(registry, decision)
    return decision


def _stays(registry: Registry, kind: str, version: str, by: str, reason: str, at: str) -> Decision:
    """A decision that leaves the champion, as it was last recorded; a rejected version is no way back."""
    last, previous = registry.last, registry.aliases.get(PREVIOUS)
    champion = last.champion if last else None
    if previous == version:
        previous = _way_back(registry, version, {version, champion})
    return Decision(kind, version, by, at, reason, champion, previous)


def _record(registry: Registry, decision: Decision) -> None:
    """Append a decision to the model's history, unless it is there already, note it on its version, and tell of it."""
    client, last, version = MlflowClient(), registry.last, decision.version
    short = replace(decision, by=decision.by[:BY_LENGTH], reason=decision.reason[:REASON_LENGTH])
    if last is None or (last.version, last.at) != (version, decision.at):
        keys = list(registry.history)
        number = number_of(keys[-1]) + 1 if keys else 1
        client.set_registered_model_tag(
            registry.name, f"{DECISION}.{number:04}.{version}", TEXT.dump_json(short).decode()
        )
        for key in keys[: max(0, len(keys) + 1 - KEPT)]:
            client.delete_registered_model_tag(registry.name, key)
    if version in registry.tags_of:
        client.set_model_version_tag(registry.name, version, DECISION, TEXT.dump_json(decision).decode())
    emit(DECIDED, registry.name, version, outcome=decision.outcome, by=short.by, reason=short.reason)
