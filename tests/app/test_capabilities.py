"""What the app offers follows from the capabilities that an objective declares, whatever a model is called."""

import json
import shutil

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.api.server import create_app
from app.page.shared import version_choices
from app.settings import Settings
from cli.main import cli
from llm.objectives import CHAT, CLASSIFY, COMPLETE
from tests.app.conftest import register, tracked, wait_until, write_model

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def helper(ready_store, tmp_path_factory):
    """A registry with one application of somebody's own: a `helper` whose objective is `assistant`."""
    folder = tmp_path_factory.mktemp("helper")
    shutil.copy(ready_store, folder / "mlflow.db")
    with tracked(folder):
        register(write_model(folder / "1/helper", "assistant"), "helper", "champion")
        yield folder


def test_assistant_under_another_name_chats_on_server_page_and_command_line(helper, caplog):
    with tracked(helper), TestClient(create_app(Settings(rows=1, poll_seconds=0.1)), "http://localhost") as client:

        def is_loaded() -> bool:
            return client.get("/readyz").json()["versions"] == {"helper": "helper/1, champion"}

        wait_until(is_loaded, 120)
        for model in ({}, {"model": "helper"}):
            answer = client.post("/v1/chat/completions", json=HELLO | model)
            assert answer.json()["model"] == "threestage-helper/1"
        assert client.post("/v1/completions", json={"prompt": "hello"}).json()["model"] == "threestage-helper/1"
        refused = client.post("/classify", json={"emails": [{"body": "hello"}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert client.get("/readyz").json()["guard"] is None
        assert caplog.messages.count("chats are answered without a guard: no guard is registered") == 1
        versions = client.app.state.versions
        offered = {capability: version_choices(versions, capability) for capability in (CHAT, CLASSIFY, COMPLETE)}
        helpers = [("helper/1, in use", "helper/1")], ["helper/1"]
        assert offered == {CHAT: helpers, CLASSIFY: ([], [None]), COMPLETE: helpers}
    with tracked(helper):
        result = CliRunner().invoke(cli, ["chat", "hello", "--max-tokens", "3", "--json"])
    assert json.loads(result.stdout)["model"] == "threestage-helper/1", result.output
