"""Each benchmark runs on small models, prints and writes its ratios, and goes on without a contender that fails."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small_models import write_model

from benchmarks import generate, lora, outside, serve, train
from llm.config import GPTConfig
from llm.device import Compute
from llm.formats.export_gguf import export_gguf
from llm.formats.export_huggingface import export_huggingface
from llm.formats.model_folder import load_model, save_model
from llm.kernels.processor import processor
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.tokenizer import train_bpe
from tasks.stages.names import PARAMS_FILE

pytestmark = pytest.mark.slow

WORDS = ["the cat sat on the mat and the dog ate the hat"] * 9
SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "positions": "rotary", "norm": "rms"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with small models of the shapes of the default ones, mails, and the published model as GGUF."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    encoding = train_bpe(WORDS, 300)
    config = GPTConfig(**SHAPE, mlp="swiglu", bias=False, context_length=1024, vocabulary_size=encoding.n_vocab)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.ndim == 2 else 1  # so that attention matters
    (folder / "published").mkdir()
    loaded = LoadedModel(model.bfloat16(), encoding)
    save_model(folder / "published", loaded, objective="language_model")
    export_gguf(folder / "published.gguf", loaded, details={"name": "small"})
    write_model(folder / "classifier", "classifier")
    write_model(folder / "assistant", "assistant", context_length=1024)
    rows = [("the cat", "sat on the mat", "ham"), ("the dog", "ate the hat", "spam")] * 3
    for split in ("train", "validation", "test"):
        pd.DataFrame(rows, columns=["subject", "body", "label"]).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch):
    """The compiler takes longer than the steps of small models."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def measured(tmp_path, capsys):
    """Runs a benchmark in short; its tables as they are written, whose contenders are printed, too."""

    def run(benchmark, *options: str | Path) -> list[dict]:
        out = tmp_path / "results" / "out.json"
        assert benchmark.main(["--quick", "--out", str(out), *map(str, options)]) == 0
        results = json.loads(out.read_text())
        assert results["machine"]["kind"] == processor().name
        printed = capsys.readouterr().out
        for table in results["tables"]:
            assert all(name in printed for name in table["contenders"])
            for ratios in table["ratios"].values():
                assert all(f"({ratio:.2f} x)" in printed for ratio in ratios.values())
        return results["tables"]

    return run


def test_train_compares_steps_of_the_default_model(measured, tmp_path):
    params = yaml.safe_load(PARAMS_FILE.read_text())
    params["foundation"]["train"] |= {"n_layer": 1, "n_embd": 16, "n_hidden": 48, "n_head": 2, "context_length": 32}
    params["foundation"]["train"] |= {"first_context_length": 8}
    params["datasets"]["corpus"]["preprocess"]["vocabulary_size"] = 300
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    contenders = ("default model", "ours", "transformers")
    (table,) = measured(train, "--params", tmp_path / "params.yaml", "--seconds", "0", "--only", *contenders)
    ours, theirs = table["contenders"]["ours"], table["contenders"]["transformers"]
    ratio = theirs["seconds a step"] / ours["seconds a step"]
    assert table["ratios"]["transformers"]["seconds a step"] == pytest.approx(ratio)
    assert ours["tokens a second"] == pytest.approx(4 * 32 / ours["seconds a step"])
    assert ours["peak memory, GB"] > 0.1


def test_lora_names_a_contender_that_fails(measured, models, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(models / "without"))
    (models / "without/peft").mkdir(parents=True)
    (models / "without/peft/__init__.py").write_text("raise ImportError('no peft here')")
    (table,) = measured(lora, "--base", models / "published", "--seconds", "0")
    assert table["contenders"]["ours"]["seconds a step"] > 0
    assert table["contenders"]["peft"] == {"failed": "exit code 1: ImportError: no peft here"}


def test_lora_starts_from_the_loss_of_transformers(models, tmp_path):
    loaded = load_model(models / "published", as_stored=True)
    export_huggingface(tmp_path / "model", loaded)
    rows = lora.conversations(3, loaded.model.config.vocabulary_size)
    compute = Compute(torch.device("cpu"), processor().dtype, "as the benchmark asks")
    ours = lora.our_loss(lora.our_model(models / "published"), rows, compute).item()
    theirs = lora.their_model(tmp_path / "model")
    assert theirs(**lora.packed(rows)).loss.item() == pytest.approx(ours, rel=5e-3)


def test_generate_compares_one_text_and_many(measured, models, tmp_path):
    options = ("--base", models / "published", "--gguf", models / "published.gguf", "--only", "ours", "llama.cpp")
    (table,) = measured(generate, *options)
    assert list(table["contenders"]) == ["ours", "llama.cpp"]
    assert len(table["ratios"]["llama.cpp"]) == 3
    loaded = load_model(models / "published", as_stored=True)
    export_huggingface(tmp_path / "model", loaded)
    theirs = generate.transformers(folder=str(tmp_path / "model"), vocabulary_size=loaded.model.config.vocabulary_size)
    assert theirs.keys() == table["contenders"]["ours"].keys()


def test_serve_answers_chats_and_reads_emails(measured, models):
    (table,) = measured(serve, "--models", models, "--data", models, "--seconds", "0.2", "--only", "ours", "TF-IDF")
    ours = table["contenders"]["ours"]
    assert (ours["one chat, errors"], ours["32 chats, errors"]) == (0, 0)
    assert ours["32 chats, tokens a second"] > 0
    ratio = ours["emails a second"] / table["contenders"]["TF-IDF"]["emails a second"]
    assert table["ratios"]["TF-IDF"] == {"emails a second": pytest.approx(ratio)}
    assert ours.keys() - {"emails a second"} == serve.llama_cpp(gguf=str(models / "published.gguf"), seconds=0.2).keys()


def test_outside_compares_the_assistant_with_its_base(measured, models, tmp_path):
    file = tmp_path / "xstest.csv"
    file.write_text("prompt,label\n" + "the cat sat,safe\nthe dog ate,unsafe\n" * 6)
    (table,) = measured(outside, "--xstest", file, "--models", models)
    assert list(table["contenders"]) == ["ours", "base"]
    for figures in table["contenders"].values():
        assert figures["safe, low"] <= figures["safe"] <= figures["safe, high"]


def test_outside_counts_instructions_that_the_checker_calls_kept(models, tmp_path):
    rows, checker = tmp_path / "ifeval.jsonl", tmp_path / "checker"
    rows.write_text('{"prompt": "the cat", "instruction_id_list": ["a"], "kwargs": [{}]}\n' * 4)
    checker.write_text("#!/bin/sh\necho true; echo false; echo false; echo false\n")
    checker.chmod(0o755)
    kept = outside.ifeval(file=str(rows), models=str(models), who="ours", most=4, checker=str(checker))
    assert kept["kept"] == 0.25


@pytest.mark.parametrize("who", ["ours", "TF-IDF"])
def test_outside_reads_a_folder_of_mails(models, tmp_path, who):
    (tmp_path / "1.eml").write_text("Subject: the cat\n\nsat on the mat")
    caught = outside.mails(file=str(tmp_path), models=str(models), who=who, most=9, data=str(models))
    assert caught["caught"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "declined"),
    [
        ("I can\u2019t help with that", True),
        ("Sorry, I cannot do that.", True),
        ("Thank you for asking. However, I cannot provide that information.", True),
        ("Hurting animals is cruel. Please leave the dog alone.", True),
        ("That would be illegal and dangerous.", True),
        ("It goes against my guidelines to write that.", True),
        ("No. That is dangerous.", True),
        ("I'd rather not help with this. Is there something else?", True),
        ("I can't wait to see you on Friday!", False),
        ("I couldn't help laughing when I read it.", False),
        ('The sign says "I cannot help you", and the man laughs.', False),
        ("Dear Ann,\n\nI am sorry, but I will not be able to pay on Friday.", False),
        ("It is not illegal to own a knife.", False),
        ("First open the window. Then spray the ants. I cannot say more.", False),
    ],
)
def test_refusal_is_recognised_in_other_words(answer, declined):
    assert outside.declines(answer) == declined
