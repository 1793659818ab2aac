"""What the benchmarks share: contenders take turns in processes of their own; medians, a table of ratios, JSON."""

import importlib
import json
import platform
import re
import statistics
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llm.files import write_atomic
from llm.kernels.processor import processor

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "xllamacpp", "scikit-learn")
OURS, FAILED = "ours", "failed"
LESS, MORE = -1, 1
"""Whether less or more of a figure is better, as the exponent of its ratio."""

Figures = dict[str, Any]
"""The figures of a contender by name; `{"failed": reason}` if it could not be measured."""


@dataclass(frozen=True)
class Job:
    """A function of a benchmark, such as `train.ours`, and its arguments. A process of its own calls it."""

    function: str
    arguments: dict[str, Any]

    def run(self) -> Figures:
        """The figures that the function returns, or the reason of its failure. Its process ends with this one."""
        command = [sys.executable, "-m", "tasks.stages.parent_death", sys.executable, "-m", "benchmarks.harness"]
        command += [self.function, json.dumps(self.arguments, default=str)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode == 0:
            return json.loads(process.stdout.splitlines()[-1])
        last_line = (process.stderr.strip() or "no message").splitlines()[-1]
        return {FAILED: f"exit code {process.returncode}: {last_line}"}


@dataclass
class Table:
    """Contenders side by side."""

    title: str
    better: dict[str, int]
    """Whether LESS or MORE of a figure is better; others have no ratio."""
    jobs: dict[str, Job]
    """A job a contender."""
    contenders: dict[str, Figures] = field(default_factory=dict)
    """The medians of their figures."""
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    """How many times as good ours is as each other contender."""

    def measure(self, rounds: int) -> None:
        """Run all jobs each round, so that the drift of the machine's speed affects all alike."""
        measured: dict[str, list[Figures]] = {name: [] for name in self.jobs}
        for turn in range(1, rounds + 1):
            for name, job in self.jobs.items():
                if not measured[name] or FAILED not in measured[name][-1]:
                    figures = job.run()
                    measured[name].append(figures)
                    shown = "; ".join(f"{figure} {number(value)}" for figure, value in figures.items())
                    say(f"{self.title}, round {turn} of {rounds}, {name}: {shown}")
        self.contenders = {name: medians(figures) for name, figures in measured.items()}
        ours = self.contenders.get(OURS, {})
        for name, theirs in self.contenders.items():
            shared = [figure for figure in self.better if ours.get(figure) and theirs.get(figure) and name != OURS]
            self.ratios[name] = {figure: (ours[figure] / theirs[figure]) ** self.better[figure] for figure in shared}

    def show(self) -> None:
        """Print one column for each contender: its figures, and in brackets how many times better ours are."""
        import pandas as pd  # the memory of contenders is measured without it

        columns: dict[str, dict[str, str]] = {}
        for name, figures in self.contenders.items():
            if FAILED not in figures:
                columns[name] = {}
            for figure, value in figures.items():
                ratio = self.ratios[name].get(figure)
                columns.get(name, {})[figure] = f"{number(value)} ({ratio:.2f} x)" if ratio else number(value)
        say(f"\n{self.title}\n{pd.DataFrame(columns).fillna('').to_string()}")
        for name, figures in self.contenders.items():
            if FAILED in figures:
                say(f"{name} failed: {figures[FAILED]}")


def number(value: object) -> str:
    """A number to three digits, or to the unit; anything else as text."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure; of a contender that failed, why."""
    if FAILED in rounds[-1]:
        return rounds[-1]
    columns = zip(*[figures.values() for figures in rounds], strict=True)  # all have the same figures in one order
    return dict(zip(rounds[0], map(statistics.median, columns), strict=True))


def make_parser(script: str, description: str | None, seconds: float | None = None) -> ArgumentParser:
    """A parser with the options of every benchmark; `--seconds` where a contender is measured for a time."""
    name = f"python -m benchmarks.{script}"
    parser = ArgumentParser(name, description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these tables, and of these contenders")
    if seconds is not None:
        help_ = f"time in which a contender is measured, by default {seconds:g}"
        parser.add_argument("--seconds", type=float, default=seconds, help=help_)
    parser.add_argument("--out", type=Path, help="the JSON file; a run without --quick and --only writes results/")
    return parser


def compare(parser: ArgumentParser, options: Namespace, tables: Sequence[Table], rounds: int = 3) -> int:
    """Measure, print and write the tables. Returns the exit code: 1 if ours failed."""
    titles = {table.title for table in tables}
    names = {name for table in tables for name in table.jobs}
    only = set(options.only or titles | names)
    if unknown := only - titles - names:
        parser.error(f"--only {unknown.pop()}: there are {'; '.join(sorted(titles | names))}")
    chosen = [table for table in tables if table.title in (only & titles or titles)]
    for table in chosen:
        table.jobs = {name: job for name, job in table.jobs.items() if name in (only & names or names)}
        table.measure(1 if options.quick else rounds)
    for table in chosen:
        table.show()
    ours_failed = any(FAILED in table.contenders.get(OURS, {}) for table in chosen)
    out = options.out
    if not (out or options.quick or options.only or ours_failed):
        out = RESULTS / parser.prog.rpartition(".")[2] / f"{processor().name}.json"
    if out:
        shown = [{"title": table.title, "contenders": table.contenders, "ratios": table.ratios} for table in chosen]
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
        results = {"machine": machine(), "settings": settings, "tables": shown}
        write_atomic(out, json.dumps(results, indent=2) + "\n")
    return int(ours_failed)


def machine() -> dict[str, Any]:
    """The processor, its kind, threads and versions; nothing that names the host."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = model[1] if model else platform.machine()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"processor": name, "kind": processor().name, "threads": torch.get_num_threads(), "versions": versions}


def peak_memory() -> float:
    """The most gigabytes of memory that this process has held; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 / 1e9 if peak else 0.0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    module, function = sys.argv[1].split(".")
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    say("\n" + json.dumps(call(**json.loads(sys.argv[2]))))
