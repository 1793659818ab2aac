"""What makes a stage stale: the code that can change its bytes, and no other.

A table shows which stages a change makes stale. Everything that a stage's command imports is among its deps, or listed
here with the reason why it changes no byte.
"""

import json
import subprocess
import sys
from fnmatch import fnmatchcase
from typing import get_args

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage
from projects import PACKAGES, ROOT
from pydantic import BaseModel

from llm.config import Config, Replay
from tasks.data.sources import Source
from tasks.params.slices import find_dataset, find_evaluation, find_training
from tasks.stages.names import evaluation_stage, training_stage

pytestmark = pytest.mark.slow

VALUES = yaml.safe_load((ROOT / "params.yaml").read_text())
DATASETS, APPLICATIONS = VALUES["datasets"], VALUES["applications"]
FETCH = [f"fetch@{name}" for name in DATASETS]
PREPROCESS = [f"preprocess@{name}" for name in DATASETS]
LOAD = ["load_published"]
REPLAY = [f"replay@{name}" for name in VALUES["replay"]]
FINETUNE = [f"finetune@{name}" for name in APPLICATIONS]
EVALUATE = [f"evaluate@{name}" for name in APPLICATIONS]
TRAINING = ["pretrain", *FINETUNE]
EVALUATION = ["evaluate_foundation", *EVALUATE]
CLASSIFIER = [f"{stage}@{name}" for name in ("classifier", "guard") for stage in ("finetune", "evaluate")]
ASSISTANT = [*REPLAY, "finetune@assistant", "evaluate@assistant"]
FOUNDATION = ["pretrain", "evaluate_foundation"]

CHANGES = {  # a file, a library or a parameter, and the stages that its change makes stale
    "llm/model/attention.py": LOAD + REPLAY + TRAINING + EVALUATION,
    "llm/model/lora.py": LOAD + REPLAY + TRAINING + EVALUATION,
    "llm/training/loop.py": TRAINING,
    "llm/training/loss.py": TRAINING + EVALUATION,
    "llm/kernels/training/flash.c": TRAINING + EVALUATION,
    "llm/objectives/find.py": [],
    "llm/objectives/language_model/loss.py": FOUNDATION,
    "llm/objectives/classifier/calibration.py": CLASSIFIER,
    "llm/objectives/classifier/ngrams.py": CLASSIFIER,
    "llm/objectives/classifier/linear.py": CLASSIFIER,
    "llm/objectives/assistant/rows.py": ASSISTANT,
    "llm/chat.py": LOAD + REPLAY + FINETUNE + EVALUATE,
    "llm/tokenizer.py": PREPROCESS + LOAD + REPLAY + TRAINING + EVALUATION,
    "llm/generation/sampling.py": REPLAY + EVALUATION,
    "llm/generation/reading.py": REPLAY + EVALUATION,
    "llm/generation/packed.py": REPLAY + EVALUATE,
    "llm/kernels/serving/decode.c": REPLAY + EVALUATE,  # what a model answers
    "llm/kernels/c_library.py": REPLAY + TRAINING + EVALUATION,  # the options of the compiler
    "llm/formats/huggingface.py": [*LOAD, "pretrain"],
    "llm/formats/tokenizer_files.py": [*PREPROCESS, *LOAD, "pretrain"],
    "llm/formats/tokenizer_json.py": PREPROCESS + LOAD + REPLAY + TRAINING + EVALUATION,
    "llm/files.py": [],
    "tasks/applications/classifier/train.py": ["finetune@classifier", "evaluate@classifier"],
    "tasks/applications/classifier/measure.py": ["evaluate@classifier"],
    "tasks/applications/classifier/evasions.py": ["evaluate@classifier"],
    "tasks/applications/guard/train.py": ["finetune@guard", "evaluate@guard"],
    "tasks/applications/assistant/rouge.py": ["evaluate@assistant"],
    "tasks/applications/assistant/judge.py": ["evaluate@assistant"],
    "tasks/measures/labels/scores.py": EVALUATE,
    "tasks/applications/foundation/cache.py": ["evaluate_foundation"],
    "tasks/applications/foundation/kneser_ney.py": ["evaluate_foundation"],
    "tasks/measures/intervals.py": EVALUATION,
    "tasks/measures/scores.py": EVALUATION,
    "tasks/training/fit.py": TRAINING,
    "tasks/training/labelled.py": FINETUNE,
    "tasks/training/progress.py": [],
    "tasks/training/ray.py": [],
    "tasks/data/archives.py": FETCH,
    "tasks/data/published.py": [*PREPROCESS, *LOAD, "pretrain"],
    "tasks/data/mail": PREPROCESS + EVALUATE,
    "tasks/data/splits.py": PREPROCESS,
    "tasks/data/sniff.py": PREPROCESS,
    "tasks/data/formats/mails.py": PREPROCESS,  # any dataset may read any form
    "tasks/data/drift.py": [],
    "tasks/datasets/emails.py": ["preprocess@emails"],
    "tasks/data/formats/labels.py": PREPROCESS,
    "tasks/stages/command.py": [],
    "tasks/registry/register.py": [],
    "tasks/review/page.py": [],
    "tasks/served.py": [],
    "flows/retrain.py": [],
    "flows/pretrain.py": ["pretrain"],
    "cli/stages.py": [],
    "app/page": [],
    "data/inbox/emails": ["preprocess@emails"],
    "libraries.json:matplotlib": EVALUATION,
    "libraries.json:torch": LOAD + REPLAY + TRAINING + EVALUATION,
    "libraries.json:scikit-learn": EVALUATE,
    "libraries.json:tokenizers": PREPROCESS + LOAD + REPLAY + TRAINING + EVALUATION,
    "data/replay.jsonl": REPLAY,
    "data/replay/nothing.jsonl": ["finetune@classifier", "finetune@guard"],
    "params.yaml:replay.assistant.system": REPLAY,
    "params.yaml:foundation.train.steps": ["pretrain"],
    "params.yaml:foundation.evaluate.sample_prompts": ["evaluate_foundation"],
    "params.yaml:applications.classifier.review": [],
}
FETCHING = ("archives", "inbox", "sources")
FETCHING = [f"tasks/data/{name}.py" for name in FETCHING]
SPLITTING = [f"tasks/data/{name}.py" for name in ("cleaning/*", "dataset", "problems", "gates", "shingles", "splits")]
NO_BYTE = {  # what the commands of a flow import without its being a dep, and why it changes none
    "*": {
        "cli/*": "starts the flow, and computes nothing",
        "app/project.py": "checks that a command runs in a project",
        "*/__init__.py": "packages, finders, and the forms that slices fill in",
        "*/description.py": "the forms that applications fill in",
        "llm/errors.py": "the words of a mistake",
        "llm/files.py": "writes the bytes that it is given",
        "llm/loaded_model.py": "a pair with names",
        "llm/objectives/find.py": "finds the objective of a model folder",
        "llm/objectives/interface.py": "what programs see of a model",
        "llm/objectives/rows.py": "texts of rows that a served model answers",
        "tasks/registry/*": "tracking and lineage",
        "tasks/stages/*": "how a stage is run",
        "tasks/params/*": "how params.yaml is read: its values are in dvc.lock",
        "tasks/applications/*/check.py": "checks before a stage starts",
        **dict.fromkeys(
            (*FETCHING, "tasks/data/published.py"),
            "a check of params.yaml imports them; a stage that fetches with them has them as deps",
        ),
        **dict.fromkeys(
            ("llm/generation/packed.py", "llm/kernels/serving/*"),
            "for serving; an evaluation that computes with them has them as deps; a classifier's head is fitted on "
            "what they read, and another rounding is no reason to fit it again",
        ),
    },
    "flows.fetch": {
        "llm/config.py": "the base of parameters, which are in dvc.lock themselves",
        **dict.fromkeys(SPLITTING, "imported by it"),
    },
    "flows.preprocess": {
        "llm/config.py": "the base of parameters, which are in dvc.lock themselves",
        **dict.fromkeys(FETCHING, "published tokenizers are checked against a hash"),
    },
    "flows.pretrain": {
        "llm/chat.py": "published weights have templates, too",
        "llm/generation/*": "samples are shown and logged, and in no out",
        "tasks/training/*": "forms, progress, interrupted ones",
        **dict.fromkeys(SPLITTING, "the base of a dataset's parameters"),
        **dict.fromkeys(FETCHING, "published weights are checked against a hash"),
    },
    "flows.load_published": {
        "llm/kernels/*": "models compute with them, and none computes here",
        "tasks/data/cleaning/record.py": "counts rows that are left out, and weights have none",
        **dict.fromkeys(FETCHING, "published weights are checked against a hash"),
    },
    "flows.replay": {
        "llm/kernels/training/*": "models can be trained with them, and none is trained here",
        "llm/tokens.py": "imported by the tokenizer's files",
        "llm/training/*": "how a model learns",
    },
    "flows.finetune": {
        "llm/generation/*": "samples are logged, and in no out",
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


def deps_of(stage: PipelineStage) -> list[str]:
    names: list[str] = []
    for dep in stage.deps:
        if dep in stage.params:
            names += [f"{dep.def_path}:{key}" for key in dep.params]
        else:
            names.append(dep.def_path)
    return names


@pytest.fixture(scope="module")
def deps() -> dict[str, list[str]]:
    """The deps of every stage: files, folders, and parameters as `params.yaml:foundation.train`."""
    with Repo(str(ROOT)) as repo:
        return {stage.addressing: deps_of(stage) for stage in repo.index.stages}


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    """The modules that a stage starts with: its flow, the command line, and the slice that the flow finds by name."""
    slices = {
        "preprocess": "tasks.datasets.{}",
        "pretrain": "tasks.applications.foundation.train",
        "finetune": "tasks.applications.{}.train",
        "evaluate": "tasks.applications.{}.measure",
    }
    modules: dict[str, list[str]] = {}
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            assert stage.cmd.startswith("exec python -m cli "), "no shell stays between dvc and the stage"
            command, *name = stage.cmd.removeprefix("exec python -m cli ").replace("-", "_").split()
            modules[stage.addressing] = [f"flows.{command}", "cli.main"]
            if command in slices:
                modules[stage.addressing].append(slices[command].format(*name))
    return modules


def is_among(name: str, deps: list[str]) -> bool:
    return any(name == dep or name.startswith((f"{dep}/", f"{dep}.")) for dep in deps)


def fits(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


@pytest.mark.parametrize("changed", CHANGES)
def test_change_of_a_file_makes_its_stages_stale_and_no_other(deps, changed):
    assert ":" in changed or (ROOT / changed).exists()
    assert sorted(stage for stage, names in deps.items() if is_among(changed, names)) == sorted(CHANGES[changed])


def test_imports_of_a_command_are_deps_or_change_no_byte(deps, commands):
    command = [sys.executable, "-c", IMPORTED, json.dumps(list(commands.values()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage, line in zip(commands, done.stdout.splitlines(), strict=True):
        ours = {path for path in json.loads(line) if path.split("/")[0] in PACKAGES}
        assert commands[stage][0].replace(".", "/") + ".py" in ours
        patterns = [*NO_BYTE["*"], *NO_BYTE[commands[stage][0]]]
        others = [path for path in sorted(ours) if not is_among(path, deps[stage])]
        unexplained = [path for path in others if not fits(path, patterns)]
        assert unexplained == [], f"{stage}: add to its deps in dvc.yaml, or say here why it changes no byte"


def classes_of(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The classes that give a section of params.yaml its fields: its own, those it inherits from, and those within."""
    classes = {parent for parent in model.__mro__ if issubclass(parent, Config) and parent.__annotations__}
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                classes |= classes_of(kind)
    return classes


def test_default_of_a_parameter_is_in_a_dep_of_its_stage(deps: dict[str, list[str]]) -> None:
    """params.yaml holds what differs from the defaults: a default that changes must make the stage stale."""
    models = {f"fetch@{name}": Source for name in DATASETS}
    models |= {f"replay@{name}": Replay for name in VALUES["replay"]}
    models |= {f"preprocess@{name}": find_dataset(name).params for name in DATASETS}
    for name in ("foundation", *APPLICATIONS):
        models[training_stage(name)] = find_training(name).train
        models[evaluation_stage(name)] = find_evaluation(name).params
    for stage, model in models.items():
        for kind in classes_of(model):
            path = kind.__module__.replace(".", "/") + ".py"
            assert is_among(path, deps[stage]), f"{stage}: {kind.__name__} in {path}"


def test_deps_that_are_code_exist(deps):
    for stage, names in deps.items():
        code = [name for name in names if name.split("/")[0] in PACKAGES]
        assert code, stage
        assert [name for name in code if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["card.md", "check.py"])
def test_card_and_check_of_an_application_are_no_reason_to_run_a_stage(name: str) -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_file(str(ROOT / "tasks/applications/classifier" / name))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "tasks/applications/classifier/measure.py"))


def test_compiled_python_is_no_reason_to_run_a_stage() -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_dir(str(ROOT / "llm/model/__pycache__"))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "llm/model/gpt.py"))
