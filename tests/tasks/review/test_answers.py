import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import tiktoken
import torch

from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import load_for_inference
from llm.objectives.classifier import serve
from llm.tokenizer import end_of_text
from tasks.measures.labels.rows import label_rows
from tasks.review.answers import NoAnswerError, answers
from tasks.review.ask import answer
from tests.tasks.review.conftest import enter

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
SEES_ENVIRONMENT, SHIPS_NO_CODE = "1", "2"
ROW = pd.DataFrame({"subject": ["the cat"], "body": ["sat"]})


@pytest.fixture
def in_shipped(shipped, monkeypatch) -> Path:
    return enter(shipped, monkeypatch)


def test_version_answers_by_its_own_code_which_sees_no_secret_of_this_environment(in_shipped, monkeypatch):
    secrets = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "THREESTAGE_API_KEYS")
    for name in (*secrets, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    rows = label_rows(in_shipped / "data/processed/emails")
    answered, seconds = answers(NAME, SEES_ENVIRONMENT, rows[["subject", "body"]])
    asked = rows[["subject", "body"]].to_dict("records")
    expected = pd.DataFrame(serve(load_for_inference(in_shipped / "made/classifier"), asked), index=rows.index)
    assert answered["spam_probability"].tolist()[:39] == pytest.approx(expected["spam_probability"].tolist()[:39])
    assert answered["error"].notna().tolist() == [n == 39 for n in range(46)]
    seen = {*answered["label"][0].split()}
    assert {"PATH", "HOME", "OMP_NUM_THREADS"} <= seen
    assert not {*secrets, "PYTHONPATH"} & seen
    assert seconds > 0


def test_version_that_ships_no_code_gives_no_answers_rather_than_ours(in_shipped, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # where this process finds the project
    reason = r"^models:/threestage-classifier/2 gives no answers: .*(does not ship all of its code|No module named)"
    with pytest.raises(NoAnswerError, match=reason):
        answers(NAME, SHIPS_NO_CODE, ROW)


@pytest.mark.parametrize(
    ("number", "within", "reason"),
    [(SEES_ENVIRONMENT, 0.05, "did not answer within 0.05 seconds"), ("9", 60, "gives no answers: ")],
)
def test_version_that_takes_too_long_or_whose_files_are_gone_gives_no_answers(in_shipped, number, within, reason):
    with pytest.raises(NoAnswerError, match=f"^models:/{NAME}/{number} {reason}"):
        answers(NAME, number, ROW, within=within)


def test_store_that_is_away_says_nothing_about_the_version_and_its_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://ada:secret@127.0.0.1:9")
    try:
        with pytest.raises(UserError, match=r"127\.0\.0\.1:9") as raised:
            answers(NAME, "1", ROW)
    finally:
        mlflow.set_tracking_uri(None)
    assert not isinstance(raised.value, NoAnswerError)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("signal", "of_the_version"), [("SIGKILL", False), ("SIGSEGV", True)])
def test_process_that_is_killed_from_outside_says_nothing_about_the_version_either(
    in_shipped, tmp_path, monkeypatch, signal, of_the_version
):
    ask = tmp_path / "ask.py"
    ask.write_text(f"import os, signal; os.kill(os.getpid(), signal.{signal})")
    monkeypatch.setattr("tasks.review.answers.ASK", ask)
    with pytest.raises(UserError, match=r"signal \d+ ended its process") as raised:
        answers(NAME, SEES_ENVIRONMENT, ROW)
    assert isinstance(raised.value, NoAnswerError) == of_the_version


def bits(model: GPT, encoding: tiktoken.Encoding, text: str) -> float:
    """The bits in which a model writes a text: of each token's chance, in windows of the model's context."""
    tokens = [end_of_text(encoding), *encoding.encode_ordinary(text)]
    context = model.config.context_length
    count = 0.0
    for first in range(0, len(tokens) - 1, context):
        part = torch.tensor(tokens[first : first + context + 1])
        with torch.inference_mode():
            chances = model(part[None, :-1])[0].double().softmax(-1)
        count -= chances[range(len(part) - 1), part[1:]].log2().sum().item()
    return count


def test_foundation_is_asked_for_the_bits_in_which_it_writes_a_text(make_gpt, encoding):
    model, texts = make_gpt(), ["the cat sat on the mat . " * 9, "a bird"]
    assert len(encoding.encode_ordinary(texts[0])) > model.config.context_length
    loaded = SimpleNamespace(unwrap_python_model=lambda: SimpleNamespace(model=model, encoding=encoding))
    answered = answer(loaded, "bits", [{"text": text} for text in texts], options={})
    assert [row["bits"] for row in answered] == pytest.approx([bits(model, encoding, text) for text in texts], rel=1e-4)
