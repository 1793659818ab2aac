"""What the registry has, found by name; many who ask, and one that does not answer."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from app.errors import NotFound, RequestError, Unavailable
from app.names import models_with
from app.page.shared import version_choices
from app.registry import Registry
from app.settings import Settings
from app.versions import Versions
from llm.objectives import CHAT, CLASSIFY, COMPLETE
from tasks.registry.decide import model_state
from tasks.registry.store import configure_tracking
from tasks.registry.versions import own_models
from tests.app.conftest import listed_version, tracked


def test_name_means_its_champion_an_alias_or_a_version(registry):
    with tracked(registry):
        store = Registry()
        names = {
            "assistant": "assistant/1",
            "assistant@champion": "assistant/1",
            "assistant@challenger": "assistant/2",
            "assistant/2": "assistant/2",
            "threestage-assistant/2": "assistant/2",
            "classifier": "classifier/1",  # its challenger, as it never had a champion
        }
        assert {name: str(store.find(name)) for name in names} == names
        defaults = {CHAT: "assistant/1", CLASSIFY: "classifier/1", COMPLETE: "foundation/1"}
        assert {capability: str(store.find(None, capability)) for capability in defaults} == defaults
        with pytest.raises(NotFound, match="no model that can fly is registered; `make run` makes them"):
            store.find(None, "fly")
        with pytest.raises(RequestError, match="assistant/2 can't classify; models that can: classifier"):
            store.find("assistant/2", CLASSIFY)
        for name, reason in {
            "x": "those are: assistant, classifier, foundation",
            "classifier@champion": "classifier' has no champion; its versions are: 1 challenger",
            "assistant/3": "has no 3",
            **dict.fromkeys(["assistant/-1", "assistant@", "a/b/c", "", "../../etc"], "not registered"),
        }.items():
            with pytest.raises(NotFound, match=reason):
                store.find(name)


def test_models_with_a_capability_begin_with_those_whose_main_one_it_is():
    listed = [
        listed_version("assistant/1", CHAT, COMPLETE),
        listed_version("foundation/2"),
        listed_version("foundation/1", COMPLETE, is_default=False),
        listed_version("mail/1", CLASSIFY),
        listed_version("helper/1", CHAT, COMPLETE),
        listed_version("before/1", CHAT, is_default=False),
    ]
    assert models_with(listed, CHAT) == ["assistant", "helper", "before"]
    assert models_with(listed, COMPLETE) == ["foundation", "assistant", "helper"]
    assert models_with(listed, CHAT, CLASSIFY) == ["assistant", "helper", "mail", "before"]


def test_model_whose_champion_is_gone_has_no_default_version(store):
    assert model_state("assistant").champion == "1"  # which writes down that it has one
    MlflowClient().delete_model_version("threestage-assistant", "1")
    names = Registry()
    for name in ("assistant", None):
        with pytest.raises(NotFound, match="model 'assistant' has no champion: approve one"):
            names.find(name, CHAT)
    assert str(names.find("assistant@challenger", CHAT)) == "assistant/2"
    assert version_choices(Versions(Settings()), CHAT)[1][:2] == [None, "assistant/2"]


@pytest.fixture
def clock(monkeypatch):
    """The time that a registry goes by; it stands still."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("app.registry.time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_unknown_names_read_the_registry_once_for_concurrent_requests(registry, clock, monkeypatch):
    store = Registry()
    reads = []
    everybody = threading.Barrier(8)

    def find(name):
        everybody.wait(120)
        return store.find(name)

    def counted(client):
        if threading.current_thread().name.startswith("asks"):  # a server of other tests reads, too
            reads.append(client)
        return own_models(client)

    monkeypatch.setattr("app.registry.own_models", counted)
    with tracked(registry), ThreadPoolExecutor(8, "asks") as pool:
        store.read()
        clock.seconds += 2
        for search in [pool.submit(find, f"x{number}") for number in range(8)]:
            with pytest.raises(NotFound):
                search.result()
    assert len(reads) == 1


def test_registry_that_does_not_answer_keeps_one_thread_waiting_alone(tmp_path, clock, monkeypatch):
    trying = threading.Event()
    may_go_on = threading.Event()

    def slowly():
        trying.set()
        assert may_go_on.wait(120)
        configure_tracking()

    with tracked(tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        registry = Registry()
        with pytest.raises(Unavailable, match=r"the registry does not answer: .*try again when it answers"):
            registry.find("assistant")
        with pytest.raises(Unavailable, match="try again when it answers"):  # as of the last second
            registry.find("assistant")
        clock.seconds += 2
        monkeypatch.setattr("app.registry.configure_tracking", slowly)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(registry.find, "assistant")
            assert trying.wait(120)
            with pytest.raises(Unavailable, match="try again when it answers"):
                registry.find("assistant")
            assert not first.done()
            may_go_on.set()
            with pytest.raises(Unavailable, match="try again when it answers"):
                first.result()
