"""Which versions a newer challenger supersedes, and which it leaves to the people who touched them."""

from tasks.registry.history import REVIEW, ModelState
from tasks.registry.versions import CHALLENGER, KEY


def is_requested(now: ModelState, challenger: str, newer: str) -> bool:
    """Whether a person made this version the challenger, and no review has compared it since."""
    if last := now.last(challenger):
        return (last.event, last.by) != ("compared", REVIEW)
    return [challenger] != _registered_before(now, newer)[:1]


def untouched(now: ModelState, newer: str) -> list[str]:
    """The versions before `newer` that wait for a review or a decision, and that no person tagged, aliased or made."""
    aliased = {version for alias, version in now.aliases.items() if alias != CHALLENGER}
    return [
        version
        for version in _registered_before(now, newer)
        if version not in aliased
        and now.state_of[version] == now.recorded(version)
        and all((event.event, event.by) == ("compared", REVIEW) for event in now.events(version))
    ]


def _registered_before(now: ModelState, newer: str) -> list[str]:
    """The older versions that `register` made, newest first."""
    return [version for version, tags in now.tags_of.items() if KEY in tags and int(version) < int(newer)]
