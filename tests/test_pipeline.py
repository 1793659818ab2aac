"""The real graph, from sources to the registry, on a slice of the real data, through `dvc repro`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest
import torch
import yaml
from mlflow import MlflowClient
from projects import CHATML, change_params, environment, read_params
from real_servers import HANGS, wait_for

from llm.config import GPTShape
from llm.formats.gguf import read_gguf
from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import load_model, read_config
from llm.loaded_model import LoadedModel
from llm.objectives import load
from llm.objectives.classifier import email_text, probabilities
from tasks.applications.foundation.train import CHANGEABLE

METRICS = {  # of each model, some that its gates and its card name
    "foundation": {"bits_per_byte", "baseline_bits_per_byte", "bits_per_byte_gain"},
    "classifier": {
        "f1",
        "baseline_f1",
        "f1_gain",
        "recall_at_fpr_0.005",
        "evasion_worst",
        "everyday_balanced_accuracy",
    },
    "guard": {"f1", "baseline_f1", "f1_gain", "tricky_answer", "harmful_decline"},
    "assistant": {"response_loss", "exact_match_gain", "nearest_rouge_l", "general_right", "harmless_useful_gain"},
}


@pytest.fixture(scope="module")
def project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for the commands that run in it: while they do, other processes of this test run copy the shared one."""
    return shutil.copytree(project, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)


@pytest.fixture
def client(project: Path) -> MlflowClient:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    return MlflowClient()


def test_every_model_has_its_metrics_on_the_test_split(project: Path) -> None:
    for model, names in METRICS.items():
        metrics = json.loads((project / f"reports/evaluation/{model}/metrics.json").read_text())
        assert names <= metrics.keys()
        for name in metrics:
            if name.endswith("_low"):
                assert metrics[name] <= metrics[f"{name.removesuffix('_low')}_high"]


def test_classifier_is_calibrated_and_its_threshold_holds_on_validation(project: Path) -> None:
    model, encoding = load(project / "models/classifier")
    assert model.ngrams.weight.any()
    low, high = model.config.unsure
    assert 0 <= low <= model.config.threshold <= high <= 1
    trained = json.loads((project / "reports/training/classifier/metrics.json").read_text())
    assert 0 < trained["validation_f1"] <= 1
    validation = pd.read_parquet(project / "data/processed/emails/validation.parquet")
    texts = [email_text(*row) for row in zip(validation["subject"], validation["body"], strict=True)]
    wrong = (
        model.config.decide(probabilities(LoadedModel(model, encoding), texts)).astype(bool)
        & (validation["label"] == "ham").to_numpy()
    )
    budget = read_params(project)["applications"]["classifier"]["train"]["false_positive_rate"]
    assert wrong.sum() <= budget * (validation["label"] == "ham").sum()


def test_pretraining_lowers_the_validation_loss(project: Path) -> None:
    curve = pd.read_csv(project / "reports/training/pretrain/curves.csv")
    assert list(curve["step"]) == [20, 40, 60]
    assert curve["validation_loss"].is_monotonic_decreasing
    assert curve["validation_loss"].iloc[-1] < 6.3  # a uniform guess over 1,024 tokens costs 6.93


def test_registry_has_a_challenger_of_each_model_with_evidence_card_and_origin(
    project: Path, client: MlflowClient
) -> None:
    origins = {"assistant": "models/published", "classifier": "models/foundation"}
    for model, names in METRICS.items():
        version = client.get_model_version_by_alias(f"threestage-{model}", "challenger")
        run = client.get_run(version.run_id)
        assert int(version.version) == 1
        assert names <= run.data.metrics.keys()
        assert set(version.tags) == {"threestage.key", "threestage.state"}
        training = client.get_logged_model(version.source.removeprefix("models:/")).source_run_id
        assert client.list_artifacts(training, "checkpoints")
        assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} >= {"evaluation", "training"}
        dataset = read_params(project)["applications"].get(model, {"dataset": "corpus"})["dataset"]
        assert run.data.params["dataset"] == dataset
        card = mlflow.artifacts.load_text(f"runs:/{version.run_id}/card.md")
        assert "## Figures" in card
        if model in origins:
            assert f"It started from `{origins[model]}` (" in card


def test_assistant_is_the_published_model_with_its_template_and_merged_lora(project: Path) -> None:
    base = read_config(project / "models/published")
    assistant = read_config(project / "models/assistant")
    assert assistant["objective"] == "assistant"
    assert assistant["gpt"] == base["gpt"]
    assert (base["chat"]["template"], base["chat"]["system"]) == (CHATML, "")
    assert assistant["chat"] == base["chat"] | {"system": "You are a helpful assistant.", "text_penalty": 1.1}
    before, _ = load_model(project / "models/published")
    after, _ = load_model(project / "models/assistant")
    same = {name for name, weight in after.state_dict().items() if torch.equal(weight, before.state_dict()[name])}
    matrices = {name for name in before.state_dict() if name.startswith("blocks.") and "norm" not in name}
    assert same | matrices == before.state_dict().keys()


def test_every_stage_left_a_finished_mlflowrun(client: MlflowClient) -> None:
    runs = mlflow.search_runs(experiment_names=["threestage"], output_format="list")
    by_stage = {run.data.tags.get("threestage.stage"): run for run in runs}
    assert {"fetch@corpus", "preprocess@emails", "pretrain", "load_published", "evaluate@assistant"} <= by_stage.keys()
    assert all(run.info.status == "FINISHED" for run in runs)
    losses = client.get_metric_history(by_stage["pretrain"].info.run_id, "train_loss")
    assert [metric.step for metric in losses] == list(range(1, 61))


CLEAN = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import llm, tasks
print(json.dumps([llm.__file__, model.predict(pd.read_json(sys.stdin))["spam_probability"].tolist()]))
"""


def test_evaluation_and_a_version_elsewhere_give_the_same_probability_for_parts_and_for_raw_mails(
    project: Path, client: MlflowClient, tmp_path: Path
) -> None:
    predictions = pd.read_csv(project / "reports/evaluation/classifier/evidence/predictions.csv").set_index("id")
    test = pd.read_parquet(project / "data/processed/emails/test.parquet").set_index("id")
    raw = [json.loads((project / "data/raw/emails" / name).read_text())["text"] for name in test.index]
    rows = [*test[["subject", "body"]].to_dict("records"), *({"message": text} for text in raw)]
    model = mlflow.artifacts.download_artifacts("models:/threestage-classifier@challenger", dst_path=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, model],
        cwd=tmp_path,
        env=environment(),
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, probabilities = json.loads(done.stdout)
    assert Path(code).is_relative_to(tmp_path)
    expected = [*predictions.loc[test.index, "spam_probability"]] * 2
    assert len(expected) > 20
    assert probabilities == pytest.approx(expected, abs=1e-4)


def test_second_run_of_the_main_command_finds_nothing_to_do(project: Path, command_line) -> None:
    code, output, error = command_line(project, "run")
    assert (code, error) == (0, "")
    assert "Everything is up to date" in output
    assert "version 1" in output
    assert command_line(project, "run", "guard")[1].count("version 1") == 1


def test_run_refuses_a_wrong_target_and_a_wrong_value_before_it_starts(project: Path, command_line) -> None:
    before = (project / "params.yaml").read_bytes()
    for words, reason in {
        ("guards",): "'guards'",
        ("--set", "foundation.train.stepps=9"): "'stepps'",
        ("--set", "foundation.train.steps=1,2"): "foundation.train.steps: '1,2'",
    }.items():
        code, _, error = command_line(project, "run", *words)
        assert code == 1
        assert reason in error
    assert (project / "params.yaml").read_bytes() == before


def test_show_prints_a_row_as_the_model_reads_it_with_what_is_learned(project: Path, command_line) -> None:
    rows = pd.read_parquet(project / "data/processed/instructions/train.parquet")
    code, output, _ = command_line(project, "data", "show", "instructions", "1")
    first, *parts = output.splitlines()
    assert code == 0
    assert first.startswith(f"{rows['id'][1]}, as assistant reads it: ")
    learned = [line.partition("learns  ")[2] for line in parts if "  learns  " in line]
    answer = "".join(learned[-1].split("|")).replace("↵", "\n")
    assert answer.startswith(rows["output"][1])
    assert "  learns  the label " in command_line(project, "data", "show", "emails")[1]
    assert command_line(project, "data", "show", "corpus", "0", "--split", "test")[1].startswith("window 0, as found")
    assert "has no row 99999" in command_line(project, "data", "show", "emails", "99999")[2]


def test_export_of_a_version_has_its_card_its_figures_and_its_sources(
    project: Path, tmp_path: Path, command_line
) -> None:
    folder = tmp_path / "out"
    code, output, error = command_line(project, "export", "assistant", str(folder), "--to", "gguf")
    assert (code, error) == (0, ""), error
    assert "assistant-1.gguf" in output
    card = (folder / "README.md").read_text()
    metrics = json.loads((project / "reports/evaluation/assistant/metrics.json").read_text())
    assert f"type: response_loss\n      value: {round(metrics['response_loss'], 4)}\n" in card
    assert "## What it is not for" in card
    source = yaml.safe_load((project / "params.yaml").read_text())["datasets"]["instructions"]["sources"][0]["source"]
    assert f"| instructions | {source} |" in card.replace("\\", "")
    metadata, _ = read_gguf(folder / "assistant-1.gguf")
    assert metadata["general.dataset.0.name"] == source
    assert metadata["tokenizer.chat_template"].startswith("{%- if not messages")


def test_foundation_of_published_weights_has_their_shape_and_tokenizer(
    project: Path, tmp_path: Path, prefect_api: str, command_line
) -> None:
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)

    def start_from_published(values: dict) -> None:
        train = values["foundation"]["train"]
        for key in GPTShape.model_fields.keys() & train.keys() - CHANGEABLE:
            del train[key]  # the weights bring their own shape
        train |= {"init_from": "published", "steps": 0}
        values["datasets"]["corpus"]["preprocess"]["tokenizer"] = "published"

    change_params(folder, start_from_published)
    for words in (["flows.preprocess", "corpus"], ["flows.pretrain"]):
        code, _, error = command_line(folder, *words)
        assert code == 0, error
    published, encoding = load_pretrained(folder / "published")
    foundation, tokenizer = load_model(folder / "models/foundation")
    assert foundation.config == published.config.model_copy(update={"context_length": 128})
    for name, weight in published.state_dict().items():
        assert torch.equal(foundation.state_dict()[name], weight), name
    assert tokenizer.encode("the cat sat") == encoding.encode("the cat sat")


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(".threestage/stages/pretrain/*/step-*.safetensors"))


@contextmanager
def suspended_training(
    folder: Path, *line: str, env: dict[str, str]
) -> Iterator[tuple[subprocess.Popen, psutil.Process]]:
    """Run a command that trains the foundation. Its stage is suspended at its first checkpoint until the block ends."""
    before = checkpoints(folder)
    with (folder.parent / "output").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", *line], cwd=folder, env=env, stdout=log, stderr=log, process_group=0
        )

    def has_new_checkpoint() -> bool:
        assert running.poll() is None, (folder.parent / "output").read_text()[-3000:]
        return checkpoints(folder) != before

    try:
        wait_for(has_new_checkpoint, every=0.01)
        stage = psutil.Process(int((folder / ".threestage/stages/pretrain/lock").read_text()))
        stage.suspend()
        yield running, stage
        with suppress(psutil.NoSuchProcess):
            stage.resume()
        running.wait(timeout=HANGS)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def test_resume_after_ctrl_c_and_a_kill_gives_equal_weights_in_another_folder(
    project: Path, tmp_path: Path, prefect_api: str, command_line
) -> None:
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    change_params(folder, {"foundation": {"train": {"checkpoint_every": 2}}})  # which changes no weight
    shutil.rmtree(folder / "models/foundation")
    variables = environment(PREFECT_API_URL=prefect_api)
    with suspended_training(folder, "cli", "run", "foundation", env=variables) as (command, _):
        children = psutil.Process(command.pid).children(recursive=True)
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does; the stage has it as soon as it goes on
    assert command.returncode != 0
    assert not psutil.wait_procs(children, timeout=HANGS)[1]
    output = (tmp_path / "output").read_text()  # a stage may end after the command
    assert re.search(r"stopped after step [1-9]\d* of 60, with a checkpoint", output), output[-3000:]
    assert "Traceback" not in output

    with suspended_training(folder, "flows.pretrain", env=variables) as (_, stage):
        stage.kill()
    assert not (folder / "models/foundation").exists()
    code, _, error = command_line(folder, "flows.pretrain")
    assert code == 0, error
    assert "going on after step" in (folder / ".threestage/stages/pretrain/log").read_text()
    weights = "models/foundation/model.safetensors"
    assert (folder / weights).read_bytes() == (project / weights).read_bytes()
    assert checkpoints(folder) == []

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("threestage").experiment_id
    (run, _) = client.search_runs(experiment, "tags.`threestage.stage` = 'pretrain'")  # and that of the project
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in losses] == list(range(1, 61))
