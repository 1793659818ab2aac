"""Names of models, and which version a name means.

A model's name alone is its champion, or its challenger while the model never had a champion. `assistant@challenger` is
the version of an alias, `assistant/3` a version.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import NotFound

NAME = re.compile(r"(?P<model>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))?")


class VersionName(NamedTuple):
    """A version of a model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry."""

    name: VersionName
    aliases: tuple[str, ...]
    created: int
    """Seconds since 1970."""
    description: str
    capabilities: tuple[str, ...]
    """What it can do (llm/objectives), the main thing first; empty if its files can't be read."""
    is_default: bool
    """Whether it answers by its model's name alone."""


@dataclass(frozen=True)
class ModelName:
    """A name as people write it, in its parts."""

    model: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str, prefix: str) -> "ModelName":
        """The parts of a name, with or without the `prefix` that the registry's names have. A text that is no name is
        the name of a model that nobody has."""
        match = NAME.fullmatch(text)
        if match is None:
            return cls(text)
        return cls(match["model"].removeprefix(prefix), alias=match["alias"], version=match["version"])

    def means(self, version: RegisteredVersion) -> bool:
        """Whether the name means this version of its model."""
        if self.version:
            return version.name.version == self.version
        if self.alias:
            return self.alias in version.aliases
        return version.is_default

    def check_model(self, models: Iterable[str]) -> None:
        """Raise NotFound, which lists these registered models, if the name's is not one of them."""
        if self.model not in models:
            registered = ", ".join(models) or "none; `make run` makes them"
            raise NotFound(f"model {self.model!r} is not registered; those are: {registered}", "model")


def resolve(name: ModelName, versions: Sequence[RegisteredVersion]) -> RegisteredVersion:
    """The version that a name means. Raises NotFound, which lists what there is."""
    name.check_model(dict.fromkeys(version.name.model for version in versions))
    of_model = [version for version in versions if version.name.model == name.model]
    for version in of_model:
        if name.means(version):
            return version
    missing = name.version or name.alias
    if missing is None:
        example = of_model[0].name
        missing = f"champion: approve one with `threestage approve`, or name a version such as {example}"
    there = ", ".join(" ".join([version.name.version, *version.aliases]) for version in of_model)
    raise NotFound(f"model {name.model!r} has no {missing}; its versions are: {there}", "model")


def models_with(versions: Sequence[RegisteredVersion], *wanted: str) -> list[str]:
    """The models with one of these capabilities: first those with a default version, and of these the ones whose main
    capability it is.

    What one version can do, all can: the files of one may be gone.
    """
    capabilities = {}
    with_default = set()
    for version in versions:
        model = version.name.model
        if set(version.capabilities) & set(wanted):
            capabilities[model] = version.capabilities
        if version.is_default:
            with_default.add(model)

    def rank(model: str) -> tuple[bool, bool, str]:
        return model not in with_default, capabilities[model][0] not in wanted, model

    return sorted(capabilities, key=rank)
