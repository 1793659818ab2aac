"""Decisions: which version of a model is champion, who said so and why, and the way back.

A version is compared, then `pending`, then `approved` or `rejected`; only what is pending can be approved. The state is
in the registry alone, in aliases and tags, and a person may change it in MLflow's own pages: that counts as said, is
carried out by whoever comes next, and is never undone. A decision that was killed halfway looks the same, and is
finished in the same way.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from llm.errors import UserError
from tasks.registry.openlineage import Data, listens, run_events
from tasks.registry.lineage import lineage
from tasks.registry.register import CHALLENGER, REJECTED, REVIEW, registered_name
from tasks.registry.tracking import configure_tracking, is_missing, server_errors
from tasks.stages.hashes import PREFIX
from tasks.stages.lock import exclusive

CHAMPION, PREVIOUS = "champion", "previous"
BY, AT, REASON, PAGE = (f"{REVIEW}.{name}" for name in ("by", "at", "reason", "page"))
INSTEAD_OF = f"{REVIEW}.instead_of"  # the champion that the version was compared with, or NONE
DECISION = f"{PREFIX}.decision"  # on a version, the last one that was carried out; on the model, one tag each
PENDING, APPROVED = "pending", "approved"
NONE = "none"
IN_MLFLOW = "somebody in MLflow"
KEPT = 50  # decisions a model
BY_LENGTH, REASON_LENGTH = 200, 1000  # in the history: PostgreSQL keeps 5000 characters of a model's tag

logger = logging.getLogger(__name__)


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

    def __str__(self) -> str:
        back = f" to version {self.champion}" if self.decision == "rolled back" else ""
        return f"version {self.version} {self.decision}{back} by {self.by}, {self.at}: {self.reason}"


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
class _Registry:
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


def _number(key: str) -> int:
    """Of a decision's tag, such as `threestage.decision.0007.3` on version 3; 0 of any other tag."""
    number = key.removeprefix(f"{DECISION}.").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _read(model: str) -> _Registry:
    client, name = MlflowClient(), registered_name(model)
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return _Registry(name, False, {}, {}, {})
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda each: -int(each.version))
    tags_of = {str(each.version): dict(each.tags) for each in versions}
    aliases = {alias: str(version) for alias, version in found.aliases.items() if str(version) in tags_of}
    decisions = ((key, _decision(found.tags[key])) for key in sorted(found.tags, key=_number))
    history = {key: decision for key, decision in decisions if decision and key.startswith(f"{DECISION}.")}
    return _Registry(name, True, aliases, tags_of, history)


@contextmanager
def _registry_errors() -> Iterator[None]:
    """Say in a line what is raised where a server goes away, or a version does meanwhile."""
    with server_errors():
        try:
            yield
        except MlflowException as error:
            if not is_missing(error):
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{reason}: it was deleted meanwhile; look again at what is there") from error


@contextmanager
def _deciding(model: str) -> Iterator[_Registry]:
    """What the registry holds, for one writer at a time in this folder; a champion moved by hand is recorded first.

    Between folders that share a server there is no lock: each looks right before it writes.
    """
    configure_tracking()
    with _registry_errors(), exclusive("register"):  # the same, as both move the challenger
        registry = _read(model)
        champion = registry.aliases.get(CHAMPION)
        said = _said(registry, champion) if champion else None
        if said and said.decision == APPROVED and not said.done:
            _approve(registry, champion, said.by, said.reason)
            registry = _read(model)
        yield registry


def standing(model: str) -> Standing:
    """Where a model stands; one that was never registered has no versions."""
    configure_tracking()
    with _registry_errors():
        registry = _read(model)
    champion, previous, challenger = (registry.aliases.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
    return Standing(model, champion, previous, challenger, {each: registry.state(each) for each in registry.tags_of})


def history(model: str) -> list[Decision]:
    """The last decisions on a model's versions, also on those that are deleted by now, oldest first."""
    configure_tracking()
    with _registry_errors():
        return list(_read(model).history.values())


def said(model: str, version: str) -> Said | None:
    """What was said of a version; None while it is pending, or nobody reviewed it."""
    configure_tracking()
    with _registry_errors():
        return _said(_read(model), version)


def _said(registry: _Registry, version: str) -> Said | None:
    if version not in registry.tags_of:
        ended = any(each.decision == "withdrawn" and each.version == version for each in registry.history.values())
        return Said("withdrawn", IN_MLFLOW, "deleted in the registry", ended or not registry.there)
    tags, word, recorded = registry.tags_of[version], registry.state(version), registry.recorded(version)
    last = registry.last
    before = REJECTED if recorded and recorded.decision == "rolled back" else recorded and recorded.decision
    if word in (APPROVED, REJECTED) and word != before:  # the tag, by hand
        by, reason = _line(tags.get(BY, "")), _line(tags.get(REASON, ""))
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


def set_pending(model: str, version: str, page: str, *, instead_of: str | None) -> None:
    """A version was compared with the champion `instead_of`, None where there was none, and waits for a person.

    `page` is where the comparison is: an artifact's path or a URL. Raises UserError for a version that is not there,
    is the champion or was rejected, and where another is champion by now.
    """
    with _deciding(model) as registry:
        _check_there(registry, version)
        title = registry.titled(version)
        if registry.aliases.get(CHAMPION) == version:
            raise UserError(f"{title} is the champion: there is nothing to decide")
        _check_not_rejected(registry, version)
        _check_champion(registry, version, instead_of or NONE)
        client, tags = MlflowClient(), registry.tags_of[version]
        for key, value in ((PAGE, page), (INSTEAD_OF, instead_of or NONE), (REVIEW, PENDING)):
            client.set_model_version_tag(registry.name, version, key, value)
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
        said = _said(registry, version)
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
        said = _said(registry, version)
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
    with _registry_errors():
        registry = _read(model)
    done = {}
    for version in reversed(registry.tags_of):
        said = _said(registry, version)
        if said is None or said.done:
            continue
        try:
            carry_out(model, version)
        except UserError as error:
            logger.warning("%s", error)
        else:
            done[version] = said
    return done


def _line(text: str) -> str:
    """In one line of printable characters."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())


def _check_there(registry: _Registry, version: str) -> None:
    if not registry.tags_of:
        raise UserError(f"{registry.name} has no version yet: `make run` makes one")
    if version not in registry.tags_of:
        there = ", ".join(registry.tags_of)
        raise UserError(f"{registry.titled(version)} is not there, or not any more; there are: {there}")


def _given(registry: _Registry, version: str, by: str, reason: str) -> tuple[str, str]:
    """Who decides on a version that is there, and why."""
    _check_there(registry, version)
    by, reason = _line(by), _line(reason)
    for what, text in (("the name of who decides", by), ("a reason", reason)):
        if not text:
            raise UserError(f"{registry.titled(version)}: a decision needs {what}, for those who ask later")
    return by, reason


def _check_not_rejected(registry: _Registry, version: str) -> None:
    said = _said(registry, version)
    if said and said.decision == REJECTED:
        way_out = f"to change that, remove its tag {REVIEW} in MLflow and review it again"
        raise UserError(f"{registry.titled(version)} was rejected by {said.by} ({said.reason}); {way_out}")


def _check_not_champion(registry: _Registry, version: str) -> None:
    if registry.aliases.get(CHAMPION) == version:
        way_out = f"roll back, or move the alias {CHAMPION} to another version first"
        raise UserError(f"{registry.titled(version)} is the champion and can't be rejected: {way_out}")


def _check_champion(registry: _Registry, version: str, compared: str | None = None) -> None:
    """That nobody moved the champion since the version was compared with it."""
    champion = registry.aliases.get(CHAMPION)
    compared = compared or registry.tags_of[version][INSTEAD_OF]
    if champion != version and (champion or NONE) != compared:
        was = f"{registry.titled(version)} was compared with champion {compared}"
        raise UserError(f"{was}, and it is {champion or NONE} now: review it again")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _say(registry: _Registry, version: str, word: str, by: str, reason: str) -> str:
    """Write on a version what is decided, the word last; return when it was: one that was killed keeps its time."""
    tags, last, recorded = registry.tags_of[version], registry.last, registry.recorded(version)
    killed = last and last.version == version and last.at == tags.get(AT) and (not recorded or recorded.at != last.at)
    at = last.at if killed else _now()
    for key, value in ((BY, by), (REASON, reason), (AT, at), (REVIEW, word)):
        MlflowClient().set_model_version_tag(registry.name, version, key, value)
    return at


def _move(registry: _Registry, alias: str, version: str | None) -> None:
    if version:
        MlflowClient().set_registered_model_alias(registry.name, alias, version)
    elif alias in registry.aliases:
        MlflowClient().delete_registered_model_alias(registry.name, alias)


def _way_back(registry: _Registry, start: str | None, without: set[str | None]) -> str | None:
    """The latest of the champions from `start` on backwards that is there, was not rejected and is not left out."""
    before = {each.version: each.previous for each in registry.history.values() if each.decision == APPROVED}
    seen: set[str | None] = {None}
    while start not in seen:
        seen.add(start)
        if start in registry.tags_of and start not in without and registry.state(start) != REJECTED:
            return start
        start = before.get(start)
    return None


def _approve(registry: _Registry, version: str, by: str, reason: str) -> Decision:
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


def _reject(registry: _Registry, version: str, by: str, reason: str) -> Decision:
    at = _say(registry, version, REJECTED, by, reason)
    if registry.aliases.get(CHALLENGER) == version:
        _move(registry, CHALLENGER, None)
    decision = _stays(registry, "rejected", version, by, reason, at)
    if registry.aliases.get(PREVIOUS) == version:
        _move(registry, PREVIOUS, decision.previous)
    _record(registry, decision)
    return decision


def _stays(registry: _Registry, kind: str, version: str, by: str, reason: str, at: str) -> Decision:
    """A decision that leaves the champion, as it was last recorded; a rejected version is no way back."""
    last, previous = registry.last, registry.aliases.get(PREVIOUS)
    champion = last.champion if last else None
    if previous == version:
        previous = _way_back(registry, version, {version, champion})
    return Decision(kind, version, by, at, reason, champion, previous)


def _record(registry: _Registry, decision: Decision) -> None:
    """Append a decision to the model's history, unless it is there already, and then note it on its version."""
    client, last = MlflowClient(), registry.last
    if last is None or (last.version, last.at) != (decision.version, decision.at):
        short = replace(decision, by=decision.by[:BY_LENGTH], reason=decision.reason[:REASON_LENGTH])
        keys = list(registry.history)
        number = _number(keys[-1]) + 1 if keys else 1
        client.set_registered_model_tag(
            registry.name, f"{DECISION}.{number:04}.{decision.version}", TEXT.dump_json(short).decode()
        )
        for key in keys[: max(0, len(keys) + 1 - KEPT)]:
            client.delete_registered_model_tag(registry.name, key)
        _tell(registry, decision)
    if decision.version in registry.tags_of:
        client.set_model_version_tag(registry.name, decision.version, DECISION, TEXT.dump_json(decision).decode())


def _tell(registry: _Registry, decision: Decision) -> None:
    """To whoever listens: a decision takes the version that it is on, and makes the champion, where it moves that."""
    if not listens():
        return
    facts, uri = lineage(None) | {DECISION: TEXT.dump_json(decision).decode()}, f"models:/{registry.name}"
    job, decided = (
        f"decision@{registry.name.removeprefix(registered_name(''))}",
        Data(uri, decision.version, of_registry=True),
    )
    with run_events(job, ("MLFLOW", "DECISION"), facts, [decided]) as told:
        if decision.champion and decision.decision in ("approved", "rolled back"):
            told.outputs.append(Data(f"{uri}@{CHAMPION}", decision.champion, of_registry=True))
