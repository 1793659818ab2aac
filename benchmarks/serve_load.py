"""Many chats at once: `python -m benchmarks.serve_load --peer .peers-llama/bin/python`, after `make run`.

The same published weights stand behind our server and behind llama.cpp's (PyPI xllamacpp, from the GGUF file that they
came in), one after the other in one run. First one client alone, then `--clients` of them, each of which asks its next
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
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import psutil

from benchmarks.harness import FAILED, OURS, ROOT, Figures, Table, finish, make_parser, positive
from llm.errors import UserError
from tasks.data.published import PUBLISHED, STATE
from tasks.stages.prefect import free_port

MODEL = "smollm2-135m"
SPEED = "tokens a second"
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
    first_text: list[float] = field(default_factory=list)
    """Seconds from the response's headers to the first text."""
    seconds: float = 0.0

    def figures(self) -> Figures:
        """What the clients saw, as the columns of a table."""
        if not self.first_text:
            return {FAILED: "; ".join(self.errors[:3]) or "no client had an answer"}
        seconds = sorted(self.first_text)
        return {
            SPEED: self.tokens / self.seconds,
            "first text, s": statistics.median(seconds),
            "p95, s": seconds[int(0.95 * (len(seconds) - 1))],
            "answers": self.answers,
            "429": self.refused,
            "errors": len(self.errors),
            "broken streams": self.broken,
        }


async def ask(client: httpx.AsyncClient, number: int, new: int, *, load: Load) -> None:
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
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code == 429:
                load.refused += 1
                await asyncio.sleep(float(response.headers.get("retry-after", 1)))
            elif response.status_code != 200:
                load.errors.append(f"{response.status_code} {(await response.aread()).decode()[:200]}")
            else:
                await read_stream(response, load)
    except httpx.HTTPError as error:
        load.errors.append(f"{type(error).__name__}: {error}")


async def read_stream(response: httpx.Response, load: Load) -> None:
    """Note tokens, errors, the time to the first text, and whether the stream comes to its end."""
    start = time.perf_counter()
    has_text = False
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            load.answers += 1
            return
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            load.errors.append(str(event["error"]))
        if not has_text and any(choice["delta"].get("content") for choice in event.get("choices", ())):
            has_text = True
            load.first_text.append(time.perf_counter() - start)
        if usage := event.get("usage"):
            load.tokens += usage["completion_tokens"]
    load.broken += 1


async def run_clients(address: str, *, number: int, seconds: float, new: int) -> Load:
    """So many clients for so long; those that have begun then come to their end."""
    load = Load()
    numbers = count()
    start = time.perf_counter()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

        async def run_client() -> None:
            while time.perf_counter() - start < seconds:
                await ask(client, next(numbers), new, load=load)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(run_client())
    load.seconds = time.perf_counter() - start
    return load


@dataclass
class Server:
    """A server that runs."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def memory(self) -> int:
        """Bytes that it and its children hold."""
        process = psutil.Process(self.process.pid)
        return sum(running.memory_info().rss for running in [process, *process.children(recursive=True)])


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
) -> dict[str, Figures]:
    """Figures by number of clients: one client, then many, then SIGTERM while they stream."""
    await run_clients(server.address, number=1, seconds=2, new=options.new)  # warms up
    one = await run_clients(server.address, number=1, seconds=options.seconds / 4, new=options.new)
    await run_clients(server.address, number=options.clients, seconds=2, new=options.new)
    before = server.memory
    task = asyncio.create_task(meanwhile()) if meanwhile else None
    many = await run_clients(server.address, number=options.clients, seconds=options.seconds, new=options.new)
    if task:
        await task
    memory = {"GB before": before / 1e9, "GB after": server.memory / 1e9}
    return {"1": one.figures(), str(options.clients): many.figures() | memory | await stop(server, options.new)}


async def stop(server: Server, new: int) -> Figures:
    """Send SIGTERM while four clients stream; what becomes of them."""
    streaming = asyncio.create_task(run_clients(server.address, number=4, seconds=1, new=new))
    await asyncio.sleep(0.5)
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    load = await streaming
    code = await asyncio.to_thread(server.process.wait, ENDS_WITHIN)
    seconds = time.perf_counter() - start
    return {"SIGTERM: exit code": code, "seconds": seconds, "broken streams at the end": load.broken}


def register(published: Path, folder: Path, versions: int) -> None:
    """A registry in which the published weights are versions of the assistant, the first its champion."""
    import mlflow
    from mlflow import MlflowClient

    from tasks.registry.store import configure_tracking

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
    files = list((ROOT / STATE / PUBLISHED[MODEL].package.sha256[:16]).rglob("*.gguf"))
    if not files:
        raise UserError(f"the file of {MODEL} is not here: run `dvc repro --force load_published`")
    return files[0]


def our_command(port: int, clients: int) -> list[str]:
    """The command that starts our server."""
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--rows", str(clients), "--no-page"]
    return [*command, "--log-level", "warning"]


def peer_command(python: Path, file: Path, port: int, *, clients: int) -> list[str]:
    """The command that starts llama.cpp's server."""
    threads = psutil.cpu_count(logical=False) or os.cpu_count()
    return [str(python), "-c", PEER, str(file), *map(str, (port, clients, threads))]


def measure_ours(options: argparse.Namespace) -> dict[str, Figures]:
    """Our server; the alias of its version moves to an equal one in the middle of the load."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        os.environ["MLFLOW_TRACKING_URI"] = store
        register(options.model, Path(folder), 2)

        async def move_alias() -> None:
            await asyncio.sleep(options.seconds / 2)
            move = partial(MlflowClient(store).set_registered_model_alias, "threestage-assistant", "champion", "2")
            await asyncio.to_thread(move)

        with started(lambda port: our_command(port, options.clients), "/readyz") as server:
            return asyncio.run(measure(server, options, move_alias))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = make_parser("serve_load", __doc__)
    parser.add_argument("--clients", type=positive, default=32, help="clients at once")
    parser.add_argument("--seconds", type=float, default=60, help="time of the load")
    parser.add_argument("--new", type=positive, default=64, help="most tokens of an answer")
    parser.add_argument("--peer", type=Path, help="a Python that has xllamacpp; without it ours is measured alone")
    parser.add_argument("--model", type=Path, default=Path("models/published"), help="the published weights' folder")
    options = parser.parse_args(arguments)
    measured: dict[str, dict[str, Figures]] = {}
    try:
        measured[OURS] = measure_ours(options)
        if options.peer:
            file = published_file()

            def command(port: int) -> list[str]:
                return peer_command(options.peer, file, port, clients=options.clients)

            with started(command, "/health") as server:
                measured["llama.cpp"] = asyncio.run(measure(server, options))
    except UserError as error:
        parser.error(str(error))
    tables = []
    for clients in ("1", str(options.clients)):
        figures = {name: by_clients[clients] for name, by_clients in measured.items()}
        tables.append(Table(f"Chats at once: {clients}", SPEED, figures))
    finish(options, tables, packages=["fastapi", "uvicorn"])


if __name__ == "__main__":
    main()
