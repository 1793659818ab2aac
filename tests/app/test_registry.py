"""What the registry has, found by name."""

import pytest
from mlflow import MlflowClient

from app.errors import NotFound, RequestError
from app.page.shared import version_choices
from app.registry import Registry, find, models_with
from app.settings import Settings
from app.versions import Versions
from llm.objectives import CHAT, CLASSIFY, COMPLETE
from tasks.registry.decide import model_state
from tests.app.conftest import listed_version, tracked


def test_name_means_its_champion_an_alias_or_a_version(registry):
    with tracked(registry):
        registered = Registry().read()
        names = {
            "assistant": "assistant/1",
            "assistant@champion": "assistant/1",
            "assistant@challenger": "assistant/2",
            "assistant/2": "assistant/2",
            "threestage-assistant/2": "assistant/2",
            "classifier": "classifier/1",  # its challenger, as it never had a champion
        }
        assert {name: str(find(registered, name).name) for name in names} == names
        defaults = {CHAT: "assistant/1", CLASSIFY: "classifier/1", COMPLETE: "foundation/1"}
        assert {capability: str(find(registered, None, capability).name) for capability in defaults} == defaults
        with pytest.raises(NotFound, match="no model that can fly is registered; `make run` makes them"):
            find(registered, None, "fly")
        with pytest.raises(RequestError, match="assistant/2 can't classify; models that can: classifier"):
            find(registered, "assistant/2", CLASSIFY)
        for name, reason in {
            "x": "those are: assistant, classifier, foundation",
            "classifier@champion": "classifier' has no champion; its versions are: 1 challenger",
            "assistant/3": "has no 3",
            **dict.fromkeys(["assistant/-1", "assistant@", "a/b/c", "", "../../etc"], "not registered"),
        }.items():
            with pytest.raises(NotFound, match=reason):
                find(registered, name)


def test_models_with_a_capability_begin_with_those_whose_main_one_it_is():
    listed = [
        listed_version("assistant/1", CHAT, COMPLETE),
        listed_version("foundation/2", COMPLETE),
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
    versions = Versions(Settings())
    registered = versions.read()
    for name in ("assistant", None):
        with pytest.raises(NotFound, match="model 'assistant' has no champion: approve one"):
            find(registered, name, CHAT)
    assert str(find(registered, "assistant@challenger", CHAT).name) == "assistant/2"
    assert version_choices(versions, CHAT)[1][:2] == [None, "assistant/2"]
