"""Versions by name, and aliases that move while the server runs."""

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mlflow
import openai
import pytest
from mlflow import MlflowClient
from starlette.testclient import TestClient

import app.versions
from app.errors import NotFound, Unavailable
from app.registry import CARD, Named
from app.server import PRELOADED, create_app
from app.settings import Settings
from app.versions import KEPT, Versions
from llm.generation.engine import Request
from tasks.registry.tracking import configure_tracking
from tests.app.conftest import register, running, tracked, wait_until, write_model
from tests.app.steps import stepwise

HERE = "http://127.0.0.1"
HELLO = [{"role": "user", "content": "hello how are you ?"}]


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory):
    """A registry with two versions of an assistant, of which the first is champion. Copy it."""
    folder = tmp_path_factory.mktemp("two")
    with tracked(folder):
        register(write_model(folder / "1/assistant", "assistant", 1), "assistant", "champion")
        register(write_model(folder / "2/assistant", "assistant", 2), "assistant")
    return folder


@pytest.fixture
def store(two_versions, tmp_path):
    """A registry of one's own: an assistant that is champion, and the number of another version."""
    shutil.copytree(two_versions, tmp_path, dirs_exist_ok=True)
    with tracked(tmp_path):
        configure_tracking()  # the store has moved
        yield tmp_path


def move(version: str, alias: str = "champion") -> None:
    MlflowClient().set_registered_model_alias("threestage-assistant", alias, version)


def files(version: str) -> Path:
    """Where a version's model folder is."""
    return Path(mlflow.artifacts.download_artifacts(f"models:/threestage-assistant/{version}/artifacts/assistant/"))


def client_of(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)


def ask(address, model="assistant", **options):
    return client_of(address).chat.completions.create(model=model, messages=HELLO, max_tokens=20, **options)


def lives(loaded) -> bool:
    """Whether a version's engine still runs."""
    return loaded.engine._thread.is_alive()


async def ending_of(loaded) -> str | None:
    """How a text of a version ends."""
    async with asyncio.timeout(120):
        return [event.ended async for _, event in loaded.engine.submit([Request([1], 5)])][-1]


def test_an_empty_registry_says_how_to_fill_it(tmp_path):
    with tracked(tmp_path):
        with pytest.raises(NotFound, match="those are: none; `make run` makes them"):
            Versions(Settings()).get("assistant")
        assert Versions(Settings()).defaults(PRELOADED) == {}


def test_a_store_that_can_not_be_read_makes_versions_unavailable(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with (
        tracked(tmp_path),
        pytest.raises(Unavailable, match=r"the registry does not answer: .*not a store of MLflow's"),
    ):
        Versions(Settings()).get("assistant")


def test_a_version_is_loaded_once_however_many_ask(registry):
    with tracked(registry):
        versions, found = Versions(Settings(rows=1)), []
        threads = [threading.Thread(target=lambda: found.append(versions.get("assistant"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(map(id, found))) == 1
        assert found[0].dataset == "instructions"
        assert found[0].registered_name == "threestage-assistant/1"
        versions.close(0)


def test_what_was_not_asked_for_of_late_is_let_go_and_the_champion_stays(store):
    for _ in range(4):
        register(store / "1/assistant", "assistant")
    versions = Versions(Settings(rows=1))
    versions.refresh(PRELOADED)

    def there() -> set[str]:
        return {each.named.version for each in versions.loaded}

    for version in "2345":
        versions.get(f"assistant/{version}")
    assert KEPT == 4
    assert there() == set("1345")  # also between two looks at the registry
    versions.get("assistant/3")
    versions.get("assistant/6")
    versions.refresh(PRELOADED)
    assert there() == set("1356")
    MlflowClient().delete_model_version("threestage-assistant", "5")
    versions.refresh(PRELOADED)
    assert there() == set("136")
    versions.close(0)


def test_a_moved_alias_ends_no_stream_and_soon_answers_by_the_new_version(store):
    with running(Settings(rows=4, poll_seconds=0.1)) as address:
        before, other = ask(address), ask(address, "assistant/2")
        assert before.choices[0].message.content != other.choices[0].message.content
        with stepwise() as steps:
            streams = [iter(ask(address, stream=True)) for _ in range(3)]
            for stream in streams:
                next(stream)
            move("2")
            ready = {"assistant": "assistant/2, champion"}
            wait_until(lambda: httpx.get(f"{address}/readyz", timeout=60).json()["versions"] == ready, 120)
            steps.open()
            for stream in streams:
                chunks = list(stream)
                assert (
                    "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                    == before.choices[0].message.content
                )
                assert {chunk.model for chunk in chunks} == {"threestage-assistant/1"}
                assert chunks[-1].choices[0].finish_reason == "length"
        after = ask(address)
        assert (after.model, after.choices) == ("threestage-assistant/2", other.choices)
        move("1")
        wait_until(lambda: ask(address).model == "threestage-assistant/1", 120)


def test_while_a_new_version_is_loaded_the_old_one_answers(store, monkeypatch):
    begun, may = threading.Event(), threading.Event()
    load = Versions._load

    def slowly(self, named):
        if named.version == "2":
            begun.set()
            assert may.wait(120)
        return load(self, named)

    with running(Settings(rows=2, poll_seconds=0.1)) as address:
        monkeypatch.setattr(Versions, "_load", slowly)
        move("2")
        assert begun.wait(120)
        assert ask(address).model == "threestage-assistant/1"
        may.set()
        wait_until(lambda: ask(address).model == "threestage-assistant/2", 120)


def test_a_version_that_can_not_be_loaded_leaves_what_answered_before_and_says_why(store, monkeypatch):
    shutil.rmtree(files("2"))
    tried = []
    load = Versions._load
    monkeypatch.setattr(Versions, "_load", lambda self, named: tried.append(named) or load(self, named))
    with running(Settings(rows=2, poll_seconds=0.2)) as address:
        expected = ask(address)
        move("2", "challenger")  # first: while it is read that the champion can't be loaded, both are there
        move("2")

        def reason():
            return httpx.get(f"{address}/readyz", timeout=60).json()["reason"]

        wait_until(reason, 120)
        ready = httpx.get(f"{address}/readyz", timeout=60)
        assert ready.status_code == 200
        assert ready.json()["versions"] == {"assistant": "assistant/1"}
        assert "assistant/2 can't be loaded" in reason()
        assert "assistant/1 goes on" in reason()
        answer = ask(address)
        assert (answer.model, answer.choices) == ("threestage-assistant/1", expected.choices)
        with pytest.raises(openai.InternalServerError, match="assistant/2 can't be loaded") as raised:
            ask(address, "assistant@challenger")  # which nobody asked for before
        assert raised.value.status_code == 503
        register(store / "1/assistant", "assistant", "champion")  # the way out
        wait_until(lambda: ask(address).model == "threestage-assistant/3", 120)
        wait_until(lambda: httpx.get(f"{address}/readyz", timeout=60).json()["reason"] is None, 120)


def test_loading_is_not_tried_again_for_each_request(store, monkeypatch):
    shutil.rmtree(files("2"))
    tried = []
    load = Versions._load
    monkeypatch.setattr(Versions, "_load", lambda self, named: tried.append(named) or load(self, named))
    versions = Versions(Settings(rows=1, poll_seconds=3600))
    for _ in range(5):
        with pytest.raises(Unavailable, match="assistant/2 can't be loaded"):
            versions.get("assistant/2")
    assert tried == [Named("assistant", "2")]
    versions.get("assistant")
    move("2")
    for _ in range(3):
        with pytest.raises(Unavailable, match="assistant/1 goes on"):
            versions.refresh(PRELOADED)
        assert versions.get("assistant").named == Named("assistant", "1")
    assert tried == [Named("assistant", "2"), Named("assistant", "1")]
    versions.close(0)


def test_a_version_for_which_there_is_no_memory_leaves_what_answered_before(store, monkeypatch, caplog):
    versions, load = Versions(Settings(rows=1, poll_seconds=1e-9)), app.versions.load_for_inference

    def full(folder):
        if folder.samefile(files("2")):
            raise RuntimeError("no memory")
        return load(folder)

    monkeypatch.setattr("app.versions.load_for_inference", full)
    versions.refresh(PRELOADED)
    move("2")
    for _ in range(2):
        with pytest.raises(Unavailable, match="assistant/2 can't be loaded: RuntimeError: no memory; assistant/1 goes"):
            versions.refresh(PRELOADED)
    assert versions.get("assistant").named == Named("assistant", "1")
    assert caplog.text.count("Traceback") == 1
    versions.close(0)


def test_a_champion_without_files_is_not_ready_and_says_why(store):
    shutil.rmtree(files("1"))
    with TestClient(create_app(Settings(poll_seconds=0.1)), base_url=HERE) as client:
        wait_until(lambda: "can't be loaded" in client.get("/readyz").json()["reason"], 120)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "assistant/1 can't be loaded" in ready.json()["reason"]
        assert client.get("/healthz").status_code == 200
        answer = client.post("/v1/chat/completions", json={"messages": HELLO})
        assert answer.status_code == 503
        assert "assistant/1 can't be loaded" in answer.json()["error"]["message"]


def test_without_a_model_the_server_lives_and_says_what_is_missing(tmp_path):
    with tracked(tmp_path), TestClient(create_app(Settings(poll_seconds=0.1)), base_url=HERE) as client:
        wait_until(
            lambda: "no model is registered; `make run` makes them" in client.get("/readyz").json()["reason"], 120
        )
        assert client.get("/v1/models").json() == {"object": "list", "data": []}
        for path, body in (("/v1/chat/completions", {"messages": HELLO}), ("/classify", {"emails": [{"body": "x"}]})):
            answer = client.post(path, json=body)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"


def test_where_no_files_can_be_read_the_store_is_named_and_not_an_empty_registry(store, caplog):
    for version in ("1", "2"):
        shutil.rmtree(files(version))
    with TestClient(create_app(Settings(poll_seconds=0.1)), base_url=HERE) as client:
        wait_until(lambda: "the files of no version can be read" in client.get("/readyz").json()["reason"], 120)
        answer = client.post("/v1/chat/completions", json={"messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "the files of no version can be read: " in answer.json()["error"]["message"]
    assert caplog.text.count(" can't be read: ") == 2  # once each


def test_while_a_version_is_loaded_everything_else_is_answered(store, monkeypatch):
    load, begun, go_on = app.versions.load_for_inference, threading.Event(), threading.Event()
    loaders = []

    class Noted(ThreadPoolExecutor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            loaders.append(self)

    monkeypatch.setattr("app.openai_api.ThreadPoolExecutor", Noted)

    def slow(folder):
        if folder.samefile(files("2")):
            begun.set()
            assert go_on.wait(300)
        return load(folder)

    monkeypatch.setattr("app.versions.load_for_inference", slow)
    with running(Settings(rows=1, client_share=1, request_seconds=600)) as address, ThreadPoolExecutor(60) as pool:
        asked = {"model": "assistant/2", "messages": HELLO, "max_tokens": 1}
        chat = f"{address}/v1/chat/completions"
        waiting = [pool.submit(httpx.post, chat, json=asked, timeout=300) for _ in range(60)]
        try:
            assert begun.wait(300)
            wait_until(lambda: loaders[0]._work_queue.qsize() == 59, 300)
            assert httpx.get(f"{address}/v1/models", timeout=300).status_code == 200
            other = httpx.post(chat, json=asked | {"model": "assistant/1"}, timeout=300)
            assert other.status_code == 200
            assert not any(each.done() for each in waiting)
        finally:
            go_on.set()
        assert {each.result().status_code for each in waiting} <= {200, 429}


# ---- what several threads do at once


def test_who_was_given_a_version_before_it_was_let_go_has_an_answer(store):
    versions = Versions(Settings(rows=1))
    versions.refresh(PRELOADED)
    given = versions.get("assistant")
    move("2")
    versions.refresh(PRELOADED)
    assert [str(each.named) for each in versions.loaded] == ["assistant/2"]
    assert asyncio.run(ending_of(given)) == "length"
    versions.close(60)
    assert not lives(given)


def test_a_version_that_was_let_go_ends_by_itself(store, monkeypatch):
    monkeypatch.setattr("app.versions.GRACE", 0.05)
    versions = Versions(Settings(rows=1))
    versions.refresh(PRELOADED)
    given = versions.get("assistant")
    move("2")
    versions.refresh(PRELOADED)
    wait_until(lambda: not lives(given), 120)
    wait_until(lambda: not versions._leaving, 120)
    assert lives(versions.get("assistant"))
    versions.close(0)


def test_the_servers_end_ends_the_texts_of_a_version_that_was_let_go_before(store):
    versions = Versions(Settings(rows=1))
    versions.refresh(PRELOADED)
    given = versions.get("assistant")

    async def client():
        with stepwise() as steps:
            stream = given.engine.submit([Request([1], 400)])
            move("2")
            versions.refresh(PRELOADED)
            closing = asyncio.create_task(asyncio.to_thread(versions.close, 0.01))
            with pytest.raises(Unavailable, match="the server is ending"):
                async with asyncio.timeout(120):
                    await anext(stream)
            steps.open()
            await closing

    asyncio.run(client())
    assert not lives(given)


def test_what_is_being_loaded_when_the_server_ends_is_ended_and_nothing_is_loaded_after(store, monkeypatch):
    begun, may, made = threading.Event(), threading.Event(), []
    load = Versions._load

    def slowly(self, named):
        begun.set()
        assert may.wait(120)
        made.append(load(self, named))
        return made[-1]

    monkeypatch.setattr(Versions, "_load", slowly)
    versions = Versions(Settings(rows=1))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(versions.get, "assistant")
        assert begun.wait(120)
        closing = pool.submit(versions.close, 120)
        wait_until(versions._ending.is_set, 120)
        may.set()
        closing.result()
        assert [lives(each) for each in made] == [False]
        with pytest.raises(Unavailable, match="the server is ending"):
            asking.result()
    with pytest.raises(Unavailable, match="the server is ending"):
        versions.get("assistant/2")
    assert (len(made), versions.loaded) == (1, [])


def test_a_version_that_is_newer_than_a_refresh_is_not_let_go_by_it(store, monkeypatch):
    versions, newer = Versions(Settings(rows=1)), []
    make_room = versions._make_room

    def meanwhile(*arguments):
        if arguments and not newer:  # the refresh has read and loaded
            register(store / "1/assistant", "assistant")
            versions.registry._read_at = -1e9  # as if it had taken its time
            newer.append(versions.get("assistant/3"))
        make_room(*arguments)

    monkeypatch.setattr(versions, "_make_room", meanwhile)
    versions.refresh(PRELOADED)
    assert [str(each.named) for each in versions.loaded] == ["assistant/1", "assistant/3"]
    assert asyncio.run(ending_of(newer[0])) == "length"
    versions.close(0)


def test_beside_any_number_of_defaults_another_version_may_answer(store, monkeypatch):
    monkeypatch.setattr("app.versions.KEPT", 1)
    versions = Versions(Settings(rows=1))
    versions.refresh(PRELOADED)
    other = versions.get("assistant/2")
    assert versions.get("assistant/2") is other
    versions.refresh(PRELOADED)
    assert {str(each.named) for each in versions.loaded} == {"assistant/1", "assistant/2"}
    versions.close(0)


def test_versions_and_cards_come_from_one_store_wherever_mlflow_points(store, tmp_path):
    run = MlflowClient().get_run(MlflowClient().get_model_version("threestage-assistant", "1").run_id)
    card = Path(run.info.artifact_uri, CARD)  # by its path, as MLflow remembers the folder before it was copied
    card.parent.mkdir()
    card.write_text("# It says one thing")
    versions = Versions(Settings(rows=1))
    versions.registry.read()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'another.db'}")
    assert versions.get("assistant").named == Named("assistant", "1")
    assert versions.registry.card(Named("assistant", "1")) == "# It says one thing"
    assert versions.registry.card(Named("assistant", "2")) is None
    assert len(versions.registry.read()) == 2
    assert not (tmp_path / "another.db").exists()
    versions.close(0)
