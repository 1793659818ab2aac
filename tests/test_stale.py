"""What makes a stage stale: the code that can change its bytes, and no other.

A table shows which stages a change makes stale.
"""

from typing import get_args

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage
from projects import ROOT
from pydantic import BaseModel

from llm.config import Config, Replay
from tasks.data.sources import Source
from tasks.params import find_dataset, find_evaluation, find_training
from tasks.stages.names import evaluation_stage, training_stage

pytestmark = pytest.mark.slow

VALUES = yaml.safe_load((ROOT / "params.yaml").read_text())
DATASETS, APPLICATIONS = VALUES["datasets"], VALUES["applications"]
LOAD = ["load_published"]
REPLAY = [f"replay@{name}" for name in VALUES["replay"]]
FINETUNE = [f"finetune@{name}" for name in APPLICATIONS]
EVALUATE = [f"evaluate@{name}" for name in APPLICATIONS]
TRAINING = ["pretrain", *FINETUNE]
EVALUATION = ["evaluate_foundation", *EVALUATE]
CLASSIFIER = [f"{stage}@{name}" for name in ("classifier", "guard") for stage in ("finetune", "evaluate")]

CHANGES = {  # a file, a library or a parameter, and the stages that its change makes stale
    "llm/model/attention.py": LOAD + REPLAY + TRAINING + EVALUATION,
    "llm/training/loop.py": TRAINING,
    "llm/generation/sampling.py": REPLAY + EVALUATION,  # no training
    "llm/objectives/classifier/fit.py": CLASSIFIER,
    "tasks/measures/pictures.py": EVALUATION,  # a plot retrains nothing
    "tasks/data/emails.py": ["preprocess@emails"],
    "tasks/registry/register.py": [],
    "app/page": [],
    "data/inbox/emails": ["preprocess@emails"],
    "params.yaml:foundation.evaluate.sample_prompts": ["evaluate_foundation"],
}


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


def is_among(name: str, deps: list[str]) -> bool:
    return any(name == dep or name.startswith((f"{dep}/", f"{dep}.")) for dep in deps)


@pytest.mark.parametrize("changed", CHANGES)
def test_change_of_a_file_makes_its_stages_stale_and_no_other(deps, changed):
    assert ":" in changed or (ROOT / changed).exists()
    assert sorted(stage for stage, names in deps.items() if is_among(changed, names)) == sorted(CHANGES[changed])


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
    models |= {f"preprocess@{name}": find_dataset(name).Params for name in DATASETS}
    for name in ("foundation", *APPLICATIONS):
        models[training_stage(name)] = find_training(name).train
        models[evaluation_stage(name)] = find_evaluation(name).params
    for stage, model in models.items():
        for kind in classes_of(model):
            path = kind.__module__.replace(".", "/") + ".py"
            assert is_among(path, deps[stage]), f"{stage}: {kind.__name__} in {path}"


def test_card_of_an_application_is_no_reason_to_run_a_stage() -> None:
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_file(str(ROOT / "tasks/applications/classifier/card.md"))
        assert not repo.dvcignore.is_ignored_file(str(ROOT / "tasks/applications/classifier/measure.py"))
