"""The assistant's model, a GPT with its chat template, and the questions that it is asked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm.chat import Chat, Message
from llm.config import GPTConfig
from llm.model.gpt import GPT


class Assistant(GPT):
    """A GPT and the form in which it is spoken to."""

    def __init__(self, config: GPTConfig, chat: Chat) -> None:
        super().__init__(config)
        self.chat = chat

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return super().describe() | {"chat": self.chat.model_dump()}


def build(gpt: GPT, config: Mapping[str, Any]) -> Assistant:
    """The assistant on a GPT, with the chat of config.json, or our own template where a base has none."""
    return Assistant(gpt.config, Chat.model_validate(config.get("chat", {})))


class Question(NamedTuple):
    """What the assistant is asked: an instruction, what it is about, and what came before."""

    instruction: str
    input: str = ""
    system: str = ""
    """A system prompt instead of the model's own."""
    history: Sequence[str] = ()
    """Earlier turns, the user's and the assistant's by turns."""

    def messages(self) -> list[Message]:
        """The turns; an input stands below its instruction."""
        messages = [Message("system", self.system)] if self.system else []
        for turn, text in enumerate(self.history):
            messages.append(Message("assistant" if turn % 2 else "user", text))
        text = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        messages.append(Message("user", text))
        return messages
