"""What one would use instead of a fine-tune: the base, told to be brief and shown examples of a task, or the answer
to the most similar training row.

The prompt and the number of examples were fixed before anything was measured with them.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import pandas as pd
import tiktoken
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from llm.chat import Chat
from llm.objectives.assistant import Example, Question, encode_example
from llm.objectives.assistant.rows import questions_of

BRIEF = "You are a helpful assistant. Answer in at most three short sentences."
"""The system prompt under which the base answers what people ask."""
SHOTS = 4
"""The most training rows of its kind that stand before a test row."""
SEED = 1

Turns = tuple[str, ...]
"""What user and assistant say, in turn."""


def brief(question: Question) -> Question:
    """The question under the system prompt BRIEF, unless it brings one of its own."""
    return question if question.system else question._replace(system=BRIEF)


def shots(train: pd.DataFrame, test: pd.DataFrame) -> list[list[Turns]]:
    """For each test row the turns of up to SHOTS training rows of its kind, the same ones for the whole kind.

    Their system prompt is the test row's: an answer given under another prompt would be a wrong example.
    """
    groups = dict(iter(train.groupby(["kind", "system"])))
    drawn: dict[tuple[str, str], list[Turns]] = {}
    for key in set(zip(test["kind"], test["system"], strict=True)):
        rows = groups.get(key, train.iloc[:0])
        rows = rows.sample(min(SHOTS, len(rows)), random_state=SEED)
        drawn[key] = [_turns(row) for row in rows.to_dict("records")]
    return [drawn[key] for key in zip(test["kind"], test["system"], strict=True)]


def _turns(row: Mapping[Hashable, Any]) -> Turns:
    asked = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return (*row["history"], asked, row["output"])


def with_shots(
    encoding: tiktoken.Encoding, chat: Chat, question: Question, *, output: str, examples: Sequence[Turns], longest: int
) -> Example:
    """The conversation of a row, after as many examples as `longest` tokens hold; they are no part of the loss."""
    alone = encode_example(encoding, chat, question, output=output)
    for count in range(len(examples), 0, -1):
        earlier = [turn for turns in examples[:count] for turn in turns]
        asked = question._replace(history=(*earlier, *question.history))
        longer = encode_example(encoding, chat, asked, output=output)
        if len(longer) <= longest:
            shown = sum(longer.learned) - sum(alone.learned)
            counts = accumulate(map(int, longer.learned))
            own = [learned and count > shown for learned, count in zip(longer.learned, counts, strict=True)]
            return Example(longer.tokens, own)
    return alone


def nearest_answers(train: pd.DataFrame, questions: Sequence[Question]) -> list[str]:
    """For each question the answer to the training row that asks most alike: TF-IDF of words, cosine.

    What is asked is all that the assistant reads: system prompt and earlier turns, too.
    """
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    learned = csr_matrix(words.fit_transform(map(_all_turns, questions_of(train))))
    asked = csr_matrix(words.transform(map(_all_turns, questions)))
    outputs = train["output"].to_numpy()
    return [outputs[int((row @ learned.T).toarray().argmax())] for row in asked]


def _all_turns(question: Question) -> str:
    return "\n".join(turn.content for turn in question.messages())
