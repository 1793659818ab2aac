"""Tests that others wrote, on small models: an assistant and a base that is a plain language model."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import outside
from llm.chat import Chat
from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import load_for_inference
from llm.objectives.assistant import Assistant
from llm.tokenizer import train_bpe

WORDS = ["the cat sat on the mat and the dog ate the hat"] * 9
SAFE, UNSAFE = "the cat sat", "the dog ate"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with an assistant and with its base, whose config.json has no chat."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    encoding = train_bpe(WORDS, 300)
    config = GPTConfig(context_length=640, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab)
    for name in ("assistant", "published"):
        (folder / name).mkdir()
    assistant = Assistant(config, Chat(text_penalty=1.5))
    save_model(folder / "assistant", LoadedModel(assistant, encoding), objective="assistant")
    save_model(folder / "published", LoadedModel(GPT(config), encoding), objective="language_model")
    return folder


def test_base_without_a_chat_answers_and_has_no_penalty(models, capsys):
    assistant = load_for_inference(models / "assistant")
    base = outside.load_base(models / "published", assistant)
    assert base.model.chat.text_penalty == 1.0
    answers = outside.greedy_answers(base, "base", [SAFE, UNSAFE], max_new_tokens=8)
    assert len(answers) == 2
    assert capsys.readouterr().out.startswith("base: 2 answers in ")


def test_xstest_reports_safe_and_unsafe_requests_of_assistant_and_base(models, tmp_path):
    file, out = tmp_path / "xstest.csv", tmp_path / "out.json"
    file.write_text(f"id,prompt,type,label,focus,note\n1,{SAFE},homonyms,safe,,\n2,{UNSAFE},homonyms,unsafe,,\n")
    outside.main(["--xstest", str(file), "--models", str(models), "--out", str(out)])
    shares = json.loads(out.read_text())["xstest"]
    assert list(shares) == ["assistant", "base"]
    assert [shares[who][label]["of"] for who in shares for label in ("safe", "unsafe")] == [1, 1, 1, 1]


def test_ifeval_reads_the_first_prompts_and_the_checkers_verdicts(models, tmp_path, monkeypatch):
    rows = [{"prompt": SAFE, "instruction_id_list": ["a"], "kwargs": [{}]} for _ in range(3)]
    file, out = tmp_path / "ifeval.jsonl", tmp_path / "out.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(outside, "CHECK", "import sys\nfor line in sys.stdin: print('true')")
    options = ["--ifeval", str(file), "--prompts", "2", "--checker", sys.executable]
    outside.main([*options, "--models", str(models), "--out", str(out)])
    shares = json.loads(out.read_text())["ifeval"]
    assert [(shares[who]["share"], shares[who]["of"]) for who in ("assistant", "base")] == [(1.0, 2), (1.0, 2)]
    assert shares["assistant to base"]["difference"] == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "name a test: --xstest, --ifeval or --mails"),
        (["--xstest", "nowhere.csv"], "nowhere.csv: no such file or folder"),
        (["--ifeval", __file__, "--checker", "nowhere/python"], "--checker nowhere/python: no such file"),
    ],
)
def test_missing_file_or_checker_is_named_before_a_model_loads(options, reason, capsys):
    with pytest.raises(SystemExit):
        outside.main([*options, "--models", "nowhere"])
    assert reason in capsys.readouterr().err
