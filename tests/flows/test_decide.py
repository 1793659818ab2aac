"""A person decides on a compared version: by the deployment `decide`, or on the command line."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from decisions import ME, NAME, aliases, compare, promote, register
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from projects import ROOT

from flows.decide import decide
from llm.errors import UserError
from tasks.stages.prefect import run_flow

pytestmark = pytest.mark.slow

CommandLine = Callable[..., tuple[int, str, str]]

APPROVE = {"model": "classifier", "decision": "approve", **ME}
NO_MODEL = "error: there is no model 'nobody'; those are: foundation, classifier, assistant, guard\n"
NOT_DESPITE_GATES = "version 2 failed f1 at least 1.1: --despite-gates"


@pytest.fixture
def waiting_version(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 1 of the classifier is champion, version 2 failed a gate and waits."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").touch()  # a command knows a project by it
    register("classifier", versions=2)
    promote("1")
    compare("2", "f1 at least 1.1")
    return tmp_path


@pytest.fixture
def threestage(command_line: CommandLine, waiting_version: Path) -> CommandLine:
    """The command line in this process: exit code and both outputs."""
    return partial(command_line, waiting_version)


def newest_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["decide"])))
    return max(runs, key=lambda run: run.created)


def test_deployment_decide_approves_rejects_and_rolls_back_under_a_persons_name(
    waiting_version: Path, prefect_api: str
) -> None:
    with pytest.raises(UserError, match=NOT_DESPITE_GATES):
        run_flow(decide, APPROVE)
    assert newest_run().state.name == "Failed"
    outcome = run_flow(decide, APPROVE | {"despite_gates": True})
    assert outcome.startswith("version 2 approved despite f1 at least 1.1 by reviewer-1, ")
    assert outcome.endswith(f": {ME['reason']}")
    assert aliases() == ("2", "1", None)
    run = newest_run()
    assert (run.name, run.state.name) == ("decide: approve classifier 2", "Completed")
    run_flow(decide, APPROVE | {"decision": "rollback"})
    assert aliases() == ("1", None, None)
    assert newest_run().name == "decide: rollback classifier 2"
    run_flow(decide, APPROVE | {"decision": "reject", "version": "2"})
    assert MlflowClient().get_model_version(NAME, "2").tags["threestage.state"] == "rejected"


@pytest.mark.parametrize("wrong", [{"reason": " "}, {"by": ""}, {"by": "x" * 201}, {"decision": "perhaps"}])
def test_form_of_decide_refuses_a_value_that_does_not_fit(
    waiting_version: Path, prefect_api: str, wrong: dict[str, str]
) -> None:
    with pytest.raises(ParameterTypeError):
        run_flow(decide, APPROVE | wrong)
    assert aliases() == ("1", None, "2")


def test_command_line_approves_and_rolls_back(threestage: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    approve = ("approve", "classifier", "--reason", "it reads well", "--by", "reviewer-1")
    code, _, error = threestage(*approve)
    assert (code, error.count(NOT_DESPITE_GATES)) == (1, 1)
    code, output, _ = threestage(*approve, "--despite-gates")
    assert (code, aliases()) == (0, ("2", "1", None))
    assert output.startswith("classifier: version 2 approved despite f1 at least 1.1 by reviewer-1, ")
    code, _, _ = threestage("rollback", "classifier/1", "--reason", "no")
    assert code == 1, "version 2 is the champion"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reviewer-2")
    code, output, _ = threestage("rollback", "classifier", "--reason", "complaints")
    assert (code, aliases()[0]) == (0, "1")
    assert output.startswith("classifier: rolled back to version 1; version 2 rejected by reviewer-2, ")


def test_command_line_approves_a_version_by_its_number_while_another_is_the_challenger(
    threestage: CommandLine,
) -> None:
    source = MlflowClient().get_model_version(NAME, "1").source
    MlflowClient().create_model_version(NAME, source)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "3")
    code, _, error = threestage("approve", "classifier", "--reason", "x")
    assert (code, error.count("was not compared yet: run `threestage review")) == (1, 1)
    code, _, _ = threestage("approve", "classifier/2", "--reason", "x", "--despite-gates")
    assert (code, aliases()) == (0, ("2", "1", "3"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["review", "nobody"], NO_MODEL),
        (["approve", "nobody", "--reason", "x"], NO_MODEL),
        (["reject", "assistant", "--reason", "x"], "error: assistant: no version waits for a decision; name one as "),
        (["reject", "classifier/7", "--reason", "x"], "error: threestage-classifier has no version 7; there are: 2, 1"),
        (["reject", "classifier", "--reason", " "], "error: a decision needs a rea"),
    ],
)
def test_decision_that_is_not_possible_is_an_error_on_one_line(
    threestage: CommandLine, arguments: list[str], reason: str
) -> None:
    code, _, error = threestage(*arguments)
    assert (code, error.count("\n")) == (1, 1), error
    assert error.startswith(reason)
