import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.pyfunc import PythonModelContext

from llm.assistant import answer
from llm.checkpoint import load_model, save_model
from llm.classifier import Classifier, spam_probability
from llm.config import GPTConfig
from llm.generate import generate_text
from llm.gpt import GPT
from llm.sampling import Sampling
from llm.tokenizer import train_bpe
from tasks.served import EXAMPLES, SIGNATURES, ServedModel

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import json, pickle, sys
def refuse(*arguments, **options):
    raise RuntimeError("pickle refused")
pickle.load = pickle.loads = refuse
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import llm
print(json.dumps([llm.__file__, model.predict(pd.DataFrame(json.loads(sys.argv[2]))).to_dict("list")]))
"""


def without_the_project() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three small models as the stages leave them."""
    torch.manual_seed(0)
    encoding = train_bpe(["the cat sat on the mat and the dog ate the hat"] * 9, 300)
    config = GPTConfig(context_length=128, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.max_token_value + 1)
    root = tmp_path_factory.mktemp("models")
    for kind in SIGNATURES:
        (root / kind).mkdir()
        gpt = GPT(config)
        save_model(root / kind, Classifier(gpt, 32) if kind == "classifier" else gpt, encoding, kind)
    return root


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """The same as MLflow models."""
    root = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for kind, signature in SIGNATURES.items():
            mlflow.pyfunc.save_model(
                str(root / kind),
                python_model="tasks/served.py",
                code_paths=["llm"],
                artifacts={"model": str(folders / kind)},
                signature=signature,
                input_example=pd.DataFrame(EXAMPLES[kind]),
                pip_requirements=["mlflow"],
            )
    return root


def test_a_foundation_continues_prompts_as_llm_does_and_parameters_count(folders, saved):
    served = mlflow.pyfunc.load_model(str(saved / "foundation"))
    rows = pd.DataFrame({"prompt": ["the cat", "a dog"]})
    model, encoding = load_model(folders / "foundation")
    params = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7}
    options = {"max_new_tokens": 12, "sampling": Sampling(**params)}
    expected = [generate_text(model, encoding, prompt, **options) for prompt in rows["prompt"]]
    assert served.predict(rows, params=params | {"max_new_tokens": 12})["text"].tolist() == expected
    assert served.predict(rows).equals(served.predict(rows))
    assert not served.predict(rows).equals(served.predict(rows, params={"seed": 2}))


def test_a_classifier_gives_a_label_and_its_probability(folders, saved):
    rows = pd.DataFrame({"subject": ["the cat", "hat"], "body": ["sat on the mat", "ate"]})
    expected = spam_probability(*load_model(folders / "classifier"), rows["subject"], rows["body"])
    table = mlflow.pyfunc.load_model(str(saved / "classifier")).predict(rows)
    assert table["spam_probability"].tolist() == pytest.approx(expected.tolist())
    assert table["label"].tolist() == ["spam" if probability >= 0.5 else "ham" for probability in expected]


def test_an_assistant_answers_with_and_without_an_input(folders, saved):
    served = mlflow.pyfunc.load_model(str(saved / "assistant"))
    model, encoding = load_model(folders / "assistant")
    with_input = served.predict(pd.DataFrame({"instruction": ["sit"], "input": ["on the mat"]}))
    assert with_input["output"].tolist() == [answer(model, encoding, "sit", "on the mat")]
    assert served.predict(pd.DataFrame({"instruction": ["sit"]}))["output"].tolist() == [answer(model, encoding, "sit")]


def test_a_missing_column_is_refused_by_the_signature(saved):
    with pytest.raises(mlflow.MlflowException, match="body"):
        mlflow.pyfunc.load_model(str(saved / "classifier")).predict(pd.DataFrame({"subject": ["the cat"]}))


def test_a_continuation_passes_over_rows_of_a_padded_embedding_that_are_no_token(folders, tmp_path):
    _, encoding = load_model(folders / "foundation")
    served, size = ServedModel(), encoding.n_vocab
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(context_length=64, n_layer=1, n_head=2, n_embd=16, vocabulary_size=size + 20, tied=False))
    with torch.no_grad():
        gpt.output.weight[:size] = 0
    save_model(tmp_path, gpt, encoding, "foundation")
    served.load_context(PythonModelContext({"model": str(tmp_path)}, {}))
    params = {"temperature": 0.0, "max_new_tokens": 4}
    table = served.predict(None, pd.DataFrame({"prompt": ["the cat", "a dog"]}), params)
    assert table["text"].tolist() == ["", ""]


def test_an_unknown_kind_is_named(folders, tmp_path):
    served = ServedModel()
    served.kind = "oracle"
    with pytest.raises(ValueError, match="kind 'oracle' is not one of"):
        served.predict(None, pd.DataFrame())


def test_a_model_loads_and_predicts_away_from_the_project_with_pickle_refused(saved, tmp_path):
    model = saved / "classifier"
    command = [sys.executable, "-c", ELSEWHERE, str(model), json.dumps(EXAMPLES["classifier"])]
    done = subprocess.run(command, cwd=tmp_path, env=without_the_project(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, table = json.loads(done.stdout)
    assert Path(code).is_relative_to(model)
    assert table["label"][0] in ("ham", "spam")
    assert not list(saved.rglob("*.pkl"))


def test_mlflow_serves_a_model_away_from_the_project(saved, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", str(saved / "foundation"), "-h", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "--env-manager", "local"],
        cwd=tmp_path,
        env=without_the_project(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        body = {"dataframe_records": [{"prompt": "the cat"}], "params": {"max_new_tokens": 5, "temperature": 0.0}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        (row,) = json.loads(post_when_up(request))["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
    params = body["params"]
    assert (
        row
        == mlflow.pyfunc.load_model(str(saved / "foundation"))
        .predict(pd.DataFrame({"prompt": ["the cat"]}), params=params)
        .to_dict("records")[0]
    )


def post_when_up(request: urllib.request.Request) -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read()
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
