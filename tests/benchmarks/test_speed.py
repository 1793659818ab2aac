"""Benchmarks on small models: what they measure, what they write, and the errors that they name."""

import argparse
import json
import os
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import all as every
from benchmarks import (
    classify_speed,
    generate,
    harness,
    lora_speed,
    serve_load,
    time_to_loss,
    train_speed,
)
from benchmarks.contenders import Shape, matmul_weights, same_size, transformers_gpt2
from benchmarks.harness import Table
from llm.config import GPTConfig
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.kernels.processor import has_fast_bfloat16
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.tokenizer import train_bpe
from llm.training.cost import training_flops
from tasks.stages.names import PARAMS_FILE
from tests.app.conftest import write_model

pytestmark = pytest.mark.slow

WORDS = ["the cat sat on the mat and the dog ate the hat"] * 9


@pytest.fixture(scope="module")
def small_params(tmp_path_factory):
    """params.yaml with a small default model."""
    values = yaml.safe_load(PARAMS_FILE.read_text())
    values["foundation"]["train"] |= {"n_layer": 1, "n_embd": 16, "n_hidden": 48, "n_head": 2}
    values["foundation"]["train"] |= {"context_length": 32, "first_context_length": 8}
    values["datasets"]["corpus"]["preprocess"]["vocabulary_size"] = 300
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model of the shape and precision of published weights, large enough for attention to matter."""
    torch.manual_seed(0)
    encoding = train_bpe(WORDS, 300)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocabulary_size": encoding.n_vocab}
    llama = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
    model = GPT(GPTConfig(context_length=128, **shape, **llama))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.ndim == 2 else 1
    folder = tmp_path_factory.mktemp("published")
    save_model(folder, LoadedModel(model.bfloat16(), encoding), objective="language_model")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A classifier's folder."""
    folder = tmp_path_factory.mktemp("classifier")
    encoding = train_bpe(WORDS, 300)
    config = GPTConfig(context_length=64, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab)
    spam = ClassifierConfig(labels=("ham", "spam"), max_tokens=32)
    model = Classifier(GPT(config), spam)
    save_model(folder, LoadedModel(model, encoding), objective="classifier", cleaning="tasks.data.mail")
    return folder


@pytest.fixture(scope="module")
def mails(tmp_path_factory) -> Path:
    """A folder of processed mails."""
    folder = tmp_path_factory.mktemp("emails")
    rows = [("the cat", "sat on the mat", "ham"), ("the dog", "ate the hat", "spam")] * 3
    for split in ("train", "test"):
        pd.DataFrame(rows, columns=["subject", "body", "label"]).to_parquet(folder / f"{split}.parquet")
    return folder


def test_table_compares_our_best_with_the_best_of_the_others(capsys):
    contenders = {
        "ours bf16": {"seconds a step": 3.0},
        "ours bf16 + compile": {"seconds a step": 2.0, "peak GB": 0.5},
        "transformers bf16": {"seconds a step": 5.0},
        "transformers fp32": {"failed": "exit code 1"},
        "transformers bf16 + compile": {"seconds a step": 3.0},
    }
    table = Table("default; 8 tokens", "seconds a step", contenders, less_is_better=True)
    row = every.summary(table)
    assert row == ["default, seconds a step", 2.0, 3.0, "1.50", "transformers bf16 + compile"]
    table.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["ours", "is", "seconds", "a", "step", "peak", "GB", "failed"]
    assert lines[5].split() == ["transformers", "bf16", "2.50", "x", "5"]
    assert lines[6].endswith("exit code 1")
    speeds = Table("texts at once: 1", "tokens a second", {"ours": {"tokens a second": 9.0}})
    assert every.summary(speeds) == ["texts at once: 1, tokens a second", 9.0, "", "", ""]


def test_take_turns_gives_medians_without_the_first_round():
    calls = []
    values = {"a": [99, 1, 5, 2], "b": [99, 7, 7, 8]}

    def measure(name: str) -> float:
        calls.append(name)
        return values[name].pop(0)

    medians = harness.take_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert medians == {"a": 2, "b": 7}
    assert calls == ["a", "b"] * 4


def test_generate_writes_speeds_with_the_machine_and_without_the_host(tmp_path):
    out = tmp_path / "made" / "generate.json"
    size = "--prompt 4 --new 6 --texts 3 --context-length 32 --n-layer 1 --n-head 2 --n-embd 32 --vocabulary-size 300"
    generate.main(["--rounds", "1", *size.split(), "--out", str(out)])
    results = json.loads(out.read_text())
    (table,) = harness.read_tables(out)
    floats = ["float32", "bfloat16"] if has_fast_bfloat16(torch.device("cpu")) else ["float32"]
    expected = [f"transformers, {name}" for name in floats] + [f"ours, {name}" for name in (*floats, "8 bits")]
    assert list(table.contenders) == expected
    assert min(figures["tokens a second"] for figures in table.contenders.values()) > 0
    limits = [table.contenders[f"ours, {name}"]["limit of the memory"] for name in ("float32", "8 bits")]
    assert limits[1] / limits[0] == pytest.approx(4 / (8.5 / 8), rel=1e-2)
    machine = results["machine"]
    build = torch.__version__  # a package may or may not name its build, `+cpu`
    assert machine["versions"]["torch"].split("+")[0] == build.split("+")[0]
    assert machine["versions"].keys() == {"python", "torch", "transformers"}
    assert machine["processor"]
    assert os.uname().nodename not in out.read_text()


def test_weights_a_token_are_those_of_the_blocks_and_the_output_layer():
    shape = {"context_length": 8, "n_layer": 3, "n_head": 2, "n_embd": 4, "vocabulary_size": 50}
    block = (2 * 4) + (4 * 12 + 12) + (4 * 4 + 4) + (2 * 4) + (4 * 16 + 16) + (16 * 4 + 4)
    for tied in (True, False):
        assert generate.weights_a_token(GPTConfig(**shape, tied=tied)) == 3 * block + 2 * 4 + 50 * 4


def test_train_speed_writes_a_table_and_the_reason_of_a_contender_that_fails(small_params, tmp_path, monkeypatch):
    broken = train_speed.Contender("ours", "fp8")
    monkeypatch.setattr(train_speed, "CONTENDERS", [*train_speed.CONTENDERS, broken])
    out = tmp_path / "train_speed.json"
    names = ["ours fp32", "transformers fp32", str(broken)]
    options = ["--set-ups", "default", "--rounds", "1", "--seconds", "0.1", "--warmup", "1", "--threads", "1"]
    train_speed.main([*options, "--only", *names, "--params", str(small_params), "--out", str(out)])
    (table,) = harness.read_tables(out)
    assert table.title.startswith("default: 128 tokens a step; ")
    assert list(table.contenders) == names
    assert table.contenders[str(broken)] == {"failed": "exit code 1: KeyError: 'fp8'"}
    for name, squares in {"ours fp32": 13, "transformers fp32": 12}.items():  # of the width: ours has a gate
        figures = table.contenders[name]
        assert figures["tokens/s"] == pytest.approx(4 * 32 / figures["seconds a step"], rel=1e-2)
        assert figures["peak GB"] > 0.1
        assert figures["matmul weights"] == squares * 16 * 16 + 300 * 16


def test_operations_of_a_step_are_those_of_the_model():
    config = GPTConfig(context_length=8, n_layer=3, n_head=2, n_embd=4, vocabulary_size=50)
    weights = matmul_weights(transformers_gpt2(same_size(config)).model)
    assert train_speed.operations(weights, same_size(config), 16) == 16 * training_flops(GPT(config))


def test_time_to_loss_trains_each_contender_for_a_budget(small_params, token_files, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_loss, "SIZES", ((3, 4),))
    monkeypatch.setattr(time_to_loss, "RATES", (1e-3,))
    out = tmp_path / "made.json"
    options = ["--budgets", "0.5", "--threads", "1", "--params", str(small_params), "--data", str(token_files)]
    time_to_loss.main([*options, "--out", str(out)])
    (table,) = harness.read_tables(out)
    assert table.title == "Validation bits per byte after 0.5 s"
    assert list(table.contenders) == ["ours", "gpt2"]
    for figures in table.contenders.values():
        assert 0 < figures["bits per byte"] < 8
        assert figures["steps"] > 1
    assert table.contenders["gpt2"]["seconds"] >= 0.5
    assert table.contenders["gpt2"]["recipe"] == "3 x 32, rate 0.001"


def test_time_to_loss_chooses_size_and_rate_by_the_longest_budget(monkeypatch):
    runs = []

    def make(run: time_to_loss.Run, recipe: None) -> time_to_loss.Outcome:
        runs.append(run)
        is_best = (run.shape.n_layer, run.learning_rate) == (4, 2e-3)
        return time_to_loss.Outcome(run, {"bits per byte": 1.0 if is_best else None})

    monkeypatch.setattr(time_to_loss, "make", make)
    shape = Shape(vocabulary_size=300, context_length=32, n_layer=3, n_head=2, n_embd=16)
    outcomes = time_to_loss.best_by_budget("gpt2", shape, [1.0, 2.0], recipe=None)
    assert [run.budget for run in runs] == [2.0] * 9 + [1.0]
    assert {budget: outcome.run.recipe for budget, outcome in outcomes.items()} == dict.fromkeys(
        (1.0, 2.0), "4 x 16, rate 0.002"
    )


def test_cosine_rises_falls_to_a_tenth_and_stays():
    shares = [time_to_loss.cosine(share) for share in (0.025, 0.05, 0.525, 1.0, 1.1)]
    assert shares == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])


def test_lora_speed_measures_a_step_of_ours(published, tmp_path):
    out = tmp_path / "lora_speed.json"
    options = ["--rounds", "1", "--seconds", "0", "--warmup", "1", "--threads", "1", "--rows", "2", "--window", "64"]
    options += ["--only", str(lora_speed.EAGER), "--texts", "4", "--base", str(published), "--out", str(out)]
    lora_speed.main(options)
    (table,) = harness.read_tables(out)
    assert list(table.contenders) == [str(lora_speed.EAGER)]
    (figures,) = table.contenders.values()
    assert figures["tokens/s"] == pytest.approx(2 * 64 / figures["seconds a step"], rel=1e-2)
    assert figures["trained weights"] == 2 * 16 * sum(((32 + 64), (32 + 32), 2 * (32 + 128), (128 + 32)))
    assert figures["peak GB"] > 0.1


def test_lora_speed_starts_from_the_loss_of_transformers(published, tmp_path):
    vocabulary = lora_speed.export(published, tmp_path / "model")
    size = lora_speed.Size(rows=2, window=64, texts=4, vocabulary=vocabulary)
    rows = lora_speed.conversations(3, size)
    lengths = [len(text.tokens) for row in rows for text in row]
    assert (sum(lengths[:4]), sum(lengths[4:])) == (64, 64)
    assert len(set(lengths)) > 2
    ours = lora_speed.our_loss(lora_speed.our_model(published, 64), rows).item()
    for precision in lora_speed.PRECISIONS.values():
        model = lora_speed.transformers_model(tmp_path / "model", precision)
        losses = {}
        for form, make_inputs in lora_speed.FORMS.items():
            losses[form] = lora_speed.their_loss(model, precision, make_inputs(rows)).item()
        assert losses["padded"] == pytest.approx(ours, rel=2e-3)
        assert losses["separated"] == pytest.approx(ours, rel=2e-3)
        assert losses["packed"] != pytest.approx(ours, rel=2e-2)  # where texts see each other


def test_classify_speed_measures_one_request_and_many(classifier, mails, tmp_path):
    out = tmp_path / "classify_speed.json"
    options = ["--model", str(classifier), "--data", str(mails), "--rounds", "1", "--mails", "12", "--out", str(out)]
    classify_speed.main(options)
    tables = harness.read_tables(out)
    assert [table.title for table in tables] == [f"Mails a second, {size} a request" for size in (1, 10, 12)]
    for table in tables:
        assert list(table.contenders) == ["ours, served", "TF-IDF"]
        assert min(figures["mails a second"] for figures in table.contenders.values()) > 0


def test_classify_speed_sends_every_mail_once():
    requests: list[pd.DataFrame] = []
    table = pd.DataFrame({"subject": list("abcde"), "body": ["the hat"] * 5})
    assert classify_speed.speed(requests.append, table, 2) > 0
    assert ["".join(request["subject"]) for request in requests] == ["ab", "cd", "e"]


def test_classify_speed_names_a_mail_without_an_answer(classifier, tmp_path):
    classify = classify_speed.served(classifier, tmp_path / "model")
    with pytest.raises(UserError, match="1 of 2 mails have no answer; the first: there is no text to classify"):
        classify(pd.DataFrame({"subject": ["the cat", ""], "body": ["", ""]}))


def test_serve_load_moves_an_alias_and_ends_well(tmp_path, monkeypatch):
    model = write_model(tmp_path / "assistant", "assistant")
    out = tmp_path / "out.json"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the benchmark sets to a store of its own
    options = ["--clients", "3", "--seconds", "1", "--new", "8"]
    serve_load.main([*options, "--model", str(model), "--out", str(out)])
    one, many = harness.read_tables(out)
    assert one.contenders["ours"]["tokens a second"] > 0
    figures = many.contenders["ours"]
    assert figures["tokens a second"] > 0
    assert figures["answers"] > 0
    assert (figures["errors"], figures["broken streams"]) == (0, 0)
    assert (figures["SIGTERM: exit code"], figures["broken streams at the end"]) == (0, 0)


@pytest.mark.parametrize("name", list(every.BENCHMARKS))
def test_benchmark_options_of_all_are_taken(name, capsys):
    main = import_module(f"benchmarks.{name}").main
    with pytest.raises(SystemExit):
        main([*every.BENCHMARKS[name].quick, "--out", "x.json", "--no-such-option"])
    assert capsys.readouterr().err.splitlines()[-1].endswith(" error: unrecognized arguments: --no-such-option")


def test_quick_run_of_all_leaves_results_alone_and_names_what_failed(monkeypatch, capfd):
    broken = every.Benchmark(quick=("--rounds", "0"))
    monkeypatch.setattr(every, "BENCHMARKS", {"lora_speed": broken})
    before = {path: path.read_bytes() for path in harness.RESULTS.rglob("*.json")}
    assert every.main(["--quick"]) == 1
    captured = capfd.readouterr()
    assert "argument --rounds: 0: at least one measures something" in captured.err
    assert captured.out.endswith("failed: lora_speed\n")
    assert {path: path.read_bytes() for path in harness.RESULTS.rglob("*.json")} == before


@pytest.mark.parametrize(
    ("main", "options", "reason"),
    [
        (train_speed.main, ["--only", "ours fp16"], "--only 'ours fp16': those are 'ours fp32', "),
        (
            time_to_loss.main,
            ["--only", "ours", "--data", "nowhere"],
            "--data nowhere: no corpus there; `make run`",
        ),
        (lora_speed.main, ["--texts", "3"], "--texts 3: an even number, each of at least 8 of --window 512 tokens"),
    ],
)
def test_benchmark_refuses_what_it_can_not_compare_on_one_line(main, options, reason, capsys):
    with pytest.raises(SystemExit):
        main(options)
    assert reason in capsys.readouterr().err


def test_positive_refuses_zero():
    with pytest.raises(argparse.ArgumentTypeError, match="0: at least one measures something"):
        harness.positive("0")
