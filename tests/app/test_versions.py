"""Versions in memory: loaded on request, replaced when their alias moves, let go when nobody asks."""

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import openai
import pytest
from mlflow import MlflowClient
from starlette.testclient import TestClient

import app.versions
from app.api.server import create_app
from app.errors import Busy, NotFound, Unavailable
from app.registry import VersionName
from app.settings import Settings
from app.versions import Versions
from llm.generation.request import Request
from llm.objectives import CHAT
from tasks.registry.card import CARD
from tasks.registry.decide import model_state
from tasks.registry.store import configure_tracking
from tasks.registry.versions import own_models
from tests.app.conftest import get, post, readiness, register, running, tracked, wait_until
from tests.app.steps import stepwise

HERE = "http://127.0.0.1"
HELLO = [{"role": "user", "content": "hello how are you ?"}]


@pytest.fixture
def make_versions():
    made = []

    def make(**settings: float) -> Versions:
        made.append(Versions(Settings(rows=1, **settings)))
        return made[-1]

    yield make
    for versions in made:
        versions.close(0)


def move(version: str, alias: str = "champion") -> None:
    MlflowClient().set_registered_model_alias("threestage-assistant", alias, version)


def files(version: str) -> Path:
    """Where a version's model folder is."""
    return Path(mlflow.artifacts.download_artifacts(f"models:/threestage-assistant/{version}/artifacts/assistant/"))


def ask(address, model="assistant", **options):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
    return client.chat.completions.create(model=model, messages=HELLO, max_tokens=20, **options)


def names_of(versions: Versions) -> list[str]:
    return sorted(str(loaded.name) for loaded in versions.loaded)


def wait_for_reason(client: TestClient, reason: str) -> None:
    """Wait until /readyz gives this reason."""

    def is_given() -> bool:
        return reason in client.get("/readyz").json()["reason"]

    wait_until(is_given, 120)


async def ending_of(engine) -> str | None:
    """The end of a text of an engine."""
    async with asyncio.timeout(120):
        return [event.ended async for _, event in engine.submit([Request([1], 5)])][-1]


def engines() -> int:
    """Engines of this process, those of other tests too."""
    return sum(thread.name == "engine" for thread in threading.enumerate())


def is_closed(engine) -> bool:
    try:
        asyncio.run(ending_of(engine))
    except Unavailable:
        return True
    return False


@pytest.fixture
def loading(store, monkeypatch):
    """Waits before version 2 of the assistant is loaded: an event when it begins, and one that lets it go on."""
    load = app.versions.load_for_inference
    begun = threading.Event()
    go_on = threading.Event()

    def slowly(folder):
        if folder.samefile(files("2")):
            begun.set()
            assert go_on.wait(300)
        return load(folder)

    monkeypatch.setattr("app.versions.load_for_inference", slowly)
    yield begun, go_on
    go_on.set()


def test_server_without_a_model_runs_and_says_what_is_missing(ready_store, tmp_path):
    shutil.copy(ready_store, tmp_path / "mlflow.db")
    with tracked(tmp_path), TestClient(create_app(Settings(poll_seconds=0.1)), base_url=HERE) as client:
        missing = "no model is registered; `make run` makes them"
        wait_for_reason(client, missing)
        assert client.get("/v1/models").json() == {"object": "list", "data": []}
        for path, body in (
            ("/v1/chat/completions", {"messages": HELLO}),
            ("/v1/chat/completions", {"messages": HELLO, "model": "assistant"}),
            ("/classify", {"emails": [{}]}),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
            assert "`make run` makes them" in answer.json()["error"]["message"]


def test_corrupt_store_makes_versions_unavailable(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with (
        tracked(tmp_path),
        pytest.raises(Unavailable, match=r"the registry does not answer: .*mlflow.db: file is not a database"),
    ):
        Versions(Settings()).get("assistant", CHAT)


def test_version_is_loaded_once_for_concurrent_requests(registry, make_versions):
    versions = make_versions()
    with tracked(registry), ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(versions.get, "assistant", CHAT) for _ in range(8)]
        (loaded,) = {request.result() for request in requests}
    assert loaded.dataset == "instructions"
    assert loaded.registered_name == "threestage-assistant/1"


def test_versions_least_recently_asked_are_unloaded_and_defaults_stay(store, make_versions, monkeypatch):
    monkeypatch.setattr("app.versions.KEPT", 4)
    for _ in range(2):
        register(store / "assistant-1/assistant", "assistant")
    versions = make_versions()
    versions.refresh()
    defaults = ["assistant/1", "classifier/1"]
    for name in ("assistant/2", "assistant/3", "assistant/4"):
        versions.get(name, CHAT)
    assert names_of(versions) == sorted([*defaults, "assistant/3", "assistant/4"])  # also between two refreshes
    versions.get("assistant/3", CHAT)
    versions.get("assistant/2", CHAT)
    assert names_of(versions) == sorted([*defaults, "assistant/2", "assistant/3"])
    MlflowClient().delete_model_version("threestage-assistant", "3")
    versions.refresh()
    assert names_of(versions) == sorted([*defaults, "assistant/2"])
    monkeypatch.setattr("app.versions.KEPT", 1)  # fewer than there are defaults
    versions.refresh()
    assert versions.get("assistant/2", CHAT) is versions.get("assistant/2", CHAT)


def test_moved_alias_ends_no_stream_and_answers_by_the_new_version(store):
    with running(Settings(rows=4, poll_seconds=0.1)) as address:
        before = ask(address)
        second = ask(address, "assistant/2")
        assert before.choices[0].message.content != second.choices[0].message.content
        with stepwise() as steps:
            stream = iter(ask(address, stream=True))
            next(stream)
            move("2")

            def is_replaced() -> bool:
                return readiness(address)["versions"]["assistant"] == "assistant/2, champion"

            wait_until(is_replaced, 120)
            steps.open()
            chunks = list(stream)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert text == before.choices[0].message.content
            assert {chunk.model for chunk in chunks} == {"threestage-assistant/1"}
        after = ask(address)
        assert (after.model, after.choices) == ("threestage-assistant/2", second.choices)


def test_removed_champion_is_not_replaced_by_the_challenger(store):
    model_state("assistant")
    way_out = "approve one with `threestage approve`, or name a version such as assistant/2"
    missing = f"model 'assistant' has no champion: {way_out}"
    with running(Settings(rows=2, poll_seconds=0.1)) as address:
        MlflowClient().delete_registered_model_alias("threestage-assistant", "champion")

        def has_reason() -> bool:
            return bool(readiness(address)["reason"])

        def has_champion() -> bool:
            return readiness(address)["versions"].get("assistant") == "assistant/2, champion"

        wait_until(has_reason, 120)
        ready = readiness(address)
        assert (ready["ready"], ready["versions"]) == (True, {"classifier": "classifier/1, challenger"})
        assert ready["reason"].startswith(missing)
        for body in ({"messages": HELLO, "model": "assistant"}, {"messages": HELLO}):
            answer = post(address, "/v1/chat/completions", body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
            assert answer.json()["error"]["message"].startswith(missing)
        listed = [model["id"] for model in get(address, "/v1/models").json()["data"]]
        assert "assistant" not in listed
        assert ask(address, "assistant/1").model == "threestage-assistant/1"
        assert ask(address, "assistant@challenger").model == "threestage-assistant/2"
        move("2")
        wait_until(has_champion, 120)
        assert ask(address).model == "threestage-assistant/2"


def test_challenger_without_a_champion_answers_and_is_logged_as_unapproved(registry, make_versions, caplog):
    versions = make_versions()
    with tracked(registry), caplog.at_level("INFO", logger="app.versions"):
        versions.refresh()
    assert "threestage-classifier/1 is loaded; nobody has approved it" in caplog.messages
    assert "threestage-assistant/1 is loaded" in caplog.messages


def test_old_version_answers_while_the_new_one_is_loaded(loading, make_versions):
    begun, go_on = loading
    versions = make_versions(request_seconds=600)
    versions.refresh()
    move("2")

    async def clients():
        refreshing = asyncio.create_task(asyncio.to_thread(versions.refresh))
        waiting = [asyncio.create_task(versions.wait_for("assistant/2", CHAT)) for _ in range(60)]
        await asyncio.to_thread(begun.wait, 300)
        assert str((await versions.wait_for("assistant", CHAT)).name) == "assistant/1"
        assert not any(task.done() for task in waiting)
        go_on.set()
        versions_got = set(await asyncio.gather(*waiting))
        await refreshing
        assert versions_got == {await versions.wait_for("assistant", CHAT)}

    asyncio.run(clients())


def test_version_that_fails_to_load_leaves_the_one_before(store):
    shutil.rmtree(files("2"))
    with running(Settings(rows=2, poll_seconds=0.2)) as address:
        expected = ask(address)
        move("2")

        def has_reason() -> bool:
            return bool(readiness(address)["reason"])

        def is_replaced() -> bool:
            return ask(address).model == "threestage-assistant/3" and not has_reason()

        wait_until(has_reason, 120)
        ready = readiness(address)
        assert (ready["ready"], ready["versions"]["assistant"]) == (True, "assistant/1")
        assert "assistant/2 can't be loaded" in ready["reason"]
        assert "assistant/1 goes on" in ready["reason"]
        answer = ask(address)
        assert (answer.model, answer.choices) == ("threestage-assistant/1", expected.choices)
        with pytest.raises(openai.InternalServerError, match="assistant/2 can't be loaded") as raised:
            ask(address, "assistant@challenger")  # which nobody asked for before
        assert raised.value.status_code == 503
        register(store / "assistant-1/assistant", "assistant", "champion")  # the way out
        wait_until(is_replaced, 120)


def test_retry_of_a_failed_load_waits_for_poll_seconds(store, make_versions, monkeypatch, caplog):
    load = app.versions.load_for_inference
    tried = []

    def full(folder):
        if folder.samefile(files("2")):
            tried.append(folder)
            raise RuntimeError("no memory")
        return load(folder)

    monkeypatch.setattr("app.versions.load_for_inference", full)
    versions = make_versions(poll_seconds=3600)
    versions.refresh()
    move("2")
    for _ in range(3):
        reason = "assistant/2 can't be loaded: RuntimeError: no memory"
        with pytest.raises(Unavailable, match=f"{reason}; assistant/1 goes on"):
            versions.refresh()
        with pytest.raises(Unavailable, match=reason):
            versions.get("assistant/2", CHAT)
        assert versions.get("assistant", CHAT).name == VersionName("assistant", "1")
    assert len(tried) == 1
    assert caplog.text.count("Traceback") == 1


def test_champion_without_files_is_not_ready(store):
    shutil.rmtree(files("1"))
    with TestClient(create_app(Settings(poll_seconds=0.1)), base_url=HERE) as client:
        wait_for_reason(client, "can't be loaded")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "assistant/1 can't be loaded" in ready.json()["reason"]
        assert client.get("/healthz").status_code == 200
        answer = client.post("/v1/chat/completions", json={"messages": HELLO})
        assert answer.status_code == 503
        assert "assistant/1 can't be loaded" in answer.json()["error"]["message"]


def test_registry_without_readable_files_is_unavailable_and_not_empty(store, caplog):
    for name in ("assistant/1", "assistant/2", "classifier/1", "foundation/1"):
        model = name.partition("/")[0]
        shutil.rmtree(mlflow.artifacts.download_artifacts(f"models:/threestage-{name}/artifacts/{model}/"))
    client = TestClient(create_app(Settings()), base_url=HERE)
    for _ in range(2):
        answer = client.post("/v1/chat/completions", json={"messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "the files of no version can be read: " in answer.json()["error"]["message"]
    assert caplog.text.count(" can't be read: ") == 3  # once a model


# ---- what several threads do at once


def test_unloaded_version_answers_requests_that_have_it_and_ends_with_the_last(store, make_versions):
    versions = make_versions()
    loaded = versions.get("assistant/2", CHAT)
    engine = loaded.engine
    MlflowClient().delete_model_version("threestage-assistant", "2")
    versions.refresh()
    assert loaded not in versions.loaded
    assert asyncio.run(ending_of(engine)) == "length"
    del loaded
    wait_until(lambda: is_closed(engine), 120)


def test_versions_in_memory_are_bounded_while_requests_hold_them(store, make_versions, monkeypatch):
    monkeypatch.setattr("app.versions.KEPT", 1)
    register(store / "assistant-1/assistant", "assistant")
    versions = make_versions()
    held = [versions.get(name, CHAT) for name in ("assistant/1", "assistant/2")]
    with pytest.raises(Busy, match="2 versions are in use already"):
        versions.get("assistant/3", CHAT)
    held.pop(0)
    assert str(versions.get("assistant/3", CHAT).name) == "assistant/3"


def test_outage_of_the_registry_delays_no_request_for_a_loaded_version(store, make_versions, monkeypatch):
    versions = make_versions(poll_seconds=3600)
    versions.refresh()
    asked = threading.Event()
    answers = threading.Event()

    def slowly(client):
        asked.set()
        assert answers.wait(300)
        return own_models(client)

    monkeypatch.setattr("app.registry.own_models", slowly)
    with ThreadPoolExecutor(1) as pool:
        refreshing = pool.submit(versions.refresh)
        assert asked.wait(300)
        for number in range(6):
            with pytest.raises(NotFound):
                versions.get(f"unknown{number}", CHAT)
        assert str(versions.get("assistant", CHAT).name) == "assistant/1"
        assert not refreshing.done()
        answers.set()
        refreshing.result()


def test_registry_that_does_not_answer_is_not_asked_again_by_each_request(tmp_path, make_versions, monkeypatch):
    asked = []

    def counted():
        asked.append(1)
        configure_tracking()

    monkeypatch.setattr("app.registry.configure_tracking", counted)
    with tracked(tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        versions = make_versions(poll_seconds=3600)
        for _ in range(3):
            with pytest.raises(Unavailable, match="the registry does not answer: "):
                versions.get("assistant", CHAT)
    assert len(asked) == 1


def test_shutdown_ends_the_texts_of_an_unloaded_version(store, make_versions):
    versions = make_versions()
    loaded = versions.get("assistant/2", CHAT)

    async def client():
        with stepwise() as steps:
            stream = loaded.engine.submit([Request([1], 400)])
            MlflowClient().delete_model_version("threestage-assistant", "2")
            versions.refresh()
            closing = asyncio.create_task(asyncio.to_thread(versions.close, 0.01))
            with pytest.raises(Unavailable, match="the server is ending"):
                async with asyncio.timeout(120):
                    await anext(stream)
            steps.open()
            await closing

    asyncio.run(client())
    assert is_closed(loaded.engine)


def test_shutdown_ends_a_version_that_is_being_loaded(loading, make_versions):
    begun, go_on = loading
    versions, before = make_versions(), engines()
    first = versions.get("assistant/1", CHAT)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(versions.get, "assistant/2", CHAT)
        assert begun.wait(120)
        closing = pool.submit(versions.close, 120)
        wait_until(lambda: is_closed(first.engine), 120)
        go_on.set()
        closing.result()
        with pytest.raises(Unavailable, match="the server is ending"):
            asking.result()
    with pytest.raises(Unavailable, match="the server is ending"):
        versions.get("assistant/2", CHAT)
    assert names_of(versions) == ["assistant/1"]
    assert engines() == before


def test_versions_and_cards_come_from_one_store_wherever_mlflow_points(store, make_versions, tmp_path):
    for tag, value in {"gates": "f1, <b>evasion</b>", "state": "approved"}.items():
        MlflowClient().set_model_version_tag("threestage-assistant", "1", key=f"threestage.{tag}", value=value)
    run = MlflowClient().get_run(MlflowClient().get_model_version("threestage-assistant", "1").run_id)
    card = Path(run.info.artifact_uri, CARD)  # by its path, as MLflow remembers the folder before it was copied
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text("# It says one thing")
    versions = make_versions()
    noted = [version for version in versions.registry.read() if version.description.startswith("**Approved despite")]
    assert [version.name for version in noted] == [VersionName("assistant", "1")]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'another.db'}")
    assert versions.get("assistant", CHAT).name == VersionName("assistant", "1")
    note = r"**Approved despite these gates: f1, \<b\>evasion\</b\>.**"
    assert versions.registry.card(VersionName("assistant", "1")) == f"{note}\n\n# It says one thing"
    assert versions.registry.card(VersionName("assistant", "2")) is None
    assert len(versions.registry.read()) == 4
    assert not (tmp_path / "another.db").exists()
