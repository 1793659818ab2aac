"""A user's mistake in data is one clear error that names the place, with exit code 1 and no output of the stage."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import change_params

MAILS = [{"label": "ham", "subject": f"Number {i}", "body": f"Words {i} of a message {i * 7}"} for i in range(40)]


@pytest.mark.parametrize(
    ("dataset", "file", "text", "error"),
    [
        (
            "corpus",
            "mine.jsonl",
            '{"text": "good"}\n{"text": "br\n',
            "data/raw/corpus/mine.jsonl, row 2: not readable",
        ),
        (
            "emails",
            "mine.csv",
            "label,subject,body\nham,Hi,Lunch?\nsmap,Win,Click\n",
            "data/raw/emails/mine.csv, row 3: label 'smap' is not one of ham, spam",
        ),
        ("emails", "mine.jsonl", "\n".join(map(json.dumps, MAILS)), "emails: 2 checks failed"),
    ],
)
@pytest.mark.usefixtures("prefect_api", "mlflow_store")
def test_mistake_in_data_is_an_error_on_one_line_and_leaves_nothing_behind(
    project_copy: Path,
    command_line: Callable[..., tuple[int, str, str]],
    dataset: str,
    file: str,
    text: str,
    error: str,
) -> None:
    change_params(project_copy, {"datasets": {"emails": {"preprocess": {"train_only": []}}}})
    path = project_copy / "data/raw" / dataset / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    code, _, output = command_line(project_copy, "flows.preprocess", dataset)
    assert code == 1
    (line,) = re.findall("error: .*", output)  # it may stand behind a progress bar
    assert line.startswith(f"error: {error}")
    assert "Traceback" not in output
    log = (project_copy / f".threestage/stages/preprocess@{dataset}/log").read_text()
    assert "Traceback" in log
    assert f"\n{line}" in log
    assert "; ended after " in log.splitlines()[-1]
    for folder in ("data/processed", "reports/quality"):
        assert not list((project_copy / folder).glob("*"))
