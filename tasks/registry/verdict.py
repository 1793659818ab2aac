"""Whether what was made again is what was registered, and if not, why: bytes, what they were made from, machines."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.stages.hashes import PREFIX, Hashes, flatten
from tasks.stages.libraries import LIBRARIES

CLASS = ("cpu", "os", "python", "device", "dtype", "blocks")  # of a machine, in the order in which they are said


@dataclass(frozen=True)
class Verdict:
    """What came out of making a version again."""

    uri: str
    ran: tuple[str, ...]
    """The stages that ran, in order."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the model's files; empty where they were not made."""
    differs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What the last of these stages made otherwise: its path, the hash that was registered, the hash here."""
    reasons: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return not self.differs

    def __str__(self) -> str:
        if self.identical:
            lines = [f"identical: {', '.join(self.ran)} made the bytes of {self.uri} again"]
            return "\n".join(lines + [f"  {path}: sha256 {digest}" for path, digest in self.sha256.items()])
        lines = [f"differs: {self.ran[-1]} is the first stage that made other bytes than those of {self.uri}"]
        lines += [f"  {path}: {before} then, {now} here" for path, (before, now) in self.differs.items()]
        return "\n".join(lines + [f"  because {reason}" for reason in self.reasons])


def machine_class(tags: Mapping[str, str]) -> dict[str, str]:
    """What counts of a machine, from a run's tags: not its kernel's version or how many cores it has."""
    found = {name: tags.get(f"{PREFIX}.machine.{name}") or tags.get(f"{PREFIX}.{name}") for name in CLASS}
    if found["os"]:
        kernel = re.search(r"x86_64|aarch64|arm64|AMD64", found["os"])
        found["os"] = " ".join([found["os"].partition("-")[0], *([kernel[0]] if kernel else [])])
    return {name: value.removeprefix("torch.") for name, value in found.items() if value}


def why(then: Hashes, now: Hashes) -> list[str]:
    """What a stage ran from then and now, where that differs: deps first, then parameters, then libraries.

    Parameters count where those of then are known.
    """
    reasons = [
        f"its dep {name} was {md5}, here it is {now.deps.get(name, 'missing')}"
        for name, md5 in then.deps.items()
        if now.deps.get(name) != md5
    ]
    before, after = flatten(then.params), flatten(now.params)
    changed = [name for name in before | after if before and before.get(name) != after.get(name)]
    for name in sorted(changed, key=lambda name: name in LIBRARIES):
        kind = "library" if name in LIBRARIES else "parameter"
        reasons.append(f"{kind} {name} was {before.get(name, 'missing')}, here it is {after.get(name, 'missing')}")
    return reasons
