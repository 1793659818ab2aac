"""Examples to learn from: conversations as tokens, and which of these the assistant says."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import tiktoken

from llm.chat import Chat, Message, encode_chat
from llm.objectives.assistant.model import Question

IGNORE = -100
"""A target that does not count."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, and which of them the assistant says."""

    tokens: list[int]
    learned: list[bool]
    shared: int = 0
    """How many of its first tokens are a prefix, which a packed row holds once for all examples that have it."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> list[int]:
        """What comes after each token but the last: IGNORE where the assistant does not say it."""
        following = zip(self.tokens[1:], self.learned[1:], strict=True)
        return [token if learned else IGNORE for token, learned in following]

    @property
    def counted(self) -> int:
        """Tokens that the loss counts."""
        return sum(self.learned[1:])

    @property
    def responses(self) -> int:
        """The number of the assistant's turns in the loss."""
        return sum(learned and not before for before, learned in pairwise(self.learned))


def encode_example(encoding: tiktoken.Encoding, chat: Chat, question: Question, *, output: str) -> Example:
    """A conversation with its answer, which ends it. Raises UserError for one that the chat's template can't say."""
    parts = encode_chat(encoding, chat, [*question.messages(), Message("assistant", output)])
    while parts and not parts[-1].learned:  # what a template writes behind the last turn
        parts.pop()
    tokens: list[int] = []
    learned: list[bool] = []
    for part in parts:
        tokens += part.tokens
        learned += [part.learned] * len(part.tokens)
    return Example(tokens, learned)


def encode_examples(
    encoding: tiktoken.Encoding, chat: Chat, questions: Sequence[Question], *, outputs: Sequence[str], longest: int
) -> list[Example]:
    """Conversations with their answers; one of more than `longest` tokens is left out, and counted in the log."""
    examples = []
    for question, output in zip(questions, outputs, strict=True):
        example = encode_example(encoding, chat, question, output=output)
        if len(example) <= longest:
            examples.append(example)
    left_out = len(questions) - len(examples)
    if left_out:
        logger.warning(f"{left_out} rows are longer than {longest} tokens and left out, of {len(questions)}")
    return examples
