import argparse
import json
import os
import re
import sys
from importlib import import_module

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import all as every
from benchmarks import classify_speed, generate, lora_speed, report, serve_load, time_to_loss, train_speed
from benchmarks.contenders import matmul_weights, same_size, transformers_gpt2
from llm.config import GPTConfig
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.kernels.processor import has_fast_bfloat16
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.tokenizer import train_bpe
from tasks.stages.params import PARAMS_FILE, load_application
from tests.app.conftest import write_model

pytestmark = pytest.mark.slow

TINY = "--rounds 1 --prompt 4 --new 6 --texts 3 --context-length 32 --n-layer 1 --n-head 2 --n-embd 32"


def test_generation_is_compared_side_by_side_and_written_with_the_machine_and_not_the_host(tmp_path):
    out = tmp_path / "made" / "generate.json"
    generate.main([*TINY.split(), "--vocabulary-size", "300", "--out", str(out)])
    results = json.loads(out.read_text())
    speeds, limits = results["tokens_per_second"], results["memory"]["limits"]
    low = ["bfloat16"] if has_fast_bfloat16(torch.device("cpu")) else []
    assert list(speeds) == [
        *("transformers float32", *(f"transformers {name}" for name in low)),
        *("float32", *low, "8 bits"),
        "8 bits, 3 texts",
    ]
    assert min(speeds.values()) > 0
    theirs = f"transformers {[*low, 'float32'][0]}"
    assert results["ratios"][f"8 bits to {theirs}"] == pytest.approx(speeds["8 bits"] / speeds[theirs], rel=1e-2)
    assert limits["8 bits"] / limits["float32"] == pytest.approx(32 / 8.5, rel=1e-2)
    assert results["settings"] == {"rounds": 1, "prompt": 4, "new": 6, "texts": 3}
    assert results["model"]["n_embd"] == 32
    machine = results["machine"]
    version, build = machine["versions"]["torch"], torch.__version__  # a package may or may not name its build, `+cpu`
    assert version.split("+")[0] == build.split("+")[0]
    assert machine["versions"].keys() == {"python", "torch", "transformers"}
    assert machine["processor"]
    assert os.uname().nodename not in json.dumps(results)


def test_a_token_reads_the_blocks_and_the_output_layer():
    shape = {"context_length": 8, "n_layer": 3, "n_head": 2, "n_embd": 4, "vocabulary_size": 50}
    block = (2 * 4) + (4 * 12 + 12) + (4 * 4 + 4) + (2 * 4) + (4 * 16 + 16) + (16 * 4 + 4)
    for tied in (True, False):
        assert generate.weights_a_token(GPTConfig(**shape, tied=tied)) == 3 * block + 2 * 4 + 50 * 4


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []

    def contender(name: str, values: list[float]):
        def measure() -> float:
            calls.append(name)
            return values.pop(0)

        return measure

    medians = report.take_turns({"a": contender("a", [99, 1, 5, 2]), "b": contender("b", [99, 7, 7, 8])}, 3)
    assert medians == {"a": 2, "b": 7}
    assert calls == ["a", "b"] * 4
    with pytest.raises(ValueError, match="0 rounds"):
        report.take_turns({}, 0)


@pytest.fixture(scope="module")
def small_params(tmp_path_factory):
    """params.yaml with a small default model."""
    values = yaml.safe_load(PARAMS_FILE.read_text())
    values["foundation"]["train"] |= {"n_layer": 1, "n_embd": 16, "n_hidden": 48, "n_head": 2}
    values["foundation"]["train"]["context_length"] = 32
    values["foundation"]["train"]["first_context_length"] = 8
    values["datasets"]["corpus"]["preprocess"]["vocabulary_size"] = 300
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def setup(small_params):
    return train_speed.set_ups(load_application("foundation", small_params).train, 300)["default"]


def test_training_is_compared_side_by_side_and_written(small_params, tmp_path, capsys):
    out = tmp_path / "train_speed.json"
    names = ["ours fp32", "transformers fp32"]
    options = ["--set-ups", "default", "--rounds", "1", "--seconds", "0.1", "--warmup", "1", "--threads", "1"]
    train_speed.main([*options, "--only", *names, "--params", str(small_params), "--out", str(out)])
    (found,) = json.loads(out.read_text())["set_ups"].values()
    assert list(found["contenders"]) == names
    assert found["tokens_a_step"] == 4 * 32
    for name, each in found["contenders"].items():
        assert each["steps"] >= train_speed.LEAST_STEPS
        assert each["tokens_per_second"] == pytest.approx(4 * 32 / each["seconds_a_step"], rel=1e-2)
        assert each["peak_memory_bytes"] > 1e8
        of_a_block = 13 if name == "ours fp32" else 12  # in squares of the width: ours has a gate, a peer GPT-2's MLP
        assert each["matmul_weights"] == of_a_block * 16 * 16 + 300 * 16
    assert "ours fp32" in capsys.readouterr().out


def test_ours_stands_beside_the_best_of_the_others():
    contenders = {
        "ours bf16": {"seconds_a_step": 3.0},
        "ours bf16 + compile": {"seconds_a_step": 2.0},
        "transformers bf16": {"seconds_a_step": 5.0},
        "litgpt fp32": {"failed": "exit code 1"},
        "transformers bf16 + compile": {"seconds_a_step": 3.0},
    }
    (found,) = every.BENCHMARKS["train_speed"].standings({"set_ups": {"default": {"contenders": contenders}}})
    assert found[:4] == ("default, seconds a step", 2.0, 3.0, "transformers bf16 + compile")
    assert found.times == "1.50"
    speeds = {"packed, 1": 9.0, "8 bits, 1": 20.0, "llama.cpp, 1": 10.0, "8 bits, 16": 60.0, "llama.cpp, 16": 20.0}
    generated = {"settings": {"texts": 16}, "published": {"tokens_per_second": speeds}}
    one, many = every.BENCHMARKS["generate"].standings(generated)
    assert [(each.ours, each.who, each.times) for each in (one, many)] == [
        (20.0, "llama.cpp, 1", "2.00"),
        (60.0, "llama.cpp, 16", "3.00"),
    ]
    sizes = {"0.05": {"plain": {"mb_per_processor_second": 8.0}, "ours, cleaned": {"mb_per_processor_second": 4.0}}}
    (found,) = every.BENCHMARKS["preprocess_speed"].standings({"sizes": sizes})
    assert (found.ours, found.best, found.who, found.times) == (4.0, 8.0, "plain", "0.50")


@pytest.mark.parametrize("name", list(every.BENCHMARKS))
def test_what_a_short_look_asks_for_is_what_the_benchmark_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *every.BENCHMARKS[name].quick, "--out", "x.json", "--no-such-option"])
    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{name}").main()
    assert capsys.readouterr().err.splitlines()[-1].endswith(" error: unrecognized arguments: --no-such-option")


def test_a_short_look_at_every_claim_leaves_the_results_alone_and_says_what_failed(monkeypatch, tmp_path, capfd):
    small = every.BENCHMARKS["lora_speed"]._replace(quick=("--rounds", "0"), peers="")  # whether they are here or not
    monkeypatch.setattr(every, "BENCHMARKS", {"lora_speed": small})
    before = {path: path.read_bytes() for path in report.RESULTS.rglob("*.json")}
    assert every.main(["--quick"]) == 1
    said = capfd.readouterr()
    assert "--rounds 0: at least one measures something" in said.err
    assert said.out.endswith("failed: lora_speed\n")
    assert {path: path.read_bytes() for path in report.RESULTS.rglob("*.json")} == before


@pytest.mark.parametrize(
    ("main", "options", "reason"),
    [
        (train_speed.main, ["--only", "ours fp16"], f"--only 'ours fp16': those are '{train_speed.OURS[0]}', "),
        (
            time_to_loss.main,
            ["--only", "ours", "--data", "nowhere"],
            "--data nowhere: no corpus there; `make run` makes",
        ),
        (time_to_loss.main, ["--peers", "nowhere/python"], "no such file; make it with: python3 -m venv"),
        (lora_speed.main, ["--texts", "3"], "--texts 3: an even number, each of at least 8 of --window 512 tokens"),
        (lora_speed.main, ["--peers", sys.executable], "No package metadata was found for peft"),
    ],
)
def test_what_can_not_be_compared_is_one_line(main, options, reason, capsys):
    with pytest.raises(SystemExit):
        main(options)
    assert reason in capsys.readouterr().err


def test_a_contender_that_fails_is_named_with_its_reason(setup, capsys):
    options = argparse.Namespace(rounds=1, seconds=0.0, warmup=0, threads=1, peers=sys.executable)
    found = train_speed.compare(setup, [train_speed.Contender("litgpt", "fp32")], options)
    reason = "exit code 1: ModuleNotFoundError: No module named 'litgpt'"
    assert found["contenders"]["litgpt fp32"] == {"failed": reason}
    train_speed.table("small", found)
    assert re.search(rf"^litgpt fp32 +failed +{reason}$", capsys.readouterr().out, re.MULTILINE)


def test_operations_of_a_step_are_those_of_the_model():
    config = GPTConfig(context_length=8, n_layer=3, n_head=2, n_embd=4, vocabulary_size=50)
    weights = matmul_weights(transformers_gpt2(same_size(config)).model)
    assert train_speed.operations(weights, same_size(config), 16) == 16 * GPT(config).training_flops()


def test_what_a_minute_buys_is_compared_and_a_run_is_made_once(small_params, token_files, tmp_path, monkeypatch):
    monkeypatch.setattr(time_to_loss, "SIZES", ((3, 4),))
    monkeypatch.setattr(time_to_loss, "RATES", {"gpt2": (1e-3,)})
    out, state = tmp_path / "made.json", tmp_path / "state"
    options = ["--only", "ours", "gpt2", "--budgets", "1.0", "0.5", "--threads", "1"]
    options += ["--params", str(small_params), "--data", str(token_files), "--state", str(state), "--out", str(out)]
    time_to_loss.main(options)
    results, kept = json.loads(out.read_text()), {path: path.stat().st_mtime_ns for path in state.iterdir()}
    assert [(look["contender"], look["budget"]) for look in results["evaluations"]] == [
        *(("ours", 0.5), ("ours", 1.0)),
        *(("gpt2", 1.0), ("gpt2", 0.5)),
    ]
    for look in results["evaluations"]:
        assert 0 < look["bits_per_byte"] < 8
        assert look["steps"] > 1
    assert results["evaluations"][3]["seconds"] >= 0.5
    assert [results["evaluations"][3][name] for name in ("n_layer", "n_head", "n_embd")] == [3, 4, 32]
    assert results["best"]["gpt2"]["1"] == results["evaluations"][2]
    assert results["failed"] == {}

    time_to_loss.main(options)
    assert {path: path.stat().st_mtime_ns for path in state.iterdir()} == kept
    assert json.loads(out.read_text()) == results


def test_the_peers_rate_rises_falls_to_a_tenth_and_stays():
    assert [time_to_loss.cosine(share) for share in (0.025, 0.05, 0.525, 1.0, 1.1)] == pytest.approx(
        [0.5, 1.0, 0.55, 0.1, 0.1]
    )


def test_the_best_evaluation_is_the_lowest_and_one_without_a_number_never():
    looks = [{"contender": "gpt2", "budget": 9.0, "bits_per_byte": bits} for bits in (None, 2.0, 1.5)]
    assert time_to_loss.best(looks, "gpt2", 9.0) == looks[2]
    assert time_to_loss.best(looks[:1], "gpt2", 9.0) is None
    assert list(time_to_loss.shorter(None, [1.0, 9.0], looks[:1])) == []


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model of the shape and precision of published weights, large enough for attention to matter."""
    torch.manual_seed(0)
    encoding = train_bpe(["the cat sat on the mat and the dog ate the hat"] * 9, 300)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "vocabulary_size": encoding.n_vocab}
    llama = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
    model, folder = GPT(GPTConfig(context_length=128, **shape, **llama)), tmp_path_factory.mktemp("published")
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.ndim == 2 else 1
    save_model(folder, LoadedModel(model.bfloat16(), encoding), "language_model")
    return folder


def test_a_step_of_lora_is_measured_and_written(published, tmp_path, capsys):
    out = tmp_path / "lora_speed.json"
    options = ["--rounds", "1", "--seconds", "0", "--warmup", "1", "--threads", "1", "--rows", "2", "--window", "64"]
    only = ["--only", str(lora_speed.OURS)]
    lora_speed.main([*options, *only, "--texts", "4", "--base", str(published), "--out", str(out)])
    results = json.loads(out.read_text())
    assert results["size"]["texts"] == 4
    assert results["machine"]["processor"]
    (ours,) = results["contenders"].values()
    assert ours["steps"] == lora_speed.LEAST_STEPS
    assert ours["tokens_per_second"] == pytest.approx(2 * 64 / ours["seconds_a_step"], rel=1e-2)
    assert ours["trained_weights"] == 2 * 16 * sum(((32 + 64), (32 + 32), 2 * (32 + 128), (128 + 32)))
    assert ours["peak_memory_bytes"] > 1e8
    assert f"ours, {lora_speed.FROZEN}, separated" in capsys.readouterr().out


def test_lora_starts_from_the_same_loss_in_transformers(published, tmp_path):
    size = lora_speed.Size(rows=2, window=64, texts=4, vocabulary=lora_speed.export(published, tmp_path / "model"))
    rows = lora_speed.conversations(3, size)
    assert [sum(len(tokens) for tokens, _ in row) for row in rows] == [64, 64]
    assert len({len(tokens) for row in rows for tokens, _ in row}) > 2
    ours = lora_speed.our_loss(lora_speed.our_model(published, 64), rows).item()
    for precision in lora_speed.PRECISIONS:
        model = lora_speed.transformers_model(tmp_path / "model", precision)
        found = {form: lora_speed.their_loss(model, precision, make(rows)) for form, make in lora_speed.FORMS.items()}
        assert found["padded"].item() == pytest.approx(ours, rel=2e-3)
        assert found["separated"].item() == pytest.approx(ours, rel=2e-3)
        assert found["packed"].item() != pytest.approx(ours, rel=2e-2)  # where texts see each other


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    """A classifier's folder, and a folder of mails."""
    folder, data = tmp_path_factory.mktemp("classifier"), tmp_path_factory.mktemp("emails")
    encoding = train_bpe(["the cat sat on the mat and the dog ate the hat"] * 9, 300)
    config = GPTConfig(context_length=64, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab)
    spam = ClassifierConfig(labels=("ham", "spam"), max_tokens=32)
    save_model(folder, LoadedModel(Classifier(GPT(config), spam), encoding), "classifier", cleaning="tasks.data.mail")
    rows = [("the cat", "sat on the mat", "ham"), ("the dog", "ate the hat", "spam")] * 3
    for split in ("train", "test"):
        pd.DataFrame(rows, columns=["subject", "body", "label"]).to_parquet(data / f"{split}.parquet")
    return folder, data


def test_emails_are_classified_in_one_request_and_in_many(mails, tmp_path, capsys):
    out = tmp_path / "classify_speed.json"
    options = ["--model", str(mails[0]), "--data", str(mails[1]), "--rounds", "1", "--mails", "12", "--out", str(out)]
    classify_speed.main(options)
    results = json.loads(out.read_text())
    speeds = results["mails_per_second"]
    assert list(speeds) == ["served", "TF-IDF"]
    for each in speeds.values():
        assert list(each) == ["1", "10", "12"]
        assert min(each.values()) > 0
    assert results["machine"]["processor"]
    assert "12 emails" in capsys.readouterr().out


def test_requests_hold_every_mail_once_and_one_without_an_answer_is_named(mails, tmp_path):
    asked = []
    table = pd.DataFrame({"subject": list("abcde"), "body": ["the hat"] * 5})
    assert classify_speed.speed(lambda request: asked.append(list(request["subject"])), table, 2) > 0
    assert asked == [["a", "b"], ["c", "d"], ["e"]]
    classify = classify_speed.served(mails[0], tmp_path / "model")
    assert set(classify(table)) <= {"ham", "spam"}
    with pytest.raises(UserError, match="1 of 2 mails have no answer; the first: there is no text to classify"):
        classify(pd.DataFrame({"subject": ["the cat", ""], "body": ["", ""]}))


def test_chats_at_once_are_served_while_an_alias_moves_and_the_server_ends_well(tmp_path, monkeypatch):
    model, out = write_model(tmp_path / "assistant", "assistant"), tmp_path / "out.json"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the benchmark sets to a store of its own
    options = ["--clients", "3", "--seconds", "1", "--new", "8"]
    serve_load.main([*options, "--model", str(model), "--out", str(out)])
    found = json.loads(out.read_text())["found"]
    assert list(found) == ["ours"]
    ours = found["ours"]
    assert min(ours["tokens_per_second"].values()) > 0
    assert ours["answers"] > 0
    assert (ours["errors"], ours["broken_streams"]) == (0, 0)
    assert (ours["sigterm"]["exit_code"], ours["sigterm"]["broken_streams"]) == (0, 0)
