"""Many chats at once: `python -m benchmarks.serve_load --peer .peers-llama/bin/python`, after `make run`.

The same published weights behind our server and behind llama.cpp's (PyPI xllamacpp, from the GGUF file that they came
in), one after the other in one run. First one client alone, then `--clients` of them, each of which asks its next
question as soon as it has the answer to the last. Counted are tokens as the servers' `usage` tells them, the time from
a request to its first text, errors, refusals (429), and the server's memory. Ours has its alias moved to an equal
version in the middle of the load, and both get SIGTERM with streams running at its end. llama.cpp multiplies the file's
4-bit weights, ours bfloat16 made of them.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import report
from benchmarks.contenders import ROOT
from llm.errors import UserError
from tasks.data.published import PUBLISHED, STATE
from tasks.stages.server import free_port

MODEL = "smollm2-135m"
QUESTIONS = (
    "What is the capital of France?",
    "Write a short mail that thanks a colleague for her help.",
    "Explain in two sentences why the sky is blue.",
    "Name three fruits and say what colour they are.",
    "How do I boil an egg?",
    "Write a sentence with the word river.",
    "What is the opposite of early?",
    "Tell me a short story about a cat and a moon.",
)
STARTS_WITHIN, ENDS_WITHIN = 600, 60  # seconds that a server may take
PEER = """
import signal, sys, threading
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.n_ctx, params.cont_batching = 2048 * params.n_parallel, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
server = xllamacpp.Server(params)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
"""


@dataclass
class Load:
    """What clients saw."""

    tokens: int = 0
    answers: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    broken: int = 0
    """Streams without their [DONE]."""
    first: list[float] = field(default_factory=list)
    """Seconds to the first text."""
    seconds: float = 0.0


async def ask(client: httpx.AsyncClient, number: int, new: int, load: Load) -> None:
    """One streamed answer."""
    body = {
        "model": "assistant",
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "max_tokens": new,
        "temperature": 0.8,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, done, said = time.perf_counter(), False, False
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code == 429:
                load.refused += 1
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
                return
            if answer.status_code != 200:
                load.errors.append(f"{answer.status_code} {(await answer.aread()).decode()[:200]}")
                return
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        load.errors.append(str(event["error"]))
                    if not said and any(each["delta"].get("content") for each in event.get("choices", ())):
                        said = True
                        load.first.append(time.perf_counter() - began)
                    if usage := event.get("usage"):
                        load.tokens += usage["completion_tokens"]
    except httpx.HTTPError as error:
        load.errors.append(f"{type(error).__name__}: {error}")
        return
    load.answers += done
    load.broken += not done


async def clients(address: str, number: int, seconds: float, new: int) -> Load:
    """So many clients for so long; those that have begun then come to their end."""
    load, numbers = Load(), count()
    began = time.perf_counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

        async def one() -> None:
            while time.perf_counter() - began < seconds:
                await ask(client, next(numbers), new, load)

        await asyncio.gather(*(one() for _ in range(number)))
    load.seconds = time.perf_counter() - began
    return load


@dataclass
class Server:
    """A server that runs."""

    address: str
    process: subprocess.Popen

    @property
    def memory(self) -> int:
        """Bytes that it and its children hold."""
        process = psutil.Process(self.process.pid)
        return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


@contextmanager
def started(command: Callable[[int], list[str]], ready: str, **environment: str) -> Iterator[Server]:
    """A server's process on a free port, once `ready` answers 200."""
    with free_port() as port, tempfile.TemporaryFile() as log:
        address = f"http://127.0.0.1:{port}"
        process = subprocess.Popen(command(port), stdout=log, stderr=log, env=os.environ | environment)
        try:
            deadline = time.monotonic() + STARTS_WITHIN
            while not _answers(address + ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise UserError(f"the server did not start: {log.read().decode()[-2000:]}")
                time.sleep(0.2)
            yield Server(address, process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


async def measure(
    server: Server, options: argparse.Namespace, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> dict[str, Any]:
    """One client, then many, then SIGTERM while they stream."""
    await clients(server.address, 1, 2, options.new)  # warms up
    alone = await clients(server.address, 1, options.seconds / 4, options.new)
    await clients(server.address, options.clients, 2, options.new)
    before = server.memory
    other = asyncio.create_task(meanwhile()) if meanwhile else None
    many = await clients(server.address, options.clients, options.seconds, options.new)
    if other:
        await other
    after = server.memory
    ending = asyncio.create_task(clients(server.address, 4, 1, options.new))
    await asyncio.sleep(0.5)
    began = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    end = await ending
    code = await asyncio.to_thread(server.process.wait, ENDS_WITHIN)
    rates = {"one": alone.tokens / alone.seconds, "many": many.tokens / many.seconds}
    first = sorted(many.first)
    return {
        "tokens_per_second": rates,
        "many_to_one": rates["many"] / rates["one"],
        "answers": many.answers,
        "refused": many.refused,
        "errors": len(many.errors) + len(alone.errors),
        "first_errors": (many.errors + alone.errors)[:3],
        "broken_streams": many.broken + alone.broken,
        "first_token_seconds": {
            "one": statistics.median(alone.first),
            "many_median": statistics.median(first),
            "many_p95": first[int(0.95 * (len(first) - 1))],
        },
        "memory_bytes": {"before": before, "after": after},
        "sigterm": {
            "exit_code": code,
            "seconds": time.perf_counter() - began,
            "broken_streams": end.broken,
            "answers": end.answers,
        },
    }


def register(published: Path, folder: Path, versions: int) -> None:
    """A registry in which the published weights are versions of the assistant, the first its champion."""
    import mlflow
    from mlflow import MlflowClient

    from tasks.registry.tracking import configure_tracking

    assistant = folder / "assistant"
    shutil.copytree(published, assistant)
    config = json.loads((assistant / "config.json").read_text())
    (assistant / "config.json").write_text(json.dumps(config | {"objective": "assistant"}))
    configure_tracking()
    client = MlflowClient()
    client.create_registered_model("threestage-assistant")
    for _ in range(versions):
        with mlflow.start_run() as run:
            logged = mlflow.pyfunc.log_model(
                name="assistant",
                python_model=str(ROOT / "tasks/served.py"),
                artifacts={"model": str(assistant)},
                pip_requirements=[],
            )
        client.create_model_version("threestage-assistant", logged.model_uri, run.info.run_id, model_id=logged.model_id)
    client.set_registered_model_alias("threestage-assistant", "champion", "1")


def published_file() -> Path:
    """The GGUF file of the published weights, as `load_published` keeps it. Raises UserError where it is not here."""
    files = list((ROOT / STATE / PUBLISHED[MODEL].sha256[:16]).rglob("*.gguf"))
    if not files:
        raise UserError(f"the file of {MODEL} is not here: run `dvc repro --force load_published`")
    return files[0]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32, help="clients at once")
    parser.add_argument("--seconds", type=float, default=60, help="time of the load")
    parser.add_argument("--new", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--peer", type=Path, help="a Python that has xllamacpp; without it ours is measured alone")
    parser.add_argument("--model", type=Path, default=Path("models/published"), help="the published weights' folder")
    parser.add_argument("--out", type=Path, default=report.results("serve_load"), help="where the numbers go")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as temporary:
            store = f"sqlite:///{temporary}/mlflow.db"
            os.environ["MLFLOW_TRACKING_URI"] = store
            register(options.model, Path(temporary), 2)

            async def move_the_alias() -> None:
                from mlflow import MlflowClient

                await asyncio.sleep(options.seconds / 2)
                move = MlflowClient(store).set_registered_model_alias
                await asyncio.to_thread(move, "threestage-assistant", "champion", "2")

            def ours(port: int) -> list[str]:
                serve = [
                    "-m",
                    "cli",
                    "serve",
                    "--port",
                    str(port),
                    "--rows",
                    str(options.clients),
                    "--no-page",
                ]
                return [sys.executable, *serve, "--client-share=1", "--log-level", "warning"]

            with started(ours, "/readyz") as server:
                found["ours"] = asyncio.run(measure(server, options, move_the_alias))
        if options.peer:
            file = published_file()

            def peer(port: int) -> list[str]:
                threads = str(psutil.cpu_count(logical=False) or os.cpu_count())
                return [str(options.peer), "-c", PEER, str(file), str(port), str(options.clients), threads]

            with started(peer, "/health") as server:
                found["llama.cpp"] = asyncio.run(measure(server, options))
    except UserError as error:
        parser.error(str(error))
    rows = [
        (
            name,
            each["tokens_per_second"]["one"],
            each["tokens_per_second"]["many"],
            each["many_to_one"],
            each["first_token_seconds"]["many_median"],
            each["first_token_seconds"]["many_p95"],
            each["refused"],
            each["errors"] + each["broken_streams"],
            each["memory_bytes"]["before"] / 1e9,
            each["memory_bytes"]["after"] / 1e9,
        )
        for name, each in found.items()
    ]
    columns = ("", "one", f"{options.clients}, tokens/s", "ratio", "first, s", "p95", "429", "errors", "GB", "after")
    report.show(f"{options.clients} chats for {options.seconds:g} s", columns, rows)
    settings = {name: getattr(options, name) for name in ("clients", "seconds", "new")}
    report.write(options.out, {"machine": report.machine(["fastapi", "uvicorn"]), "settings": settings, "found": found})


if __name__ == "__main__":
    main()
