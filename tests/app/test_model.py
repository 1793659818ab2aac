import json
import shutil
from pathlib import Path

import pytest

from app.export import export
from app.model import load
from llm.errors import UserError
from tests.app.conftest import tracked


@pytest.fixture(scope="module")
def folder(registry) -> Path:
    """The folder of the registry's champion of the assistant."""
    return registry / "assistant-1/assistant"


def test_model_answers_alike_by_its_name_its_folder_and_as_an_export(registry, folder, tmp_path):
    with tracked(registry):
        by_name = load("assistant")
        export(str(folder), "hf", tmp_path / "exported")
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    talk.append({"role": "user", "content": "the cat"})
    models = [by_name, load(str(folder)), load(str(tmp_path / "exported"))]
    assert [model.name for model in models] == ["assistant-1", "assistant", "exported"]
    answers = [model.chat(talk, max_new_tokens=12, text_penalty=1.0) for model in models]
    assert answers[0]
    assert answers == answers[:1] * 3
    assert by_name.chat("hello", max_new_tokens=4) == by_name.chat([talk[0]], max_new_tokens=4)


def test_language_model_chats_if_its_folder_has_a_template(registry, folder, tmp_path):
    shutil.copytree(registry / "foundation-1/foundation", tmp_path / "published")
    path = tmp_path / "published/config.json"
    chat = json.loads((folder / "config.json").read_text())["chat"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat": chat}))
    assert load(str(tmp_path / "published")).chat("hello", max_new_tokens=12)
    with pytest.raises(UserError, match="foundation has no form for a conversation"):
        load(str(registry / "foundation-1/foundation")).chat("hello")


def test_completion_repeats_with_its_seed(registry):
    model = load(str(registry / "foundation-1/foundation"))
    texts = [model.complete("the cat", max_new_tokens=12, seed=seed, temperature=1.0) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_classifier_cleans_a_row_and_refuses_one_that_it_cannot_read(registry):
    model = load(str(registry / "classifier-1/classifier"))
    verdict = model.classify({"subject": "Lunch", "body": "At <b>noon</b>?"})
    assert verdict["label"] in ("ham", "spam")
    with pytest.raises(UserError, match="no text"):
        model.classify({"subject": "", "body": ""})


@pytest.mark.parametrize(
    ("name", "call", "reason"),
    [
        ("classifier", lambda model: model.chat("hello"), "classifier-1 has no form for a conversation"),
        ("classifier", lambda model: model.complete("hello"), "classifier-1 writes no text"),
        ("foundation", lambda model: model.classify({"subject": "hello"}), "foundation-1 is no classifier"),
        ("nothing", None, "model 'nothing' is not registered"),
    ],
)
def test_model_refuses_what_it_cannot_do(registry, name, call, reason):
    with tracked(registry), pytest.raises(UserError, match=reason):
        call(load(name))
