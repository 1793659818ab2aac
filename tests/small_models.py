"""A project of small models for the registry: what it holds is real, and how it is trained and measured is a copy."""

import shutil
from pathlib import Path

import mlflow
import torch
from dvc.repo import Repo
from mlflow import MlflowClient
from projects import git

from llm.chat import Chat
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.assistant import Assistant
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.tokenizer import train_bpe

ROOT = Path(__file__).parents[1]
TEXT = ["the cat sat on the mat and the dog ate the hat . a bird sang to the moon . hello how are you ?"] * 9
MODELS = {"foundation": "language_model", "classifier": "classifier", "assistant": "assistant"}
DVC_YAML = """
stages:
  pretrain:
    cmd: python train.py foundation pretrain
    deps: [made/foundation]
    outs: [models/foundation/, reports/training/pretrain/]
  finetune:
    foreach: [classifier, assistant]
    do:
      cmd: python train.py ${item} ${item}
      deps: ["made/${item}", models/foundation/]
      outs: ["models/${item}/", "reports/training/${item}/"]
  evaluate_foundation:
    cmd: python evaluate.py foundation
    deps: [models/foundation/]
    params: [f1]
    outs: [reports/evaluation/foundation/curve.csv]
    metrics: [{reports/evaluation/foundation/metrics.json: {cache: false}}]
  evaluate:
    foreach: [classifier, assistant]
    do:
      cmd: python evaluate.py ${item}
      deps: ["models/${item}/"]
      params: [f1]
      outs: ["reports/evaluation/${item}/curve.csv"]
      metrics: [{"reports/evaluation/${item}/metrics.json": {cache: false}}]
"""
TRAIN = """
import pathlib, shutil, sys
model, stage = sys.argv[1:]
shutil.copytree(f"made/{model}", f"models/{model}")
(report := pathlib.Path("reports/training", stage)).mkdir(parents=True)
(report / "loss.csv").write_text("step,loss")
"""
EVALUATE = """
import json, pathlib, sys, yaml
(report := pathlib.Path("reports/evaluation", sys.argv[1])).mkdir(parents=True, exist_ok=True)
(report / "curve.csv").write_text("x,y")
f1 = yaml.safe_load(open("params.yaml"))["f1"]
(report / "metrics.json").write_text(json.dumps({"f1": f1, "accuracy": 0.75, "baseline_f1": 0.9}))
"""


def make_models(folder: Path) -> None:
    """A project of small models whose graph never ran, and a store without runs, in an existing folder."""
    for name in MODELS:
        write_model(folder / "made" / name, name, 4, context_length=256, n_layer=1)  # a seed whose answers are sure
    shutil.copytree(ROOT / "llm", folder / "llm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tasks/data/mail", folder / "tasks/data/mail")
    shutil.copy(ROOT / "tasks/served.py", folder / "tasks")
    for file, text in (
        ("dvc.yaml", DVC_YAML),
        ("params.yaml", "f1: 0.5\n"),
        ("train.py", TRAIN),
        ("evaluate.py", EVALUATE),
    ):
        (folder / file).write_text(text)
    git(folder, "init --quiet")
    Repo.init(str(folder)).close()
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()


def challenger(model: str = "classifier") -> mlflow.entities.model_registry.ModelVersion:
    """The version of a model that is its challenger."""
    return MlflowClient().get_model_version_by_alias(f"threestage-{model}", "challenger")


def write_model(folder: Path, model: str, seed: int = 1, *, context_length: int = 512, n_layer: int = 2) -> Path:
    """A small model folder with random weights, large enough that its answers differ."""
    torch.manual_seed(seed)
    encoding = train_bpe(TEXT, 320)
    sizes = {"context_length": context_length, "n_layer": n_layer, "n_head": 2, "n_embd": 16}
    made = GPT(GPTConfig(**sizes, vocabulary_size=encoding.n_vocab))
    for weight in made.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    cleaning = {}
    if model == "classifier":
        config = ClassifierConfig(labels=("ham", "spam"), max_tokens=64, threshold=0.5, unsure=(0.19, 0.6))
        made = Classifier(made, config)
        torch.nn.init.normal_(made.head.weight, std=0.5)
        cleaning = {"cleaning": "tasks.data.mail"}
    elif model == "assistant":
        weights = made.state_dict()
        made = Assistant(made.config, Chat(system="You are a test."))
        made.load_state_dict(weights)
    folder.mkdir(parents=True)
    save_model(folder, LoadedModel(made, encoding), MODELS[model], **cleaning)
    return folder
