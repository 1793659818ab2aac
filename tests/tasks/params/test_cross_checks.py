"""Wrong names between the blocks of params.yaml are all reported at once, before anything loads."""

import subprocess
import sys
from pathlib import Path

import pytest
from params_files import write_params
from projects import ROOT

from tasks.params.load import check_outline

WEIGHTS = "gpt2-124m, gpt2-355m, gpt2-774m, gpt2-1558m, smollm2-135m"
MODELS = "foundation, classifier, assistant, guard, published"


def test_outline_names_all_mistakes_between_blocks(tmp_path: Path) -> None:
    changes = {
        "published": "smollm3",
        "applications.assistant.base": "publishd",
        "applications.assistant.dataset": "instruction",
        "replay.assistant.prompts": "data/none.jsonl",
    }
    path = write_params(tmp_path, changes)
    with pytest.raises(ValueError) as caught:
        check_outline(path)
    assert str(caught.value).splitlines() == [
        f"{path}: published: 'smollm3' is not one of {WEIGHTS}, and no folder or .gguf file here",
        f"{path}: replay.assistant.prompts: there is no data/none.jsonl",
        f"{path}: applications.assistant.dataset: 'instruction' is not one of corpus, emails, instructions, requests",
        f"{path}: applications.assistant.base: 'publishd' is not one of {MODELS}",
    ]


def test_outline_imports_no_library_of_models_or_engines() -> None:
    code = "import sys; from tasks.params.load import check_outline; check_outline(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "prefect", "mlflow", "dvc"} & {*done.stdout.split()}
