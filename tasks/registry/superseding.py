"""Which versions a newer challenger supersedes, and which it leaves to the people who touched them."""

from tasks.registry.history import REVIEW, Event, ModelState
from tasks.registry.versions import CHALLENGER, KEY


def is_requested(state: ModelState, challenger: str, newer: str) -> bool:
    """Whether a person made this version the challenger, and no review has compared it since."""
    last = state.last(challenger)
    if last:
        return not _is_review(last)
    return [challenger] != _registered_before(state, newer)[:1]


def untouched(state: ModelState, newer: str) -> list[str]:
    """The versions before `newer` that wait for a review or a decision, and that no person tagged, aliased or made."""
    return [version for version in _registered_before(state, newer) if not _is_touched(state, version)]


def _is_touched(state: ModelState, version: str) -> bool:
    aliases = [alias for alias, number in state.aliases.items() if number == version and alias != CHALLENGER]
    is_tagged = state.state_of[version] != state.recorded(version)
    return bool(aliases) or is_tagged or not all(map(_is_review, state.events(version)))


def _is_review(event: Event) -> bool:
    return event.event == "compared" and event.by == REVIEW


def _registered_before(state: ModelState, newer: str) -> list[str]:
    """The older versions that `register` made, newest first."""
    return [version for version, tags in state.tags_of.items() if KEY in tags and int(version) < int(newer)]
