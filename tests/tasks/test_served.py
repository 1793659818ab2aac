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
from mlflow.pyfunc import PythonModelContext

from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.generation.sampling import Sampling
from llm.generation.text import generate_text
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import assistant, load, load_for_inference
from llm.objectives.assistant import Question
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text, probabilities
from llm.tokenizer import train_bpe
from tasks.data.mail import clean_mail
from tasks.registry.logged_model import REQUIREMENTS
from tasks.served import ServedModel, example, signature

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
    for name, objective, model, extras in (
        ("foundation", "language_model", GPT(config), {}),
        ("classifier", "classifier", Classifier(GPT(config), spam), {"cleaning": "tasks.data.mail"}),
        ("assistant", "assistant", assistant.build(GPT(config), {"chat": {"system": "the hat"}}), {}),
    ):
        (root / name).mkdir()
        for weight in model.parameters():
            if weight.ndim == 2:  # large enough that answers differ
                torch.nn.init.normal_(weight, std=0.3)
        save_model(root / name, LoadedModel(model, encoding), objective, **extras)
    return root


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """The same as MLflow models."""
    root, code = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("code")
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


def test_a_foundation_continues_prompts_as_llm_does_and_parameters_count(folders, saved):
    foundation = served(saved, "foundation")
    rows = pd.DataFrame({"prompt": ["the cat", "a dog"]})
    model, encoding = load_for_inference(folders / "foundation")
    params = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7}
    options = {"max_new_tokens": 12, "sampling": Sampling(**params)}
    expected = [generate_text(LoadedModel(model, encoding), prompt, **options) for prompt in rows["prompt"]]
    assert foundation.predict(rows, params=params | {"max_new_tokens": 12})["text"].tolist() == expected
    assert foundation.predict(rows).equals(foundation.predict(rows))
    assert not foundation.predict(rows).equals(foundation.predict(rows, params={"seed": 2}))


def test_a_classifier_gives_a_label_by_its_threshold_and_a_probability(folders, saved):
    rows = pd.DataFrame({"subject": ["the cat", "hat"], "body": ["sat on the mat", "ate"]})
    expected = probabilities(load_for_inference(folders / "classifier"), [email_text(*row) for row in rows.to_numpy()])
    table = served(saved, "classifier").predict(rows)
    assert table[["ham_probability", "spam_probability"]].to_numpy().tolist() == expected.tolist()
    assert table["label"].tolist() == np.where(expected[:, 1] > 0.4, "spam", "ham").tolist()
    assert table["leaning"].equals(table["label"])
    assert table["moved_by"].tolist() == [None] * len(table)
    moved = served(saved, "classifier").predict(rows, params={"explain": 1})["moved_by"]
    assert all(text.count("“") <= 1 for text in moved)


def test_a_classifier_reads_raw_mails_and_html_as_they_were_read_for_its_training(folders, saved):
    classifier = served(saved, "classifier")
    body = MAIL.partition("\n\n")[2]
    (expected,) = probabilities(
        load_for_inference(folders / "classifier"), [email_text("Café offer", "the cat sat\non the mat")]
    )
    raw = classifier.predict(pd.DataFrame({"message": [MAIL]}))
    parts = classifier.predict(pd.DataFrame({"subject": ["Café offer"], "body": [body]}))
    tidy = classifier.predict(
        pd.DataFrame([dict(zip(("subject", "body"), clean_mail("Café offer", body), strict=True))])
    )
    for table in (raw, parts, tidy):
        assert table["spam_probability"][0] == expected[1]


def test_an_assistant_answers_with_and_without_an_input_and_a_system_prompt(folders, saved):
    model, encoding = load_for_inference(folders / "assistant")
    questions = [Question("sit", "on the mat"), Question("sit"), Question("sit", "on the mat", "the dog ate the hat")]
    expected = assistant.answer_all(LoadedModel(model, encoding), questions)
    assert len(set(expected)) == 3
    with_input = {"instruction": ["sit"], "input": ["on the mat"]}
    with_system = with_input | {"system": ["the dog ate the hat"]}
    loaded = served(saved, "assistant")
    tables = [pd.DataFrame(columns) for columns in (with_input, {"instruction": ["sit"]}, with_system)]
    assert [loaded.predict(table)["output"][0] for table in tables] == expected


def test_an_assistant_takes_earlier_turns_as_json(folders, saved):
    model, encoding = load_for_inference(folders / "assistant")
    turns = ["the dog", "ate the hat"]
    questions = [Question("sit", history=turns), Question("sit")]
    expected = assistant.answer_all(LoadedModel(model, encoding), questions, max_new_tokens=16)
    assert len(set(expected)) == 2
    rows = pd.DataFrame({"instruction": ["sit"] * 3, "history": [json.dumps(turns), None, "the dog"]})
    table = served(saved, "assistant").predict(rows, params={"max_new_tokens": 16})
    assert table["output"].tolist()[:2] == expected
    assert table["error"][2].startswith("history: not JSON")


@pytest.mark.parametrize(
    ("name", "rows", "reasons"),
    [
        ("classifier", [{"subject": "the cat"}, {"body": " "}, {"body": "sat", "message": MAIL}], (1, 2)),
        ("classifier", [{"subject": "the cat"}, {"subject": ["sat", "ate"]}, {"subject": []}], (1, 2)),
        ("foundation", [{"prompt": "the cat"}, {"prompt": ""}, {"prompt": "the cat " * 99}], (1, 2)),
        ("assistant", [{"instruction": "sit"}, {"instruction": "sat " * 200}, {"instruction": "sat"}], (1,)),
    ],
)
def test_a_row_that_can_not_be_answered_says_why_and_leaves_the_others_alone(saved, name, rows, reasons):
    model = served(saved, name)
    table = model.predict(pd.DataFrame(rows))
    wrong = [number for number, reason in enumerate(table["error"]) if isinstance(reason, str) and reason]
    assert wrong == list(reasons)
    (alone,) = model.predict(pd.DataFrame([rows[0]])).to_dict("records")
    for column in ("label", "text", "output"):
        if column in table:
            assert table[column][0] == alone[column]
            assert all(pd.isna(table[column][number]) for number in wrong)


def test_a_missing_column_is_refused_by_the_signature(saved):
    with pytest.raises(mlflow.MlflowException, match="prompt"):
        served(saved, "foundation").predict(pd.DataFrame({"text": ["the cat"]}))


def test_a_version_requires_all_that_its_code_imports_also_late():
    """A byte that a published tokenizer's vocabulary lacks needs `tokenizers`, which no import at the top shows."""
    named = {name.replace("scikit-learn", "sklearn") for name in REQUIREMENTS}
    optional = {"gguf", "tiktoken_ext", "torch"}  # reading published files, and parts of what is required
    imported = set()
    for path in (ROOT / "llm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    assert imported - set(sys.stdlib_module_names) - {"llm"} - optional <= named


def test_a_continuation_passes_over_rows_of_a_padded_embedding_that_are_no_token(folders, tmp_path):
    _, encoding = load(folders / "foundation")
    model, size = ServedModel(), encoding.n_vocab
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(context_length=64, n_layer=1, n_head=2, n_embd=16, vocabulary_size=size + 20, tied=False))
    with torch.no_grad():
        gpt.output.weight[:size] = 0
    save_model(tmp_path, LoadedModel(gpt, encoding), "language_model")
    model.load_context(PythonModelContext({"model": str(tmp_path)}, {}))
    params = {"temperature": 0.0, "max_new_tokens": 4}
    table = model.predict(None, pd.DataFrame({"prompt": ["the cat", "a dog"]}), params)
    assert table["text"].tolist() == ["", ""]


def test_an_unknown_objective_is_named(folders, tmp_path):
    folder = shutil.copytree(folders / "foundation", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"objective": "oracle"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="objective 'oracle' is not one of assistant, classifier, language_model"):
        ServedModel().load_context(PythonModelContext({"model": str(folder)}, {}))


def test_mlflow_serves_a_model_away_from_the_project_with_pickle_refused(saved, tmp_path):
    model = saved / "classifier"
    rows = [{"message": MAIL}, {"subject": "the cat", "body": "sat"}, {"subject": ""}]
    command = [sys.executable, "-c", ELSEWHERE, str(model), json.dumps(rows)]
    done = subprocess.run(command, cwd=tmp_path, env=without_the_project(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, answer = json.loads(done.stdout)
    assert Path(code).is_relative_to(model)
    rows_served = json.loads(answer, parse_constant=pytest.fail)["predictions"]  # JSON has no NaN
    expected = served(saved, "classifier").predict(pd.DataFrame(rows))
    for row, probability in zip(rows_served[:2], expected["spam_probability"], strict=False):
        assert row["spam_probability"] == pytest.approx(probability, abs=1e-6)
        assert row["label"] in ("ham", "spam")
    assert rows_served[2]["error"] == "there is no text to classify"
    assert not list(saved.rglob("*.pkl"))
