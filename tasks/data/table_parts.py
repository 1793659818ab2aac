"""A table too large for memory, as parts on disk: each is written once, by any core, all or nothing.

A part is an Arrow file, read through a memory map; its metadata hold the record of its cleaning. An interrupted run
goes on with the first missing part.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from llm.files import atomic_file
from tasks.data.cleaning.record import Record
from tasks.stages.progress_bar import ProgressBar
from tasks.stages.ray_cluster import map_in_order

RECORD = b"record"
Job = TypeVar("Job")

logger = logging.getLogger(__name__)


def with_record(table: pa.Table, record: Record) -> pa.Table:
    """The table, and the record of its cleaning."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), RECORD: record.to_json()})


def write_part(path: Path, table: pa.Table) -> None:
    """Write a table atomically."""
    with atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A part, or some of its columns, as views of its file."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return table.select(columns) if columns else table


def read_record(path: Path) -> Record:
    """The record of a part's cleaning."""
    with pa.memory_map(str(path)) as file:
        return Record.from_json(pa.ipc.open_file(file).schema.metadata[RECORD])


def column(paths: Iterable[Path], name: str) -> np.ndarray:
    """A column of numbers, over all parts."""
    return np.concatenate([read_part(path, [name])[name].to_numpy() for path in paths])


def _make(work: Callable[[Job], pa.Table], task: tuple[Path, Job]) -> None:
    path, job = task
    write_part(path, work(job))


def make_parts(
    folder: Path, jobs: Iterable[Job], work: Callable[[Job], pa.Table], *, total: int | None = None
) -> list[Path]:
    """Do each job whose part is not in `folder` yet, on all cores; the parts in the order of the jobs.

    Every call with the same folder must have the same jobs. An exception of `work` ends the call, and earlier parts
    stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.absolute()
    paths: list[Path] = []
    made = 0

    def missing() -> Iterator[tuple[Path, Job]]:
        for number, job in enumerate(jobs):
            paths.append(folder / f"{number:06}.arrow")
            if not paths[-1].exists():
                yield paths[-1], job

    with ProgressBar(desc=folder.name, total=total, unit="part", leave=False) as bar:
        for _ in map_in_order(partial(_make, work), missing()):
            made += 1
            bar.update()
    counts = {"folder": folder.name, "made": made, "kept": len(paths) - made}
    logger.info("%(folder)s: %(made)d parts made, %(kept)d were there", counts)
    return paths
