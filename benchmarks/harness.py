"""What the benchmarks share: turns, in processes of their own or in this one; tables; the machine; JSON.

A benchmark yields `Table`s: contenders and their figures, one of which decides. It prints them next to each other and
writes them as JSON. benchmarks/all.py reads the same JSON.

torch is imported where it is used: a contender whose memory is measured should not hold it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llm.files import write_atomic

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
KINDS = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
"""The name of a kind of processor, by its best instructions for matrix products."""
OURS = "ours"
"""The prefix of our own contenders' names."""
FAILED = "failed"

Figures = dict[str, Any]
"""Figures by name, of one contender; `{"failed": reason}` if it could not be measured."""


@dataclass(frozen=True)
class Table:
    """Contenders side by side."""

    title: str
    figure: str
    """The figure that decides."""
    contenders: dict[str, Figures]
    less_is_better: bool = False

    def best(self, *, ours: bool) -> str | None:
        """The best of our contenders, or of the others; None if none was measured."""
        measured = [
            name
            for name, figures in self.contenders.items()
            if name.startswith(OURS) == ours and figures.get(self.figure) is not None
        ]
        choose = min if self.less_is_better else max
        return choose(measured, key=lambda name: self.contenders[name][self.figure], default=None)

    def times(self, ours: str, contender: str) -> float:
        """How many times as good as a contender ours is."""
        our_figure = self.contenders[ours][self.figure]
        their_figure = self.contenders[contender][self.figure]
        return their_figure / our_figure if self.less_is_better else our_figure / their_figure

    def show(self) -> None:
        """Print the table, with a column that says how many times as good our best contender is."""
        best = self.best(ours=True)
        columns = list(dict.fromkeys(name for figures in self.contenders.values() for name in figures))
        rows = []
        for contender, figures in self.contenders.items():
            is_compared = best is not None and figures.get(self.figure) is not None
            times = f"{self.times(best, contender):.2f} x" if is_compared else ""
            rows.append([contender, times, *(figures.get(column, "") for column in columns)])
        show(self.title, ["", "ours is", *columns], rows)


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least one measures something")
    return number


def make_parser(benchmark: str, description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; `--rounds` if contenders take turns."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=positive, default=rounds, help=f"measurements of a contender ({rounds})")
    parser.add_argument("--out", type=Path, default=results_file(benchmark), help="where the figures go")
    return parser


def finish(options: argparse.Namespace, tables: Sequence[Table], packages: Sequence[str] = ()) -> None:
    """Print the tables, and write them with the machine, the versions of packages and the options."""
    for table in tables:
        table.show()
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    results = {"machine": machine(packages), "settings": settings, "tables": [asdict(table) for table in tables]}
    write(options.out, results)


def read_tables(path: Path) -> list[Table]:
    """The tables that a benchmark wrote."""
    return [Table(**table) for table in json.loads(path.read_text())["tables"]]


def results_file(benchmark: str) -> Path:
    """Where the figures of a benchmark go on this kind of processor."""
    flags = _processor()[1]
    kind = next((kind for flag, kind in KINDS.items() if flag in flags), platform.machine())
    return RESULTS / benchmark / f"{kind}.json"


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each contender's measurements, one a round, after a first round that does not count.

    All contenders take part in each round, so other work of the machine affects all alike.
    """
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            if number > 0:
                measured[name].append(value)
    return {name: statistics.median(values) for name, values in measured.items()}


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own."""

    task: str
    """`module:function`."""
    arguments: dict[str, Any]
    """Its keyword arguments; dataclasses become mappings."""
    threads: int

    def run(self) -> Figures:
        """What the function returns, or `{"failed": reason}`.

        The process ends with this one: an orphan would slow whatever is timed next.
        """
        arguments = json.dumps(self.arguments, default=asdict)
        command = [sys.executable, "-m", "tasks.stages.parent_death", sys.executable, "-m", "benchmarks.harness"]
        command += [self.task, arguments, str(self.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if process.returncode == 0:
            return json.loads(process.stdout.splitlines()[-1])
        last_line = (process.stderr.splitlines() or ["no message"])[-1]
        return {FAILED: f"exit code {process.returncode}: {last_line}"}


def run_in_turns(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[Figures]]:
    """What each job returned, round after round; one that failed does not start again.

    Prints a line for each run, with the `status` that it returned.
    """
    returned: dict[str, list[Figures]] = {name: [] for name in jobs}
    for number in range(1, rounds + 1):
        for name, job in jobs.items():
            if any(FAILED in figures for figures in returned[name]):
                continue
            figures = job.run()
            returned[name].append(figures)
            say(f"round {number} of {rounds}, {name}: {figures.get(FAILED) or figures['status']}")
    return returned


def choose(parser: argparse.ArgumentParser, names: Sequence[str] | None, contenders: Mapping[str, Any]) -> list[str]:
    """The contenders that `--only` names, or all; a name that none has ends the program."""
    for name in names or ():
        if name not in contenders:
            parser.error(f"--only {name!r}: those are {', '.join(map(repr, contenders))}")
    return list(names or contenders)


def versions(*, packages: list[str]) -> dict[str, str]:
    """The versions of installed packages."""
    return {name: version(name) for name in packages}


def peak_memory() -> int:
    """The most bytes of memory that this process has held; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, its threads, and the versions of Python, torch and `packages`; nothing that names the host."""
    import torch

    processor, flags = _processor()
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "versions": {"python": platform.python_version(), **versions(packages=["torch", *packages])},
    }


def _processor() -> tuple[str, set[str]]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    return values.get("model name", platform.machine()), set(values.get("flags", "").split())


def read_bandwidth(megabytes: int = 512, rounds: int = 9) -> float:
    """Bytes a second at which torch's threads read memory: the best of several sums over a large tensor."""
    import torch

    numbers = torch.ones(megabytes * 2**18)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return numbers.nbytes / min(seconds)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    text = [list(columns)]
    text += [list(map(cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    lines = []
    for row in text:
        numbers = map(str.rjust, row[1:], widths[1:])
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    say("\n".join([title, "", *lines, ""]))


def cell(value: object) -> str:
    """A float to three digits, or to the unit from 100 on; anything else as text."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, floats to four digits; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(_rounded(results), indent=2) + "\n")


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}")
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value


def main(task: str, arguments: str, threads: str) -> None:
    """Call a function, and print what it returns as the last line."""
    import torch

    torch.set_num_threads(int(threads))
    module, function = task.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
