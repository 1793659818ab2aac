"""Where this machine stands, claim by claim: `python -m benchmarks.all --quick`, after `make run`, in short runs.

One benchmark after the other, then one table: ours, the best of the others, and how many times as good ours is. With
`--quick` each is short, has only the contenders that come near, and writes no results. Without it each runs in full,
which takes hours, and writes its own. llama.cpp takes part where its environment is; benchmarks/README.md makes it.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import PRECISION
from benchmarks.harness import ROOT, Table, read_tables, results_file, say, show
from benchmarks.lora_speed import COMPILED
from benchmarks.serve_load import published_file
from llm.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder."""

    quick: tuple[str, ...]
    """Options with which it takes a minute or two."""
    reads_published: bool = False
    """Whether it reads the file of the published weights, as llama.cpp does."""


SHORT_TRAINING = ("--rounds", "1", "--seconds", "5", "--only")
LLAMA_CPP = ROOT / ".peers-llama/bin/python"
BENCHMARKS = {
    "train_speed": Benchmark((*SHORT_TRAINING, f"ours {PRECISION} + compile", f"transformers {PRECISION} + compile")),
    "lora_speed": Benchmark((*SHORT_TRAINING, str(COMPILED))),
    "generate": Benchmark(("--rounds", "1", "--new", "64"), reads_published=True),
    "classify_speed": Benchmark(("--rounds", "1", "--mails", "300")),
    "time_to_loss": Benchmark(("--budgets", "60", "--only", "ours")),
}


def run(name: str, benchmark: Benchmark, *, quick: bool) -> list[Table] | None:
    """The tables of a benchmark, run in a process of its own; None if it failed, which it has then said itself."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    if quick:
        command += benchmark.quick
    if benchmark.reads_published:
        try:
            command += ["--pretrained", str(published_file())]
        except UserError as error:
            say(str(error))
            return None
        if LLAMA_CPP.exists():
            command += ["--peer", str(LLAMA_CPP)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "tables.json") if quick else results_file(name)
        process = subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=False)
        return read_tables(out) if process.returncode == 0 else None


def summary(table: Table) -> list[object]:
    """A table's row: its title, ours, the best of the others, how many times as good ours is, the other's name."""
    ours, best = table.best(ours=True), table.best(ours=False)
    title = f"{table.title.split(';')[0]}, {table.figure}"
    if ours is None:
        return [title, "failed", "", "", best or ""]
    value = table.contenders[ours][table.figure]
    if best is None:
        return [title, value, "", "", ""]
    return [title, value, table.contenders[best][table.figure], f"{table.times(ours, best):.2f}", best]


def main(arguments: list[str] | None = None) -> int:
    """Run all, print one table; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs, and nothing is written")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="of these benchmarks")
    options = parser.parse_args(arguments)
    rows, failed = [], []
    for name in options.only:
        say(f"== {name}")
        tables = run(name, BENCHMARKS[name], quick=options.quick)
        if tables is None:
            failed.append(name)
        else:
            rows += [summary(table) for table in tables]
    show("Where this machine stands", ["", "ours", "the best of the others", "times", ""], rows)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
