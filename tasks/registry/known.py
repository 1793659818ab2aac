"""Known numbers: what a canary measured once on a kind of processor, and how far from that it may be today.

The same kind of processor, libraries and code make the same bytes. Where one of them differs, sums differ in their last
bits, and training makes much of that: how much is measured with the known numbers, by runs that only sum otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llm.errors import UserError
from llm.files import write_atomic

KNOWN = Path("canary/known.json")
SPREADS = 4  # how many times the widest distance between such runs a number may be away; they are but a few
SHARE, LEAST = 0.01, 0.03  # and always by so much of itself, and by so much: about three rows of a hundred
DIGITS = 6


@dataclass(frozen=True)
class Number:
    """A known number."""

    value: float
    within: float


@dataclass(frozen=True)
class Measured:
    """What a canary measured."""

    circumstances: dict[str, str]
    """Commit, processor, Python, libraries."""
    numbers: dict[str, float]
    """As `classifier/evaluation/f1`."""
    sha256: dict[str, str]
    """Of the files of data and models, in the order in which they were made."""


@dataclass(frozen=True)
class Known:
    """What is known of a kind of processor."""

    circumstances: dict[str, str]
    numbers: dict[str, Number]
    sha256: dict[str, str]


FILE = TypeAdapter(dict[str, Known])


def read_known(path: Path = KNOWN) -> dict[str, Known]:
    """What is known, by kind of processor; nothing where there is no such file. Raises UserError for another file."""
    try:
        return FILE.validate_json(path.read_bytes()) if path.exists() else {}
    except ValidationError as error:
        (first, *_) = error.errors()
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {place}: {first['msg']}; take it from git, or --record it again") from None


def write_known(kind: str, known: Known, path: Path = KNOWN) -> None:
    """Write what is known now of a kind of processor and some models; that of others stays."""
    there = read_known(path)
    if before := there.get(kind):
        ran = {_model(name) for name in known.numbers}
        kept = {name: number for name, number in before.numbers.items() if _model(name) not in ran}
        known = replace(known, numbers=kept | known.numbers, sha256=before.sha256 | known.sha256)
    content = FILE.dump_json(dict(sorted((there | {kind: known}).items())), indent=2)
    write_atomic(path, content + b"\n")


def _model(name: str) -> str:
    """The model of a number."""
    return name.partition("/")[0]


def as_known(runs: Sequence[Measured]) -> Known:
    """The first of some runs, with tolerances by how far the others, which only sum otherwise, are from it."""
    first, *others = runs
    numbers = {}
    for name, value in first.numbers.items():
        spread = max((abs(other.numbers[name] - value) for other in others), default=0.0)
        numbers[name] = Number(value, round(max(SPREADS * spread, SHARE * abs(value), LEAST), DIGITS))
    return Known(first.circumstances, numbers, first.sha256)


@dataclass(frozen=True)
class Row:
    """A number, known and measured now."""

    name: str
    known: Number | None
    now: float | None

    @property
    def outside(self) -> bool:
        """Whether it is too far from what is known: a number that is new is not, one that is gone or NaN is."""
        return self.known is not None and not (
            self.now is not None and abs(self.now - self.known.value) <= self.known.within
        )

    def __str__(self) -> str:
        now = "missing" if self.now is None else f"{self.now:g}"
        known = "not known" if self.known is None else f"known {self.known.value:g} within {self.known.within:g}"
        return f"{self.name} {now} ({known})"


@dataclass(frozen=True)
class Findings:
    """What a canary found."""

    rows: tuple[Row, ...]
    other_bytes: tuple[str, ...]
    """The files that are not those of then, in the order in which they are made."""
    reasons: tuple[str, ...]
    """What else is not as it was then."""

    @property
    def outside(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.outside)

    @property
    def identical(self) -> bool:
        """Whether bytes and numbers are those of then."""
        return not self.other_bytes and all(row.known and row.known.value == row.now for row in self.rows)

    @property
    def word(self) -> str:
        """The verdict, in a few words."""
        if self.outside:
            return f"{len(self.outside)} outside tolerance"
        return "identical" if self.identical else "within tolerance"

    def __str__(self) -> str:
        if self.identical:
            return f"identical: {len(self.rows)} numbers and the bytes that they come from"
        first = [f"{self.other_bytes[0]} is the first file with other bytes"] if self.other_bytes else []
        return "; ".join([f"{self.word}: {len(self.rows)} numbers", *map(str, self.outside), *first, *self.reasons])


def compare(known: Mapping[str, Known], kind: str, now: Measured) -> Findings:
    """Hold what was measured on a kind of processor against what is known of it, or of another kind, which is said.

    Of the models that ran, where these are fewer than then.
    """
    reasons, then = [], known.get(kind)
    if then is None:
        other, then = next(iter(known.items()))
        reasons.append(f"nothing is known of {kind}, only of {other}")
    for name in then.circumstances | now.circumstances:
        before, after = (each.circumstances.get(name, "missing") for each in (then, now))
        if before != after:
            reasons.append(f"{name} was {before}, here it is {after}")
    ran = {_model(name) for name in now.numbers}
    names = dict.fromkeys([*(name for name in then.numbers if _model(name) in ran), *now.numbers])
    rows = tuple(Row(name, then.numbers.get(name), now.numbers.get(name)) for name in names)
    other_bytes = tuple(path for path, digest in now.sha256.items() if then.sha256.get(path) != digest)
    return Findings(rows, other_bytes, tuple(reasons))
