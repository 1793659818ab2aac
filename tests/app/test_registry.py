"""What the registry has, found by name; many who ask, and one that does not answer."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from app.errors import NotFound, Unavailable
from app.registry import Registry
from tests.app.conftest import tracked


def test_a_name_means_its_champion_an_alias_or_a_version(registry):
    with tracked(registry):
        found = Registry()
        names = {
            "assistant": "assistant/1",
            "assistant@champion": "assistant/1",
            "assistant@challenger": "assistant/2",
            "assistant/2": "assistant/2",
            "threestage-assistant/2": "assistant/2",
            "classifier": "classifier/1",  # its challenger, as there is no champion
        }
        assert {name: str(found.find(name)) for name in names} == names
        assert [found.default(objective) for objective in ("assistant", "classifier", "language_model", "x")] == [
            *("assistant", "classifier", "foundation", None)
        ]
        for name, reason in {
            "x": "those are: assistant, classifier, foundation",
            "classifier@champion": "classifier' has no champion; its versions are: 1 challenger",
            "assistant/3": "has no 3",
            "assistant/-1": "not registered",
            "assistant@": "not registered",
            "a/b/c": "not registered",
            "": "not registered",
            "../../etc": "not registered",
        }.items():
            with pytest.raises(NotFound, match=reason):
                found.find(name)


@pytest.fixture
def clock(monkeypatch):
    """The time that a registry goes by; it stands still."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("app.registry.time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_names_that_nobody_knows_ask_the_registry_once_however_many_ask(registry, clock, monkeypatch):
    found, asked = Registry(), Counter()
    find, read = found.find, found._in_registry
    everybody = threading.Barrier(8)

    def noted(name):
        everybody.wait(120)
        return find(name)

    def counted():
        asked["reads"] += 1
        return read()

    monkeypatch.setattr(found, "find", noted)  # not the class: a server of other tests reads, too
    monkeypatch.setattr(found, "_in_registry", counted)
    with tracked(registry), ThreadPoolExecutor(8) as pool:
        found.read()
        asked.clear()
        clock.seconds += 2
        for each in [pool.submit(found.find, f"x{number}") for number in range(8)]:
            with pytest.raises(NotFound):
                each.result()
    assert asked["reads"] == 1


def test_while_one_waits_for_a_registry_that_does_not_answer_others_are_told_at_once(tmp_path, clock, monkeypatch):
    trying, may = threading.Event(), threading.Event()

    def slowly():
        trying.set()
        assert may.wait(120)
        return read()

    with tracked(tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        registry = Registry()
        with pytest.raises(Unavailable, match=r"the registry does not answer: .*nobody answers"):
            registry.find("assistant")
        with pytest.raises(Unavailable, match="nobody answers"):  # as of the last second
            registry.find("assistant")
        clock.seconds += 2
        read = registry._in_registry
        monkeypatch.setattr(registry, "_in_registry", slowly)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(registry.find, "assistant")
            assert trying.wait(120)
            with pytest.raises(Unavailable, match="nobody answers"):
                registry.find("assistant")
            assert not first.done()
            may.set()
            with pytest.raises(Unavailable, match="nobody answers"):
                first.result()
