"""The conversations that a browser keeps: which one is open, and what saving and deleting change."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from llm.config import Config

KEPT = 20
"""Conversations that a browser keeps."""
CHARACTERS = 400_000
"""Characters of all kept conversations: they travel with each answer, in a request of limited size."""
TITLE_CHARACTERS = 50
NEW = -1
"""The choice of a new conversation; the others are places in the list of kept ones."""
Turn = dict[str, Any]


class Conversation(Config):
    """A conversation with one version."""

    version: str | None
    """Its name, such as `assistant/1`."""
    system: str
    """The system prompt; empty for the model's own."""
    turns: tuple[Turn, ...]
    """Questions and answers, each with a role and a text."""

    @property
    def size(self) -> int:
        """Its characters in the browser's storage."""
        return len(self.model_dump_json())

    @property
    def title(self) -> str:
        """The start of the first question, and the version."""
        question = " ".join(self.turns[0]["content"].split())
        start = question[:TITLE_CHARACTERS]
        dots = "…" if len(question) > len(start) else ""
        return f"{start}{dots} ({self.version})"


class Conversations(Config):
    """The conversations that a browser keeps, the last used first."""

    is_open: bool = False
    """Whether the page shows the first one; it shows a new one otherwise."""
    kept: tuple[Conversation, ...] = ()

    @property
    def shown(self) -> Conversation | None:
        """The conversation that the page shows; None for a new one."""
        return self.kept[0] if self.is_open and self.kept else None

    def save(self, shown: Conversation) -> "Conversations":
        """With the conversation that the page shows now; without it if all of its turns were taken back, or if it alone
        is too long."""
        others = self.kept
        if self.shown and (not shown.turns or shown.turns[0] == self.shown.turns[0]):
            others = self.kept[1:]
        if not shown.turns or shown.size > CHARACTERS:
            return Conversations(kept=others)
        kept = [shown, *others][:KEPT]
        while sum(conversation.size for conversation in kept) > CHARACTERS:
            kept.pop()
        return Conversations(is_open=True, kept=tuple(kept))

    def choose(self, number: int) -> "Conversations":
        """With the conversation of that number open, or a new one."""
        if not 0 <= number < len(self.kept):
            return Conversations(kept=self.kept)
        others = [*self.kept[:number], *self.kept[number + 1 :]]
        return Conversations(is_open=True, kept=(self.kept[number], *others))

    def delete(self) -> "Conversations":
        """Without the conversation that the page shows."""
        return Conversations(kept=self.kept[1:] if self.shown else self.kept)

    def dropdown(self) -> gr.Dropdown:
        """The choice among them."""
        titles = [(conversation.title, number) for number, conversation in enumerate(self.kept)]
        return gr.Dropdown(choices=[("New conversation", NEW), *titles], value=0 if self.shown else NEW)


def read_conversations(stored: Any) -> Conversations:
    """The conversations of a browser's storage; none if it holds something else."""
    try:
        return Conversations.model_validate(stored)
    except ValidationError:
        return Conversations()


def stored_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Gradio's turns with their texts alone."""
    return tuple({"role": turn["role"], "content": full_text(turn)} for turn in turns)


def full_text(turn: Turn) -> str:
    """The text of one of Gradio's turns, with the mark of a guard's answer."""
    content = turn["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
