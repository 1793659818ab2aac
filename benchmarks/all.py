"""Where this machine stands, claim by claim: `python -m benchmarks.all --quick`, after `make run`, in short runs.

One benchmark after the other, then one table: ours, the best of the others, and how many times as good ours is. With
`--quick` each is short, has only the contenders that come near, and writes no results; without it each runs in full,
which takes hours, and writes its own. Peers take part where their environments are; benchmarks/README.md makes them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.contenders import ROOT, TAKEN
from benchmarks.lora_speed import COMPILED, PRECISIONS
from benchmarks.serve_load import published_file
from llm.errors import UserError

Found = Mapping[str, Any]


class Standing(NamedTuple):
    """A claim: what, ours, the best of the others and its name."""

    what: str
    ours: float
    best: float | None = None
    who: str = ""
    less_is_better: bool = False

    @property
    def times(self) -> str:
        """How many times as good as the best of the others ours is."""
        if self.best is None:
            return ""
        return f"{self.best / self.ours if self.less_is_better else self.ours / self.best:.2f}"


def _standing(what: str, values: Mapping[str, float], less_is_better: bool = False) -> Standing:
    """The best of the values whose names begin with `ours` beside the best of the others."""
    best = min if less_is_better else max
    ours = best(value for name, value in values.items() if name.startswith("ours"))
    others = {name: value for name, value in values.items() if not name.startswith("ours")}
    who = best(others, key=others.__getitem__) if others else ""
    return Standing(what, ours, others.get(who), who, less_is_better)


def _seconds(what: str, contenders: Mapping[str, Found]) -> Standing:
    good = {name: each["seconds_a_step"] for name, each in contenders.items() if "failed" not in each}
    return _standing(f"{what}, seconds a step", good, less_is_better=True)


def _training(found: Found) -> Iterator[Standing]:
    for name, each in found["set_ups"].items():
        yield _seconds(name, each["contenders"])


def _lora(found: Found) -> Iterator[Standing]:
    yield _seconds("LoRA", found["contenders"])


def _learned(found: Found) -> Iterator[Standing]:
    for budget in found["best"]["ours"]:
        made = {name: each[budget] for name, each in found["best"].items()}
        bits = {name: each["bits_per_byte"] for name, each in made.items() if each}
        yield _standing(f"bits per byte after {budget} s", bits, less_is_better=True)


def _mails(found: Found) -> Iterator[Standing]:
    for size, speed in found["mails_per_second"]["served"].items():
        yield Standing(f"mails a second, {size} a request", speed)


def _generation(found: Found) -> Iterator[Standing]:
    for texts in (1, found["settings"]["texts"]):
        speeds = {
            name if name.startswith("llama.cpp") else f"ours, {name}": speed
            for name, speed in found["published"]["tokens_per_second"].items()
            if name.endswith(f", {texts}")
        }
        yield _standing(f"texts at once: {texts}, tokens a second", speeds)


def _preprocessing(found: Found) -> Iterator[Standing]:
    for size, each in found["sizes"].items():
        good = {name: one["mb_per_processor_second"] for name, one in each.items() if "failed" not in one}
        yield _standing(f"{size} GB of text, MB a second of the processor", good)


class Benchmark(NamedTuple):
    """A script of this folder."""

    standings: Callable[[Found], Iterator[Standing]]
    """Its claims, from its results."""
    quick: tuple[str, ...]
    """Options with which it takes a minute or two."""
    peers: str = ""
    """The folder of its peers' environment."""
    option: str = "--peers"
    """What names their Python."""
    nearest: tuple[str, ...] = ()
    """Contenders from there that take part in a quick run, behind `--only`."""
    needs: Callable[[], tuple[str, ...]] = tuple
    """Options that it needs in any run. Raises UserError where what they name is not here."""


BENCHMARKS = {
    "train_speed": Benchmark(
        _training,
        ("--rounds", "1", "--seconds", "5", "--only", f"ours {TAKEN} + compile", f"transformers {TAKEN} + compile"),
        ".peers",
        nearest=(f"llms-from-scratch fast {TAKEN} + compile",),
    ),
    "lora_speed": Benchmark(
        _lora,
        ("--rounds", "1", "--seconds", "5", "--only", str(COMPILED)),
        ".peers-lora",
        nearest=tuple(f"peft, {[*PRECISIONS][-1]}, {form}" for form in ("packed", "separated")),
    ),
    "generate": Benchmark(
        _generation,
        ("--rounds", "1", "--new", "64"),
        ".peers-llama",
        "--peer",
        needs=lambda: ("--pretrained", str(published_file())),
    ),
    "classify_speed": Benchmark(_mails, ("--rounds", "1", "--mails", "300")),
    "time_to_loss": Benchmark(_learned, ("--budgets", "60", "--only", "ours")),
    "preprocess_speed": Benchmark(_preprocessing, ("--gigabytes", "0.05")),
}


def results(name: str, benchmark: Benchmark, quick: bool) -> Found | None:
    """What a benchmark finds, in a process of its own; None where it failed, which it has then said itself."""
    python = ROOT / benchmark.peers / "bin/python"
    peers = benchmark.peers and python.exists()
    short = [*benchmark.quick, *(benchmark.nearest if peers else ())] if quick else []
    command = [sys.executable, "-m", f"benchmarks.{name}", *short, *([benchmark.option, str(python)] if peers else [])]
    try:
        command += benchmark.needs()
    except UserError as error:
        sys.stdout.write(f"{error}\n")
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json") if quick else report.results(name)
        done = subprocess.run([*command, "--out", str(out)], cwd=ROOT)
        return json.loads(out.read_text()) if done.returncode == 0 else None


def main(arguments: list[str] | None = None) -> int:
    """Run all, print one table; the exit code is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs, and nothing is written")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="of these benchmarks")
    options = parser.parse_args(arguments)
    rows, failed = [], []
    for name in options.only:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        found = results(name, BENCHMARKS[name], options.quick)
        if found is None:
            failed.append(name)
        else:
            rows += [
                (each.what, each.ours, each.best or "", each.times, each.who)
                for each in BENCHMARKS[name].standings(found)
            ]
    report.show("Where this machine stands", ("", "ours", "the best of the others", "times", ""), rows)
    if failed:
        sys.stdout.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
