"""A small DVC graph: `clean` makes text of `raw`, `train` a model of the text, and `broken` fails."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.repo import Repo
from projects import ROOT
from real_servers import HANGS, wait_for

DVC_YAML = """
stages:
  train: {cmd: "cat clean > model; echo $SAID > said; which python > which", deps: [clean], outs: [model, said, which]}
  clean: {cmd: "cat raw > clean", deps: [raw], params: [rate], outs: [clean]}
  broken: {cmd: "exit 3", deps: [model]}
"""


def make_graph(folder: Path) -> Path:
    """Write the graph to a folder, as a project of DVC in which nothing ran."""
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("rate: 1\n")
    (folder / "raw").write_text("text")
    Repo.init(str(folder), no_scm=True).close()
    for package in ("tasks", "llm"):
        shutil.copytree(ROOT / package, folder / package)  # `python -m tasks.stages.parent_death` starts here
    return folder


def run_in_dvc(*stages: str) -> None:
    """`dvc repro --single-item` of these stages in this process."""
    with Repo() as repo:
        for stage in stages:
            repo.reproduce(stage, single_item=True)


@contextmanager
def begun(stage: str) -> Iterator[subprocess.Popen]:
    """A stage that has touched `begun`, as a process with a group of its own; Ctrl-C on its terminal ends it."""
    code = f"from tasks.stages.dvc_process import reproduce; reproduce({stage!r}, {{}})"
    with subprocess.Popen([sys.executable, "-c", code], process_group=0) as running:

        def has_begun_or_ended() -> bool:
            return Path("begun").exists() or running.poll() is not None

        try:
            wait_for(has_begun_or_ended)
            yield running
            os.killpg(running.pid, signal.SIGINT)
            running.wait(timeout=HANGS)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
