"""Whole projects for tests: this code, sources that are slices of the real ones, and small sizes."""

import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tasks.stages.yaml_text import merged

ROOT = Path(__file__).parents[1]
OPENS_STORE = "/api/2.0/mlflow/experiments/search?max_results=1"
"""A request for which MLflow's server opens its store; it answers /health before that."""
_turns = itertools.count()
_SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES = tuple(name.removesuffix("*") for name in _SETUPTOOLS["packages"]["find"]["include"])
FILES = (
    *("dvc.yaml", "pyproject.toml", "params.yaml", "params.schema.json", "prefect.yaml", "README.md"),
    *("libraries.json", ".dvcignore", ".gitignore"),
)
SOMEONE = ("-c", "user.name=test", "-c", "user.email=test@localhost")
CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
SMALL = {
    "published": "published",
    "replay": {"assistant": {"max_new_tokens": 8}},
    "datasets": {
        "corpus": {"preprocess": {"validation": 0.1, "test": 0.1, "vocabulary_size": 1024}},
        "emails": {"preprocess": {"train_only": []}},  # the slice has none of that source
        "requests": {"preprocess": {"validation": 0.2, "test": 0.3, "train_only": []}},
        "instructions": {"preprocess": {"train_only": []}},
    },
    "foundation": {
        "train": {"n_layer": 2, "n_embd": 64, "n_head": 2, "context_length": 128, "steps": 60, "batch_size": 8}
        | {"evaluate_every": 20, "checkpoint_every": 10, "evaluation_batches": 4},
    },
    "applications": {
        "classifier": {
            "base": "foundation",  # so that both kinds of base are there
            "train": {"steps": 30, "batch_size": 8, "evaluate_every": 15, "checkpoint_every": 15}
            | {
                "lora": None,
                "last_blocks": None,
                "layers": None,
                "optimizer": "muon",
                "muon_learning_rate": 0.01,
                "learning_rate": 1.5e-3,
                "max_tokens": 128,
            },
        },
        "guard": {"train": {"layers": None, "last_blocks": None, "max_tokens": 64, "ngram_buckets": 4096, "steps": 1}},
        "assistant": {
            "train": {"steps": 20, "batch_size": 4, "evaluate_every": 10, "checkpoint_every": 10}
            | {"context_length": None, "window": 128, "lora": {"rank": 4, "alpha": 8}}
            | {"twice": []},  # nor of this one
            "evaluate": {"max_new_tokens": 8},
        },
    },
}


def read_params(folder: Path) -> dict[str, Any]:
    """A project's parameters."""
    return yaml.safe_load((folder / "params.yaml").read_text())


def change_params(folder: Path, changes: dict | Callable[[dict], Any]) -> None:
    """Change a project's parameters, by nested values or by a function that changes them in place."""
    values = read_params(folder)
    if callable(changes):
        changes(values)
    else:
        values = merged(values, changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def copy_code(folder: Path) -> None:
    """This project's packages and files, in an existing folder."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))  # half written
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "data/behavioural", folder / "data/behavioural")
    (folder / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/automations.yaml", folder / "deploy")
    for name in ("everyday-mail", "replay"):
        shutil.copy(ROOT / f"data/{name}.jsonl", folder / "data")
    (folder / "data/replay").mkdir()
    for name in ("nothing.jsonl", ".gitignore"):
        shutil.copy(ROOT / "data/replay" / name, folder / "data/replay")
    for inbox in (ROOT / "data/inbox").iterdir():  # and nothing that people left there
        (folder / "data/inbox" / inbox.name).mkdir(parents=True)
        shutil.copy(inbox / ".gitignore", folder / "data/inbox" / inbox.name)


def publish_small(folder: Path) -> None:
    """A small chat model of Llama's type as others publish theirs: with random weights, the same ones each time."""
    import torch

    from llm.chat import Chat
    from llm.config import GPTConfig
    from llm.formats.export_huggingface import export_huggingface
    from llm.loaded_model import LoadedModel
    from llm.model.gpt import GPT
    from llm.tokenizer import END_OF_TEXT, make_encoding, train_bpe

    with tarfile.open(ROOT / "tests/data/corpus.tgz") as archive:
        speech = archive.extractfile("speeches/1790_george_washington_n.txt").read().decode()
    trained = train_bpe([speech], 512)
    ranks = trained._mergeable_ranks
    special = {name: len(ranks) + n for n, name in enumerate((END_OF_TEXT, "<|im_start|>", "<|im_end|>"))}
    encoding = make_encoding(trained._pat_str, ranks, special)
    shape = {"context_length": 256, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "n_hidden": 128}
    llama = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT(GPTConfig(**shape, **llama, vocabulary_size=encoding.n_vocab))
    export_huggingface(folder, LoadedModel(model, encoding), Chat(template=CHATML))


def make_project(folder: Path) -> Path:
    """A project with this code, sources that are slices, a published model that is a folder, and small sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_code(folder)
    publish_small(folder / "published")
    change_params(folder, SMALL)
    sources = {}
    for dataset in read_params(folder)["datasets"]:
        archive = ROOT / f"tests/data/{dataset}.tgz"
        if not archive.exists():
            continue
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        sources[dataset] = {"sources": [{"source": f"file:{archive}", "sha256": digest, "files": "*"}]}
    change_params(folder, {"datasets": sources})
    git(folder, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    commit_all(folder, "A project")
    return folder


def git(folder: Path, command: str, *arguments: str) -> None:
    """Run a git command as nobody in particular: the words of `command`, then each argument as it is."""
    subprocess.run(["git", *SOMEONE, *command.split(), *arguments], cwd=folder, check=True)


def commit_all(folder: Path, message: str) -> None:
    """Commit all files of a folder."""
    git(folder, "add --all")
    git(folder, "commit --quiet --message", message)


NO_COMPILER = {"CXX": "false"}
"""Of a training that is only there to be stopped: it would be long enough to have its blocks compiled."""


def environment(**variables: str) -> dict[str, str]:
    """This process's variables as a user's shell would have them in an activated environment."""
    dropped = ("MLFLOW_TRACKING_URI", "DVC_STAGE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    quiet = {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}  # a second thread only costs at these sizes
    return kept | {"PATH": path} | quiet | variables


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python in a project."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, and which nobody is given by chance: Linux gives those from 32768 on.

    Each process of a test run has a hundred of its own, which it takes in turn.
    """
    block = (os.getppid() + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))) % 120
    ports: list[int] = []
    while len(ports) < count:
        port = 20_000 + 100 * block + next(_turns) % 100
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports
