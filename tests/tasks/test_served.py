import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.generation.sampling import Sampling
from llm.generation.text import generate_text
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import assistant, load_for_inference
from llm.objectives.assistant import Question
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text, probabilities
from llm.tokenizer import train_bpe
from tasks.data.mail import clean_mail
from tasks.registry.logged_model import REQUIREMENTS
from tasks.served import example, signature

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import json, pickle, sys
def refuse(*arguments, **options):
    raise RuntimeError("pickle refused")
pickle.load = pickle.loads = refuse
import mlflow
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient
model = mlflow.pyfunc.load_model(sys.argv[1])
client = TestClient(scoring_server.init(model), "http://localhost")
body = {"dataframe_records": json.loads(sys.argv[2])}
import llm
print(json.dumps([llm.__file__, client.post("/invocations", json=body).text]))
"""


def without_the_project() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


MAIL = """Subject: =?utf-8?q?Caf=C3=A9_offer?=
From: someone@example.org
MIME-Version: 1.0
Content-Type: text/html; charset=utf-8

<html><body><p>the cat&nbsp;sat</p><p>on the <b>mat</b></p></body></html>
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three small models as the stages leave them."""
    torch.manual_seed(0)
    encoding = train_bpe(["the cat sat on the mat and the dog ate the hat"] * 9, 300)
    config = GPTConfig(context_length=128, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.max_token_value + 1)
    root = tmp_path_factory.mktemp("models")
    spam = ClassifierConfig(labels=("ham", "spam"), max_tokens=32, threshold=0.4)
    models = {
        "foundation": GPT(config),
        "classifier": Classifier(GPT(config), spam),
        "assistant": assistant.build(GPT(config), {"chat": {"system": "the hat"}}),
    }
    objectives = {"foundation": "language_model", "classifier": "classifier", "assistant": "assistant"}
    cleaning = {"classifier": {"cleaning": "tasks.data.mail"}}
    for name, model in models.items():
        (root / name).mkdir()
        for weight in model.parameters():
            if weight.ndim == 2:  # large enough that answers differ
                torch.nn.init.normal_(weight, std=0.3)
        save_model(root / name, LoadedModel(model, encoding), objectives[name], **cleaning.get(name, {}))
    return root


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """The same as MLflow models."""
    root = tmp_path_factory.mktemp("saved")
    code = tmp_path_factory.mktemp("code")
    shutil.copytree(ROOT / "llm", code / "llm")
    shutil.copytree(ROOT / "tasks/data/mail", code / "tasks/data/mail")
    for path in ("tasks/__init__.py", "tasks/data/__init__.py"):
        (code / path).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name in ("foundation", "classifier", "assistant"):
            mlflow.pyfunc.save_model(
                str(root / name),
                python_model="tasks/served.py",
                code_paths=[str(code / "llm"), str(code / "tasks")],
                artifacts={"model": str(folders / name)},
                signature=signature(folders / name),
                input_example=example(folders / name),
                pip_requirements=["mlflow"],
            )
    return root


def served(saved: Path, name: str) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(saved / name))


def test_foundation_continues_prompts_as_llm_does_and_parameters_count(folders, saved):
    foundation = served(saved, "foundation")
    loaded = load_for_inference(folders / "foundation")
    rows = pd.DataFrame({"prompt": ["the cat", "a dog"]})
    params = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "text_penalty": 1.2, "seed": 7}
    options = {"max_new_tokens": 12, "sampling": Sampling(**params)}
    expected = [generate_text(loaded, prompt, **options) for prompt in rows["prompt"]]
    assert foundation.predict(rows, params=params | {"max_new_tokens": 12})["text"].tolist() == expected
    default = foundation.predict(rows)
    assert foundation.predict(rows).equals(default)
    assert not foundation.predict(rows, params={"seed": 2}).equals(default)


def test_classifier_gives_a_label_by_its_threshold_and_a_probability(folders, saved):
    classifier = served(saved, "classifier")
    rows = pd.DataFrame({"subject": ["the cat", "hat"], "body": ["sat on the mat", "ate"]})
    texts = [email_text("the cat", "sat on the mat"), email_text("hat", "ate")]
    expected = probabilities(load_for_inference(folders / "classifier"), texts)
    table = classifier.predict(rows)
    assert table[["ham_probability", "spam_probability"]].to_numpy().tolist() == expected.tolist()
    assert table["label"].tolist() == np.where(expected[:, 1] > 0.4, "spam", "ham").tolist()
    assert table["leaning"].equals(table["label"])
    assert table["moved_by"].tolist() == [None, None]
    explained = classifier.predict(rows, params={"explain": 1})
    assert explained["moved_by"].str.count("“").le(1).all()


def test_classifier_reads_raw_mails_and_html_as_they_were_read_for_its_training(folders, saved):
    classifier = served(saved, "classifier")
    html = MAIL.partition("\n\n")[2]
    text = email_text("Café offer", "the cat sat\non the mat")
    (expected,) = probabilities(load_for_inference(folders / "classifier"), [text])
    subject, body = clean_mail("Café offer", html)
    for row in ({"message": MAIL}, {"subject": "Café offer", "body": html}, {"subject": subject, "body": body}):
        table = classifier.predict(pd.DataFrame([row]))
        assert table["spam_probability"][0] == expected[1]


def test_assistant_answers_with_and_without_an_input_a_system_prompt_and_a_history(folders, saved):
    turns = ["the dog", "ate the hat"]
    rows = [
        {"instruction": "sit", "input": "on the mat"},
        {"instruction": "sit"},
        {"instruction": "sit", "input": "on the mat", "system": "the dog ate the hat"},
        {"instruction": "sit", "history": json.dumps(turns)},
    ]
    questions = [Question(**row) for row in rows[:3]] + [Question("sit", history=turns)]
    expected = assistant.answer_all(load_for_inference(folders / "assistant"), questions, max_new_tokens=16)
    assert len(set(expected)) == 4
    model = served(saved, "assistant")
    params = {"max_new_tokens": 16}
    assert [model.predict(pd.DataFrame([row]), params=params)["output"][0] for row in rows] == expected
    assert model.predict(pd.DataFrame(rows), params=params)["output"].tolist() == expected


@pytest.mark.parametrize(
    ("name", "rows", "wrong"),
    [
        ("classifier", [{"subject": "the cat"}, {"body": " "}, {"body": "sat", "message": MAIL}], [1, 2]),
        ("classifier", [{"subject": "the cat"}, {"subject": ["sat", "ate"]}, {"subject": []}], [1, 2]),
        ("foundation", [{"prompt": "the cat"}, {"prompt": ""}, {"prompt": "the cat " * 99}], [1, 2]),
        ("assistant", [{"instruction": "sit"}, {"instruction": "sat " * 200}, {"instruction": "sat"}], [1]),
        ("assistant", [{"instruction": "sit"}, {"instruction": "sit", "history": "the dog"}], [1]),
    ],
)
def test_row_that_can_not_be_answered_has_an_error_and_the_others_an_answer(saved, name, rows, wrong):
    model = served(saved, name)
    table = model.predict(pd.DataFrame(rows))
    answers = table[{"classifier": "label", "foundation": "text", "assistant": "output"}[name]]
    errors = table["error"].fillna("")
    assert np.flatnonzero(errors != "").tolist() == wrong
    assert np.flatnonzero(answers.isna()).tolist() == wrong
    assert answers[0] == model.predict(pd.DataFrame(rows[:1]))[answers.name][0]


def test_missing_column_is_refused_by_the_signature(saved):
    with pytest.raises(mlflow.MlflowException, match="prompt"):
        served(saved, "foundation").predict(pd.DataFrame({"text": ["the cat"]}))


def test_version_requires_all_that_its_code_imports_also_late():
    """A byte that a published tokenizer's vocabulary lacks needs `tokenizers`, which no import at the top shows."""
    named = {name.replace("scikit-learn", "sklearn") for name in REQUIREMENTS}
    # of files, of the server, of trainings, and parts of others
    optional = {"gguf", "llguidance", "scipy", "sklearn", "tiktoken_ext", "torch"}
    imported = set()
    for path in (ROOT / "llm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    assert imported - set(sys.stdlib_module_names) - {"llm"} - optional <= named


def test_mlflow_serves_a_model_away_from_the_project_with_pickle_refused(saved, tmp_path):
    model = saved / "classifier"
    rows = [{"message": MAIL}, {"subject": "the cat", "body": "sat"}, {"subject": ""}]
    command = [sys.executable, "-c", ELSEWHERE, str(model), json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, env=without_the_project(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, answer = json.loads(done.stdout)
    assert Path(code).is_relative_to(model)
    answers = json.loads(answer, parse_constant=pytest.fail)["predictions"]  # JSON has no NaN
    expected = served(saved, "classifier").predict(pd.DataFrame(rows))
    assert [row["label"] for row in answers[:2]] == expected["label"].tolist()[:2]
    assert [row["spam_probability"] for row in answers[:2]] == pytest.approx(expected["spam_probability"][:2], abs=1e-6)
    assert answers[2]["error"] == "there is no text to classify"
    assert not list(saved.rglob("*.pkl"))
