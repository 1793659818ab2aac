"""The packages that are installed here, by what they require."""

import importlib.metadata
from collections.abc import Iterable, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def with_requirements(names: Sequence[str]) -> set[str]:
    """The names of packages and of all that they require here."""
    queue = [requirement for requirement in map(Requirement, names) if _is_needed(requirement)]
    wanted: dict[str, set[str]] = {}
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in wanted and requirement.extras <= wanted[name]:
            continue
        extras = wanted.setdefault(name, set())
        extras |= requirement.extras
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if _is_needed(needed, extras):
                queue.append(needed)
    return set(wanted)


def _is_needed(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
