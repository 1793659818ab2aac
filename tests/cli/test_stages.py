"""The commands by which DVC starts its stages."""

import subprocess
import sys

import pytest
from projects import ROOT, change_params, environment
from typer.testing import CliRunner

from cli.main import cli

FLOWS_OF = """
import sys
from cli.main import cli
try:
    cli(sys.argv[1:])
finally:
    print(*sorted(name for name in sys.modules if name.startswith("flows.")))
"""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["fetch", "corpsu"], "'corpsu' is not one of corpus, emails, instructions, requests"),
        (["preprocess", "x"], "'x' is not one of corpus, emails, instructions, requests"),
        (["replay", "assistent"], "'assistent' is not one of assistant"),
        (["finetune", "foundation"], "'foundation' is not one of classifier, assistant, guard"),
        (["evaluate", "gard"], "'gard' is not one of foundation, classifier, assistant, guard"),
    ],
)
def test_unknown_name_is_refused_with_the_names(monkeypatch, words, reason):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"{reason}\n")


@pytest.mark.slow
def test_stage_imports_no_other_flow(project_copy):
    change_params(project_copy, {"datasets": {"emails": {"sources": []}}})
    result = subprocess.run(
        [sys.executable, "-c", FLOWS_OF, "fetch", "emails"],
        cwd=project_copy,
        env=environment(PYTHONPATH="."),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: params.yaml: datasets.emails.sources: ")
    assert result.stdout == "flows.fetch\n"
