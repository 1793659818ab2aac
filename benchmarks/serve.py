"""`python -m benchmarks.serve` tests that one server answers many chats at once and reads many emails a second.

`threestage serve` runs in a process of its own over two champions, the published weights as assistant and the
classifier. One client chats, then 32 at once: each asks its next question as soon as it has the answer to the last,
streamed and of at most 64 tokens. One request brings 1,000 mails of the test split, cut to 3,000 characters each as a
request holds 4 MB. The peer of chats is llama.cpp's server (PyPI `xllamacpp`) with the same weights in the 4 bits of
their file; that of emails is scikit-learn's logistic regression on TF-IDF of words, without a server. Needs `make run`.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import httpx
import pandas as pd
import torch

from benchmarks.generate import published_file
from benchmarks.harness import LESS, MORE, OURS, Figures, Job, Table, compare, make_parser
from tasks.training.setup import split_file

CLIENTS = {"one chat": 1, "32 chats": 32}
CHAT = {"tokens a second": MORE, "seconds to the first text": LESS, "errors": LESS}
EMAILS = "emails a second"
ANSWER, MAILS, LONGEST_MAIL = 64, 1_000, 3_000  # tokens, mails, characters
STARTS_WITHIN = ENDS_WITHIN = 300.0  # seconds
QUESTIONS = (
    "What is the capital of France?",
    "Write a short mail that thanks a colleague for her help.",
    "Explain in two sentences why the sky is blue.",
    "Tell me a short story about a cat and a moon.",
)


async def ask(client: httpx.AsyncClient, number: int) -> tuple[int, float]:
    """The tokens of a streamed answer, and the seconds to its first text. Raises httpx's errors where it breaks off."""
    question = {"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}
    body = {"model": "assistant", "messages": [question], "max_tokens": ANSWER, "temperature": 0.8, "seed": number}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    start = time.perf_counter()
    tokens, first_text = 0, None
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return tokens, first_text or time.perf_counter() - start
            event = json.loads(line.removeprefix("data: ") or "{}")
            texts = [choice["delta"].get("content") for choice in event.get("choices", ())]
            if any(texts) and first_text is None:
                first_text = time.perf_counter() - start
            tokens += (event.get("usage") or {}).get("completion_tokens", 0)
    raise httpx.StreamError("the stream has no [DONE]")


async def chat(address: str, clients: int, seconds: float) -> Figures:
    """So many clients for so long; answers that have begun come to their end. Raises RuntimeError without an answer."""
    answers: list[tuple[int, float]] = []
    errors: list[Exception] = []
    numbers, start = count(), time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=ENDS_WITHIN) as client:

        async def ask_on() -> None:
            while time.perf_counter() - start < seconds:
                try:
                    answers.append(await ask(client, next(numbers)))
                except (httpx.HTTPError, httpx.StreamError) as error:
                    errors.append(error)

        await asyncio.gather(*[ask_on() for _ in range(clients)])
    if not answers:
        raise RuntimeError(f"{clients} clients had no answer: {errors[0]}")
    speed = sum(tokens for tokens, _ in answers) / (time.perf_counter() - start)
    first_text = statistics.median(first_text for _, first_text in answers)
    return dict(zip(CHAT, (speed, first_text, len(errors)), strict=True))


def chats(address: str, seconds: float) -> Figures:
    """The figures of one client and of many, after a warm-up of one second."""
    figures: Figures = {}
    for name, clients in CLIENTS.items():
        for duration in (min(1.0, seconds), seconds):
            measured = asyncio.run(chat(address, clients, duration))
        figures |= {f"{name}, {figure}": value for figure, value in measured.items()}
    return figures


def read_mails(data: str) -> list[dict[str, str]]:
    """MAILS of the test split, repeated if there are fewer."""
    test = pd.read_parquet(split_file(Path(data), "test"))[["subject", "body"]]
    sample = test.sample(MAILS, replace=len(test) < MAILS, random_state=1)
    return sample.apply(lambda column: column.str.slice(0, LONGEST_MAIL)).to_dict("records")


def wait(address: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server is ready. Raises RuntimeError where it has ended, or takes too long."""
    deadline = time.monotonic() + STARTS_WITHIN
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the server is not ready; run `threestage serve` to see why")


@contextmanager
def server(models: dict[str, Path]) -> Iterator[str]:
    """The address of `threestage serve` over these champions, in a registry of its own. Raises as `wait`."""
    import mlflow

    from tasks.registry.store import configure_tracking
    from tasks.registry.versions import registered_name
    from tasks.stages.prefect import free_port

    with tempfile.TemporaryDirectory() as folder, free_port() as port:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        configure_tracking()
        for name, model in models.items():
            with mlflow.start_run():
                files = {"python_model": "tasks/served.py", "artifacts": {"model": str(model)}, "pip_requirements": []}
                mlflow.pyfunc.log_model(name=name, registered_model_name=registered_name(name), **files)
            mlflow.MlflowClient().set_registered_model_alias(registered_name(name), "champion", "1")
        command = [sys.executable, "-m", "tasks.stages.parent_death", sys.executable, "-m", "cli", "serve"]
        process = subprocess.Popen([*command, "--port", str(port), "--no-page"], stdout=subprocess.DEVNULL)
        try:
            wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN)


def ours(*, models: str, data: str, seconds: float) -> Figures:
    """Our server, chats and emails."""
    emails = read_mails(data)
    with tempfile.TemporaryDirectory() as folder:
        assistant = shutil.copytree(Path(models, "published"), Path(folder, "assistant"))
        config = json.loads((assistant / "config.json").read_text()) | {"objective": "assistant"}
        (assistant / "config.json").write_text(json.dumps(config))
        with server({"assistant": assistant, "classifier": Path(models, "classifier")}) as address:
            for part in (emails[:10], emails):  # the first warms up
                start = time.perf_counter()
                answer = httpx.post(f"{address}/classify", json={"emails": part}, timeout=ENDS_WITHIN)
                answer.raise_for_status()
                speed = len(part) / (time.perf_counter() - start)
            return chats(address, seconds) | {EMAILS: speed}


def llama_cpp(*, seconds: float, gguf: str | None = None) -> Figures:
    """llama.cpp's server, with a place and 2,048 tokens a client and as many threads as torch has."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf or str(published_file())
    params.n_parallel, params.cont_batching = max(CLIENTS.values()), True
    params.n_ctx = 2048 * params.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    running = xllamacpp.Server(params)
    return chats(running.listening_address, seconds)


def tf_idf(*, data: str) -> Figures:
    """A usual and fast filter."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = pd.read_parquet(split_file(Path(data), "train"))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    model.fit(train["subject"] + "\n\n" + train["body"], train["label"])
    texts = [f"{mail['subject']}\n\n{mail['body']}" for mail in read_mails(data)]
    start = time.perf_counter()
    model.predict(texts)
    return {EMAILS: MAILS / (time.perf_counter() - start)}


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write."""
    parser = make_parser("serve", __doc__, seconds=20)
    parser.add_argument("--models", type=Path, default=Path("models"), help="with `published` and `classifier`")
    parser.add_argument("--data", type=Path, default=Path("data/processed/emails"), help="the processed mails")
    options = parser.parse_args(arguments)
    data, seconds = {"data": options.data}, {"seconds": options.seconds}
    jobs = {
        OURS: Job("serve.ours", {"models": options.models} | data | seconds),
        "llama.cpp": Job("serve.llama_cpp", seconds),
        "TF-IDF": Job("serve.tf_idf", data),
    }
    better = {f"{name}, {figure}": way for name in CLIENTS for figure, way in CHAT.items()}
    return compare(parser, options, [Table("serving", better | {EMAILS: MORE}, jobs)])


if __name__ == "__main__":
    sys.exit(main())
