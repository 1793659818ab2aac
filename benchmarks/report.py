"""What the benchmarks share: take turns, take the median, say on which machine, print a table, write JSON."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from llm.files import write_atomic

RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
KINDS = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
"""What a kind of processor is called, by the best that it has for products."""


def results(benchmark: str) -> Path:
    """Where the numbers of a benchmark go on this kind of processor."""
    flags = _processor()[1]
    kind = next((kind for flag, kind in KINDS.items() if flag in flags), platform.machine())
    return RESULTS / benchmark / f"{kind}.json"


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each contender's measurements, one a round, after a first round that does not count.

    All take part in each round, so that whatever else the machine does meets all alike.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds measure nothing")
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            if number:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, its threads, and the versions of Python, torch and `packages`; nothing that names the host."""
    processor, flags = _processor()
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", *packages)}},
    }


def _processor() -> tuple[str, set[str]]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    values = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    return values.get("model name", platform.machine()), set(values.get("flags", "").split())


def read_bandwidth(megabytes: int = 512, rounds: int = 9) -> float:
    """Bytes a second at which torch's threads read memory: the best of several sums over a large tensor."""
    numbers = torch.ones(megabytes * 2**18)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return numbers.nbytes / min(seconds)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; floats to three digits, or to the unit where they are larger."""
    text = [[_cell(value) for value in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in text]
    sys.stdout.write("\n".join([title, "", *lines, "", ""]))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


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
