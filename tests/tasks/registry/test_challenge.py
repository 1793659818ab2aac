"""A newer challenger, and what becomes of the versions that waited before it."""

import pytest
from decisions import ME, NAME, aliases, compare, entries, set_tags, states, tags

from llm.errors import UserError
from tasks.registry.decide import (
    approve,
    challenge,
    is_open,
    model_state,
    reject,
)
from tasks.registry.versions import KEY

pytestmark = pytest.mark.slow


@pytest.fixture
def made(new):
    """Versions that `register` made; the fifth is new and not yet the challenger."""
    for version in "12345":
        new.set_model_version_tag(name=NAME, version=version, key=KEY, value=f"key of {version}")
    new.set_registered_model_alias(NAME, "challenger", "4")
    return new


def test_challenge_supersedes_waiting_versions_which_can_still_be_decided_on(made, messages):
    compare("4", "f1")
    assert challenge("classifier", "5")
    assert challenge("classifier", "5")
    assert aliases() == (None, None, "5")
    assert states() == dict.fromkeys("4321", "superseded")
    assert not any(map(model_state("classifier").waits, "4321"))
    assert messages == []
    assert sorted(entries()) == [f"{version} superseded by register" for version in "1234"]
    assert tags(made, "4")["why"] == "version 5 is the challenger"
    with pytest.raises(UserError, match=r"4 was superseded by register \(version 5 .* alias challenger to it"):
        compare("4")
    approve("classifier", "4", **ME, despite_gates=True)
    assert (aliases(), states()["4"]) == (("4", None, "5"), "approved")
    reject("classifier", "3", **ME)
    assert states()["3"] == "rejected"


def test_challenge_supersedes_no_version_that_a_person_touched(made):
    reject("classifier", "1", **ME)
    made.set_registered_model_alias(NAME, "ours", "2")
    made.delete_model_version_tag(NAME, "3", KEY)
    compare("4")
    set_tags(made, "4", state="approved")  # and no review has run since
    challenge("classifier", "5")
    assert states() == {"1": "rejected", "4": "approved"}
    assert aliases() == ("4", None, "5")


@pytest.mark.parametrize("chosen", ["2", "3"])
def test_challenge_leaves_the_alias_on_a_person_s_choice_until_its_review(made, chosen):
    reject("classifier", "3", **ME)
    made.set_registered_model_alias(NAME, "challenger", chosen)
    assert not challenge("classifier", "5")
    assert (aliases(), states()) == ((None, None, chosen), {"3": "rejected"})
    compare(chosen)
    assert challenge("classifier", "5")
    assert aliases() == (None, None, "5")
    assert states()[chosen] == {"2": "superseded", "3": "pending"}[chosen]  # it was decided on once


def test_superseded_version_is_reviewed_again_once_a_person_makes_it_the_challenger(made):
    challenge("classifier", "5")
    compare("5")
    assert not is_open("classifier")
    made.set_registered_model_alias(NAME, "challenger", "4")
    assert is_open("classifier")
    assert not challenge("classifier", "5")
    compare("4")
    assert states()["4"] == "pending"
