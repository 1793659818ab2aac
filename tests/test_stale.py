"""What makes a stage stale: the code that can change its bytes, and no other.

A short table says for each module of ours which stages it may make stale. Everything that a stage's command imports is
either among its deps or known here to change no byte, with the reason.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase

import pytest
import yaml
from dvc.repo import Repo
from projects import PACKAGES, ROOT

from tasks.stages.params import evaluation_stage, training_stage

pytestmark = pytest.mark.slow

VALUES = yaml.safe_load((ROOT / "params.yaml").read_text())
DATASETS, MODELS = VALUES["datasets"], {"foundation": VALUES["foundation"], **VALUES["applications"]}
FINETUNE = tuple(f"finetune@{name}" for name in VALUES["applications"])
TRAINING = ("pretrain", *FINETUNE)
EVALUATION = tuple(evaluation_stage(name) for name in MODELS)
EVALUATED = tuple(evaluation_stage(name) for name in VALUES["applications"])
LOAD = "load_published"
FETCH, PREPROCESS = (tuple(f"{stage}@{name}" for name in DATASETS) for stage in ("fetch", "preprocess"))


def stages_of(chosen: Iterable[bool]) -> tuple[str, ...]:
    """The stages that train and evaluate some of the models."""
    names = [name for name, one in zip(MODELS, chosen, strict=True) if one]
    return (*(training_stage(name) for name in names), *(evaluation_stage(name) for name in names))


STALE = {  # the first pattern that fits a module counts
    "flows/fetch.py": FETCH,
    "flows/preprocess.py": PREPROCESS,
    "flows/pretrain.py": ("pretrain",),
    "flows/load_published.py": (LOAD,),
    "flows/finetune.py": FINETUNE,
    "flows/evaluate.py": EVALUATION,
    "flows/*": (),  # what runs or registers the others
    "llm/tokenizer.py": (LOAD, *PREPROCESS, *TRAINING, *EVALUATION),
    "llm/chat.py": (LOAD, *FINETUNE, *EVALUATED),
    "llm/config.py": (LOAD, *TRAINING, *EVALUATION),
    "llm/dataset.py": (*TRAINING, *EVALUATION),
    "llm/tokens.py": (*TRAINING, *EVALUATION),
    "llm/device.py": (*TRAINING, *EVALUATION),
    "llm/model/*": (LOAD, *TRAINING, *EVALUATION),
    "llm/kernels/__init__.py": (),
    "llm/kernels/serving/*": EVALUATED,  # what a served model computes with
    "llm/kernels/*": (*TRAINING, *EVALUATION),
    "llm/objectives/preference.py": FINETUNE,  # foreach gives all fine-tunes the same deps
    "llm/generation/__init__.py": (),
    "llm/generation/greedy.py": (),  # what tests compare with
    "llm/generation/packed.py": EVALUATED,
    "llm/generation/*": (*TRAINING, *EVALUATION),  # samples and answers are among the outs
    "llm/formats/model_folder.py": (LOAD, *TRAINING, *EVALUATION),
    "llm/formats/weights.py": (LOAD, *TRAINING, *EVALUATION),
    "llm/formats/*": (LOAD,),  # published weights: a training from them sees what was loaded
    "llm/training/calibration.py": (*TRAINING, *EVALUATED),  # of the baseline, too
    "llm/training/*": TRAINING,
    "llm/objectives/__init__.py": (),
    **{
        f"llm/objectives/{objective}.py": stages_of(block["objective"] == objective for block in MODELS.values())
        for objective in {block["objective"]: None for block in MODELS.values()}
    },
    "tasks/applications/__init__.py": (),
    **{f"tasks/applications/{name}/train.py": (training_stage(name),) for name in MODELS},
    "tasks/data/archives.py": FETCH,
    "tasks/data/compression.py": (*FETCH, *PREPROCESS),
    "tasks/data/folders.py": (*FETCH, *PREPROCESS),
    "tasks/data/local.py": FETCH,
    "tasks/data/registries.py": FETCH,
    "tasks/data/remote.py": FETCH,
    "tasks/data/sources.py": FETCH,
    "tasks/data/published.py": (LOAD,),
    "tasks/data/__init__.py": (),
    "tasks/data/mail.py": (*PREPROCESS, *EVALUATED),  # behavioural mails are cleaned as served ones are
    "tasks/data/conversations.py": (*FINETUNE, *EVALUATED),
    "tasks/data/drift.py": (),  # what a retrain shows of the data
    "tasks/data/*": PREPROCESS,
    "tasks/datasets/__init__.py": PREPROCESS,
    "tasks/evaluation/__init__.py": (),
    **{f"tasks/applications/{name}/evaluate.py": (evaluation_stage(name),) for name in MODELS},
    "tasks/evaluation/statistics.py": EVALUATION,
    **{
        f"tasks/evaluation/{objective}/*": tuple(
            evaluation_stage(name) for name, block in MODELS.items() if block["objective"] == objective
        )
        for objective in {block["objective"]: None for block in MODELS.values()}
    },
    **{f"tasks/datasets/{name}.py": (f"preprocess@{name}",) for name in DATASETS},
    "tasks/training/fit.py": TRAINING,
    "tasks/training/report.py": TRAINING,
    "tasks/training/setup.py": FINETUNE,
    "*": (),  # how a stage is run, shown, tracked, registered or served
}
FETCHING = [
    f"tasks/data/{name}.py"
    for name in ("archives", "compression", "folders", "local", "registries", "remote", "sources")
]
SPLITTING = [f"tasks/data/{name}.py" for name in ("cleaning/*", "gates", "shingles", "splits")]
NO_BYTE = {  # what the commands of a flow import without its being a dep, and why it changes none
    "*": {
        "*/__init__.py": "doors, finders, and the forms that slices fill in",
        "llm/errors.py": "how a mistake is said",
        "llm/files.py": "writes the bytes that it is given",
        **dict.fromkeys(
            ("llm/generation/packed.py", "llm/kernels/serving/*"),
            "for serving; an evaluation that computes with them names them",
        ),
        "tasks/registry/*": "tracking and lineage",
        "tasks/stages/*": "how a stage is run",
    },
    "flows.fetch": {
        "llm/config.py": "the base of parameters, which are in dvc.lock themselves",
        "tasks/data/formats/__init__.py": "imported by datasets",
        "tasks/data/inbox.py": "makes a folder that is no out",
        **dict.fromkeys(SPLITTING, "imported by it"),
    },
    "flows.preprocess": {
        "llm/config.py": "the base of parameters, which are in dvc.lock themselves",
        "llm/formats/tokenizer_files.py": "tokenizers of published models",
        "tasks/data/published.py": "where these come from",
        **dict.fromkeys(FETCHING, "how they are fetched"),
    },
    "flows.pretrain": {
        **dict.fromkeys(SPLITTING, "the base of a dataset's parameters"),
        "tasks/training/*": "forms, progress, interrupted ones",
    },
    "flows.load_published": {
        **dict.fromkeys(FETCHING, "how they are fetched, checked against a hash"),
    },
    "flows.finetune": {
        "tasks/training/*": "progress, interrupted ones",
    },
    "flows.evaluate": {
        "llm/training/*": "how a model learns",
        "tasks/training/setup.py": "forms, and which file is a split",
    },
}
IMPORTED = """
import importlib, json, os, sys
from pathlib import Path
import dvc.repo, ftfy, matplotlib.figure, mlflow, pandas, prefect, rouge_score.rouge_scorer
import scipy.sparse, sklearn.feature_extraction.text, sklearn.linear_model, sklearn.pipeline, tiktoken
import torch.distributed.fsdp
# what several of them share, once: imports take seconds

for modules in json.loads(sys.argv[1]):
    if os.fork() == 0:
        for module in modules:
            importlib.import_module(module)
        paths = [Path(each.__file__) for each in list(sys.modules.values()) if getattr(each, "__file__", None)]
        print(json.dumps([str(p.relative_to(Path.cwd())) for p in paths if p.is_relative_to(Path.cwd())]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{modules}")
"""


def modules() -> list[str]:
    """Every module of ours, as a path from the root."""
    return sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def expected(module: str) -> tuple[str, ...]:
    return next(stages for pattern, stages in STALE.items() if fnmatchcase(module, pattern))


@pytest.fixture(scope="module")
def deps() -> dict[str, list[str]]:
    """The deps of every stage."""
    with Repo(str(ROOT)) as repo:
        return {stage.addressing: [dep.def_path for dep in stage.deps] for stage in repo.index.stages}


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    """The modules that each stage's command starts with: the flow, and the slice that it finds by its name."""
    found = {}
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            module, *name = stage.cmd.removeprefix("exec python -m ").split()
            slices = {"fetch": [], LOAD: [], "preprocess": [f"tasks.datasets.{name[0]}"] if name else []}
            model = name[0] if name else "foundation"
            part = "evaluate" if module == "flows.evaluate" else "train"
            application = [f"tasks.applications.{model}.{part}"]
            found[stage.addressing] = [module, *slices.get(module.partition(".")[2], application)]
    return found


def is_named(module: str, deps: list[str]) -> bool:
    return any(module == dep or module.startswith(f"{dep}/") for dep in deps)


@pytest.mark.parametrize("module", modules())
def test_a_module_makes_these_stages_stale(deps, module):
    stale = {stage for stage, names in deps.items() if is_named(module, names)}
    assert stale == set(expected(module)), module


def test_no_pattern_of_the_table_is_idle():
    first = {next(pattern for pattern in STALE if fnmatchcase(module, pattern)) for module in modules()}
    assert first == set(STALE)


def test_what_a_command_imports_is_a_dep_or_changes_no_byte(deps, commands):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(list(commands.values()))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for stage, line in zip(commands, done.stdout.splitlines(), strict=True):
        ours = {path for path in json.loads(line) if path.split("/")[0] in PACKAGES}
        assert commands[stage][0].replace(".", "/") + ".py" in ours
        known = [*NO_BYTE["*"], *NO_BYTE[commands[stage][0]]]
        unknown = [
            path
            for path in sorted(ours)
            if not is_named(path, deps[stage]) and not any(fnmatchcase(path, pattern) for pattern in known)
        ]
        assert unknown == [], f"{stage}: add to its deps in dvc.yaml, or say here why it changes no byte"


def test_an_inbox_and_content_of_our_own_make_their_dataset_stale_and_no_other(deps):
    for dataset in DATASETS:
        for folder in (f"data/inbox/{dataset}", f"data/{dataset}"):
            assert [stage for stage, names in deps.items() if folder in names] == [f"preprocess@{dataset}"]
            assert (ROOT / folder).is_dir()
    assert not any("data/inbox" in names for names in deps.values())


def test_every_dep_that_is_code_exists(deps):
    for stage, names in deps.items():
        code = [name for name in names if name.split("/")[0] in PACKAGES]
        assert code, stage
        assert [name for name in code if not (ROOT / name).exists()] == []


def test_a_stage_that_computes_names_the_libraries_that_compute():
    with Repo(str(ROOT)) as repo:
        named = {
            stage.addressing: {name for dep in stage.params if dep.def_path == "libraries.json" for name in dep.params}
            for stage in repo.index.stages
        }
    for stage, names in named.items():
        if stage in TRAINING:
            assert {"torch", "tiktoken"} <= names
        elif stage in EVALUATION:
            assert {"torch", "tiktoken", "scipy"} <= names
        elif stage == LOAD:
            assert {"torch", "tiktoken", "safetensors"} <= names
        elif stage in PREPROCESS:
            assert {"ftfy", "tokenizers", "tiktoken"} <= names
        else:
            assert not names


def test_a_stage_command_leaves_no_shell_between_dvc_and_itself(commands):
    with Repo(str(ROOT)) as repo:
        assert all(stage.cmd.startswith("exec python -m flows.") for stage in repo.index.stages)


def test_no_import_is_relative_so_that_a_line_says_where_a_thing_is():
    for module in modules():
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), module


def test_compiled_python_is_no_reason_to_run_a_stage() -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_dir(str(ROOT / "llm/model/__pycache__"))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "llm/model/gpt.py"))
