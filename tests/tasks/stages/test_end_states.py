from collections.abc import Iterator
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed, Pending, Running
from real_servers import Runs

from llm.errors import UserError
from tasks.stages.end_states import UNREPORTED, end_lost, no_child_open
from tasks.stages.prefect_worker import alone

pytestmark = pytest.mark.slow

GONE = Crashed(message="Its process is gone.")


@flow(flow_run_name="root")
def root() -> None:
    pass


@flow
def retrain() -> None:
    pass


@task
def reproduce() -> None:
    pass


@flow
def stage() -> None:
    pass


@pytest.fixture
def client(prefect_api) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def test_killed_run_is_crashed_and_a_completed_one_stays_completed(client, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    last = tmp_path / ".threestage/retrain/flow_run"
    ended = root(return_state=True).state_details.flow_run_id
    lost = client.create_flow_run(root, state=Pending()).id
    for before in (lost, ended, UUID(int=7)):  # the last one is of another server
        last.parent.mkdir(parents=True, exist_ok=True)
        last.write_text(str(before))
        with alone("retrain", UUID(int=1), seconds=60):
            assert last.read_text() == str(UUID(int=1))
    states = [client.read_flow_run(run).state for run in (lost, ended)]
    assert [state.name for state in states] == ["Crashed", "Completed"]
    assert states[0].message == "Its process is gone; the next run goes on from the last checkpoint."


def night(client: SyncPrefectClient) -> tuple[FlowRun, FlowRun]:
    """A run that has ended, and a stage below it that never reported its end."""
    parent = client.create_flow_run(retrain, name="night", state=Completed())
    middle = client.create_task_run(reproduce, parent.id, "reproduce-0", name="reproduce", state=Completed())
    child = client.create_flow_run(stage, name="stage", parent_task_run_id=middle.id, state=Running())
    return client.read_flow_run(parent.id), child


def test_end_lost_ends_the_children_of_a_run_that_has_ended(client, prefect_api):
    parent, child = night(client)
    end_lost(parent.id, GONE)
    assert Runs(prefect_api).tree(parent.id) == {"night": "Completed", "reproduce": "Completed", "stage": "Completed"}
    assert client.read_flow_run(child.id).state.message == UNREPORTED

    parent, child = night(client)
    for run, set_state in (
        (child.parent_task_run_id, client.set_task_run_state),
        (parent.id, client.set_flow_run_state),
    ):
        set_state(run, Crashed(message="killed"), force=True)
    end_lost(parent.id, GONE)
    assert Runs(prefect_api).tree(parent.id) == dict.fromkeys(("night", "reproduce", "stage"), "Crashed")
    assert client.read_flow_run(child.id).state.message == GONE.message


def test_no_child_open_ends_a_killed_stage_and_leaves_one_that_ended(client, prefect_api):
    _, child = night(client)

    def fail() -> str:
        with pytest.raises(UserError), no_child_open(child.parent_task_run_id):
            raise UserError("dvc was killed by signal 9")
        state = client.read_flow_run(child.id).state
        return f"{state.name}: {state.message}"

    assert fail() == "Crashed: dvc was killed by signal 9"
    client.set_flow_run_state(child.id, Completed(message="All is done."), force=True)
    assert fail() == "Completed: All is done."
