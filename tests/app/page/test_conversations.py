"""Conversations that a browser keeps: what saving, opening and deleting change."""

import pytest

from app.page.conversations import CHARACTERS, KEPT, NEW, Conversation, Conversations, read_conversations


def conversation(question: str, *further: str, version: str = "assistant/1") -> Conversation:
    """Questions, each with an answer."""
    turns = []
    for text in (question, *further):
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": text.upper()}]
    return Conversation(version=version, system="", turns=tuple(turns))


def questions(conversations: Conversations) -> list[str]:
    """The first questions of what is kept."""
    return [conversation.turns[0]["content"] for conversation in conversations.kept]


def test_saved_conversation_grows_and_another_version_begins_a_new_one():
    conversations = Conversations().save(conversation("a")).save(conversation("a", "b"))
    assert conversations.shown == conversation("a", "b")
    conversations = conversations.choose(NEW)
    assert conversations.shown is None
    newer = conversation("a", version="assistant/2")
    conversations = conversations.save(newer)
    assert conversations.kept == (newer, conversation("a", "b"))
    assert [kept.title for kept in conversations.kept] == ["a (assistant/2)", "a (assistant/1)"]


def test_opened_conversation_is_first_and_deleted_alone():
    conversations = Conversations(kept=tuple(map(conversation, "abc"))).choose(1)
    assert (questions(conversations), conversations.shown) == (["b", "a", "c"], conversation("b"))
    conversations = conversations.delete()
    assert (questions(conversations), conversations.shown) == (["a", "c"], None)
    assert questions(conversations.delete()) == ["a", "c"], "no conversation is open"
    assert questions(conversations.choose(0).save(conversation("d"))) == ["d", "a", "c"], (
        "other turns overwrite nothing"
    )


def test_undone_conversation_is_gone():
    nothing = Conversation(version="assistant/1", system="", turns=())
    assert Conversations().save(conversation("a")).save(nothing) == Conversations()


def test_oldest_conversations_give_way():
    conversations = Conversations()
    for number in range(KEPT + 1):
        conversations = conversations.choose(NEW).save(conversation(str(number)))
    assert questions(conversations) == [str(number) for number in range(KEPT, 0, -1)]
    conversations = conversations.choose(NEW).save(conversation("x" * (CHARACTERS // 2 - 1000)))
    assert 1 < len(conversations.kept) < KEPT
    conversations = conversations.choose(NEW)
    assert conversations.save(conversation("x" * CHARACTERS)) == conversations


@pytest.mark.parametrize("stored", [None, [], "x", {"kept": [{"turns": 1}]}])
def test_corrupt_storage_counts_as_empty(stored):
    assert read_conversations(stored) == Conversations()
    conversations = Conversations().save(conversation("a"))
    assert read_conversations(conversations.model_dump()) == conversations
