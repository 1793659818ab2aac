"""What a web page of another site has a browser send to servers on this machine."""

import json

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

SITE = "https://evil.example"
NAMES = ("evil.example", "evil.example:4200", "10.evil.example", "127.0.0.1.evil.example")
"""Names that may lead to this machine's address; the third begins as a private address does."""
STEP = {"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/was-here"}}


def check_prefect_refuses_pages(site: str) -> None:
    """Assert that a Prefect server at `http://127.0.0.1:PORT` lets no other site's page do or read anything."""
    with SyncPrefectClient(f"{site}/api") as client:
        flow = client.create_flow_from_name("work")
        deployment = {"name": "stolen", "flow_id": str(flow), "pull_steps": [STEP]}
        refused = [({"Origin": origin}, 403) for origin in (SITE, "null", f"{site}0")]
        refused += [({"Host": name}, 400) for name in NAMES]
        refused.append(({"Host": NAMES[0], "Origin": f"http://{NAMES[0]}"}, 400))  # to the browser it is one site
        for headers, status in refused:
            address = f"{site}/api/deployments/"
            answers = [
                httpx.post(address, json=deployment, headers=headers),
                httpx.post(address, content=json.dumps(deployment), headers=headers),  # no browser asks before it
                httpx.options(address, headers=headers | {"Access-Control-Request-Method": "POST"}),
                httpx.get(f"{site}/api/health", headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [status] * 4, headers
            assert not any("access-control-allow-origin" in answer.headers for answer in answers)
        assert "stolen" not in [deployment.name for deployment in client.read_deployments()]
    address = f"{site.replace('http', 'ws')}/api/events/in"
    for headers in ({"origin": SITE}, {"additional_headers": {"Host": NAMES[0]}}):
        with pytest.raises(InvalidStatus, match=r"HTTP 40[03]"):
            connect(address, **headers)
    with connect(address, subprotocols=["prefect"]):
        pass
    assert httpx.get(f"{site}/api/health", headers={"Origin": site}).json() is True


def check_mlflow_refuses_pages(site: str) -> None:
    """The same for MLflow's server."""
    api = f"{site}/api/2.0/mlflow"
    search = f"{api}/experiments/search?max_results=9"
    hosts = [{"Host": name} for name in NAMES]
    for headers in ({"Origin": SITE}, {"Origin": "null"}, *hosts):
        answer = httpx.post(f"{api}/experiments/create", json={"name": "stolen"}, headers=headers)
        assert answer.status_code == 403, headers
        answer = httpx.get(search, headers=headers)
        assert "Host" not in headers or answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    experiments = httpx.get(search, headers={"Origin": site}).json()["experiments"]
    assert [experiment["name"] for experiment in experiments] == ["Default"]
