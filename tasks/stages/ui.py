"""The pages that `make ui` opens: their addresses, and when they are ready.

`python -m tasks.stages.ui 5000 4200` waits until MLflow and Prefect answer on these ports, and says so.
"""

import json
import sys
import time
from typing import Literal

import httpx

from llm.files import write_atomic
from tasks.stages.lock import STATE

ADDRESSES = STATE / "ui.json"
"""The addresses at which the pages were last opened, for the links that other processes make."""
PORTS = {"mlflow": 5000, "prefect": 4200}
HEALTH = {"mlflow": "/health", "prefect": "/api/health"}
EVERY = 0.2  # seconds
MODEL_TRAINING = "?workflowType=machine_learning"  # by default MLflow shows its tools for chats


def address(server: Literal["mlflow", "prefect"]) -> str:
    """The address at which `make ui` last opened a server's pages, or its default."""
    opened: dict[str, str] = json.loads(ADDRESSES.read_text()) if ADDRESSES.exists() else {}
    return opened.get(server, f"http://127.0.0.1:{PORTS[server]}")


def main(mlflow: str, prefect: str) -> None:
    """Write down the addresses, wait for both servers, and say that they are ready."""
    addresses = {"mlflow": f"http://127.0.0.1:{mlflow}", "prefect": f"http://127.0.0.1:{prefect}"}
    write_atomic(ADDRESSES, json.dumps(addresses))
    for server, server_address in addresses.items():
        while not _answers(server_address + HEALTH[server]):
            time.sleep(EVERY)
    registry = f"{addresses['mlflow']}/#/models{MODEL_TRAINING}"
    sys.stdout.write(f"Ready: MLflow at {registry}, Prefect at {addresses['prefect']}; Ctrl-C ends both\n")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
