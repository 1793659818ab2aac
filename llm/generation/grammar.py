"""Answers that follow a JSON schema: before each token, which ones keep the text within it.

llguidance turns the schema into a grammar and reads the text so far with an Earley parser over the bytes of tokens
(github.com/guidance-ai/llguidance). A mask takes a tenth of a millisecond.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import tiktoken
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from llm.errors import UserError


class JsonText:
    """A text that is being written, within a schema; a `Constraint`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Tensor:
        """Which tokens may come next, bool, a place for each row of the embedding."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))

    def accept(self, token: int) -> None:
        """Count a token among those that came."""
        self._matcher.consume_token(token)


@lru_cache(maxsize=8)  # a server that replaces versions must not keep their tokenizers
def _tokenizer(encoding: tiktoken.Encoding, ends: frozenset[int], rows: int) -> LLTokenizer:
    # pyrefly: ignore[missing-attribute]  # llguidance adds it to the class of its Rust part
    return LLTokenizer.from_tiktoken(
        encoder=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
        pattern=encoding._pat_str,
        eos_token=sorted(ends),
        n_vocab=rows,
    )


def json_text(
    encoding: tiktoken.Encoding, schema: Mapping[str, Any], *, ends: frozenset[int], rows: int
) -> Callable[[], JsonText]:
    """What starts a text within a JSON schema, which one of the tokens `ends` ends; `rows` is the model's vocabulary.
    The schema is compiled here, once; each text begins with a copy.

    Raises UserError for a schema that llguidance does not understand.
    """
    tokenizer = _tokenizer(encoding, ends, rows)
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
        matcher = LLMatcher(tokenizer, grammar, log_level=0)  # compiles it, which takes seconds for a large one
        mistake = matcher.get_error()
    except ValueError as error:
        mistake = str(error)
    if mistake:
        raise UserError(f"the JSON schema can't be followed: {' '.join(mistake.split())}")
    return lambda: JsonText(matcher.deep_copy())
