"""The last chapter of the book: all that it does is done here, in a small project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, environment

CHAPTER = ROOT / "docs/book/9-pipeline.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SHORTENED = {
    "data/raw/corpus/datasets-moby-dick/package/data/data.txt": "novel.txt",
    "steps = 1000": "steps = 5",
    "steps: 1000": "steps: 10",
    "steps: 500": "steps: 5",
    "_every: 250": "_every: 5",
}
"""What takes long, or is not in the small project, and what is here in its place."""
STAY = ("make ui", "prefect work-pool create local --type process")
"""Blocks that begin so start servers, or talk to one: other tests do (test_ui_servers.py, flows/test_retrain.py)."""
pytestmark = pytest.mark.slow


@pytest.fixture
def readers_folder(project: Path, tmp_path: Path) -> Path:
    """A copy of the small project, with some speeches as the novel."""
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    speeches = sorted(folder.glob("data/raw/corpus/**/*_washington_*.txt"))
    (folder / "novel.txt").write_text("\n".join(speech.read_text() for speech in speeches))
    return folder


def test_all_that_the_chapter_does_ends_well(readers_folder: Path, prefect_api: str) -> None:
    text = CHAPTER.read_text()
    for line, shorter in SHORTENED.items():
        assert line in text
        text = text.replace(line, shorter)
    python = "".join(code for language, code in BLOCK.findall(text) if language == "python")
    shell = [code for language, code in BLOCK.findall(text) if language == "sh"]
    assert len([code for code in shell if code.startswith(STAY)]) == len(STAY)
    variables = environment(PREFECT_API_URL=prefect_api)
    said = []
    for code in (f"{sys.executable} - <<'PYTHON'\n{python}\nPYTHON\n", *shell):
        if not code.startswith(STAY):
            done = subprocess.run(
                ["bash", "-ec", code], cwd=readers_folder, env=variables, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
            said.append(done.stdout + done.stderr)
    assert "largest difference of logits: 0.0000" in said[0]
    assert "modified:" in said[2]
    assert "approved despite" in said[5]
