"""How much another seed moves the figures: `python -m benchmarks.seeds`, after `make run`; or for some models alone:

    python -m benchmarks.seeds --applications guard classifier

Each seed is trained and evaluated in a temporary project: a copy of this code, the current data and the base, with
`train.seed` changed in params.yaml. models/, reports/, MLflow and DVC stay as they are. Then each metric is printed as
a row of a Markdown table: mean, lowest, highest. The log of trainings goes to stderr.

The metrics of a seed are kept below .threestage/seeds/, in a folder named by a hash of everything copied. The same
command goes on with the seeds that are missing. A change of code, data or parameters starts anew.

On 2 cores with AVX-512 bfloat16 a seed takes about 4 minutes for the classifier, 1 for the guard, 6 for the assistant
and 3 for the foundation (docs/performance.md): about 45 minutes for three seeds of all.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llm.errors import UserError
from llm.files import write_atomic
from tasks.stages.lock import STATE
from tasks.stages.names import FOUNDATION, PARAMS_FILE, REPLAY, evaluation_stage, model_names, training_stage
from tasks.stages.yaml_text import merged, read_yaml

SEEDS = (1, 2, 3)
_SHORT = {"steps": 4, "evaluate_every": 4, "checkpoint_every": 4}
SMALL = {
    "foundation": {"train": {**_SHORT, "n_layer": 2, "n_embd": 64}},
    "applications": {
        "classifier": {"train": {**_SHORT, "layers": 4}},
        "guard": {"train": {**_SHORT, "layers": 4, "last_blocks": 2}},
        "assistant": {"train": {**_SHORT, "window": 256}, "evaluate": {"max_new_tokens": 16}},
    },
}
"""The parameters of `--smoke`."""
CODE = tuple(map(Path, ("flows", "llm", "tasks", "data/behavioural", "dvc.yaml", "libraries.json", ".dvcignore")))
"""What every training and evaluation reads, besides data and base."""
COMMANDS = Path("cli")
"""How they are started: copied with them, but no reason to measure again."""
COMPILED = "__pycache__"
INTERVAL = ("_low", "_high")
"""How the names of an interval's ends end: the spread of seeds takes their place."""


def model_block(values: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A model's block of params.yaml."""
    return values[FOUNDATION] if model == FOUNDATION else values["applications"][model]


def inputs(values: Mapping[str, Any], model: str) -> list[Path]:
    """The files and folders that a model's training and evaluation read, besides params.yaml."""
    block = model_block(values, model)
    paths = [*CODE, Path("data/processed", block["dataset"])]
    paths += [Path(replay["prompts"]) for replay in values[REPLAY].values()]  # params.yaml is checked as a whole
    if model != FOUNDATION:
        paths += [Path("models", block["base"]), Path(block["rehearses"])]
    return paths


def files_below(path: Path) -> Iterator[Path]:
    """The files of a folder in order, or the file itself; no compiled Python. Raises UserError if it is missing."""
    if not path.exists():
        raise UserError(f"{path}: missing; `make run` makes it")
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and COMPILED not in file.parts:
            yield file


def fingerprint(values: Mapping[str, Any], model: str) -> str:
    """A hash of everything that decides a model's figures, except its seed."""
    block = model_block(values, model)
    unseeded = block | {"train": block["train"] | {"seed": None}}
    digest = hashlib.sha256(json.dumps(unseeded, sort_keys=True).encode())
    for path in inputs(values, model):
        for file in files_below(path):
            digest.update(f"\n{file}\n".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def write_params(folder: Path, values: Mapping[str, Any], model: str, *, seed: int) -> None:
    """Write params.yaml with another seed of one model."""
    changes: dict[str, Any] = {"train": {"seed": seed}}
    changes = {FOUNDATION: changes} if model == FOUNDATION else {"applications": {model: changes}}
    (folder / PARAMS_FILE).write_text(yaml.safe_dump(merged(values, changes), sort_keys=False))


def make_project(folder: Path, values: Mapping[str, Any], model: str, *, seed: int) -> None:
    """Copy into an empty folder what a model needs, as a project of DVC with the seed in params.yaml."""
    for path in [COMMANDS, *inputs(values, model)]:
        for file in files_below(path):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file)
    write_params(folder, values, model, seed=seed)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")


def measure(values: Mapping[str, Any], model: str, seed: int) -> dict[str, float]:
    """Train a model with this seed and return its metrics. Raises UserError if training or evaluation fails."""
    training = ["pretrain"] if model == FOUNDATION else ["finetune", model]
    commands = {training_stage(model): training, evaluation_stage(model): ["evaluate", model]}
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with tempfile.TemporaryDirectory(prefix="threestage-seed-") as name:
        folder = Path(name)
        make_project(folder, values, model, seed=seed)
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        for stage, command in commands.items():
            environment["DVC_STAGE"] = stage  # a stage of DVC's ends with its parent
            line = [sys.executable, "-m", "cli", *command]
            code = subprocess.run(line, cwd=folder, env=environment, stdout=sys.stderr, check=False).returncode
            if code:
                raise UserError(f"seed {seed}: {' '.join(command)} ended with exit code {code}")
        return json.loads((folder / "reports/evaluation" / model / "metrics.json").read_text())


def measured_seeds(
    values: Mapping[str, Any], model: str, seeds: Sequence[int], *, kept: Path
) -> list[dict[str, float]]:
    """Return the metrics of each seed; only seeds without a saved result are trained. Raises UserError as `measure`."""
    folder = kept / model / fingerprint(values, model)
    results = []
    for seed in seeds:
        file = folder / f"{seed}.json"
        if not file.exists():
            metrics = measure(values, model, seed)
            write_atomic(file, json.dumps(metrics, indent=2) + "\n")
        results.append(json.loads(file.read_text()))
    return results


def table(model: str, results: Sequence[Mapping[str, float]]) -> str:
    """The mean, the lowest and the highest value of each metric that all seeds have, as a Markdown table."""
    lines = [f"| {model}, {len(results)} seeds | mean | lowest | highest |", "|---|---|---|---|"]
    for metric in results[0]:
        if metric.endswith(INTERVAL) or not all(metric in result for result in results):
            continue
        values = [result[metric] for result in results]
        figures = (statistics.fmean(values), min(values), max(values))
        lines.append(f"| {metric} | " + " | ".join(f"{figure:.4g}" for figure in figures) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = model_names()
    parser.add_argument(
        "--applications", nargs="+", choices=names, default=names, metavar="NAME", help="all by default"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED", help="1 2 3 by default")
    parser.add_argument("--kept", type=Path, default=STATE / "seeds", metavar="FOLDER", help="where metrics are kept")
    options = parser.parse_args(arguments)
    values = read_yaml(PARAMS_FILE)
    for model in options.applications:
        try:
            results = measured_seeds(values, model, options.seeds, kept=options.kept)
        except UserError as error:
            parser.error(f"{model}: {error}")
        sys.stdout.write(table(model, results) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
