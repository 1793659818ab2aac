import json
import shutil

import pytest
from transformers import AutoTokenizer

from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import load_model


def test_export_finds_a_version_by_its_name_and_writes_the_folder_of_transformers(threestage, tmp_path):
    done = threestage("export", "assistant@challenger", "out", "--to", "hf")
    assert done.exit_code == 0, done.output
    names = ["README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]
    names += ["tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert done.output.startswith(f"out: {', '.join(names)} (")
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlanguage: en\nlibrary_name: transformers\nlicense: other\n")
    assert "\n# assistant-2\n" in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_export_of_a_folder_needs_no_registry(threestage, tmp_path, registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    folder = next((registry / "foundation-1").iterdir())
    assert threestage("export", str(folder), "out", "--to", "hf").exit_code == 0
    ours, _ = load_model(folder)
    again, _ = load_pretrained(tmp_path / "out")
    assert all(weight.equal(again.state_dict()[name]) for name, weight in ours.state_dict().items())


def test_export_of_published_weights_has_their_licence(threestage, tmp_path, registry):
    shutil.copytree(next((registry / "foundation-1").iterdir()), tmp_path / "models/published")
    made = {
        "params": {"params.yaml": {"published": "smollm2-135m"}},
        "outs": [{"path": "models/published", "md5": "1.dir"}],
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"load_published": {"cmd": "…"} | made}}))
    assert threestage("export", "models/published", "out", "--to", "hf").exit_code == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "\nlicense: apache-2.0\n" in card
    assert "SmolLM2-135M" in card


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["classifier", "out", "--to", "gguf"], 'mlflow.pyfunc.load_model("models:/threestage-classifier/1")'),
        (["assistant", "full", "--to", "hf"], "full is not empty: name a new folder"),
        (
            ["assistant/9", "out", "--to", "hf"],
            "model 'assistant' has no 9; its versions are: 2 challenger, 1 champion",
        ),
        (["nothing", "out", "--to", "hf"], "model 'nothing' is not registered; those are: assistant, classifier"),
        (["assistant", "out", "--to", "hf", "--precision", "8bit"], "only for --to gguf"),
        (["assistant", "out", "--to", "gguf"], "--to hf has more"),
    ],
)
def test_export_refuses_in_one_line_and_writes_nothing(threestage, tmp_path, arguments, reason):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    done = threestage("export", *arguments)
    assert done.exit_code in (1, 2)
    assert reason in done.output
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
