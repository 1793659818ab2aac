"""Requests to an engine, drawn by hypothesis, and a loop that steps it to the end."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from model_shapes import FAMILIES

from llm.generation.engine import PREFILL_TOKENS, Engine

quick = settings(max_examples=25)
families = st.sampled_from(sorted(FAMILIES))
beginnings = st.sampled_from([[], [3, 1, 4], [3, 1, 4, 1, 5, 9, 2]])  # which several have in common
prompts = st.builds(list.__add__, beginnings, st.lists(st.integers(0, 250), min_size=1, max_size=13))
requests = st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=7)
row_counts = st.integers(1, 4)
prefill_sizes = st.sampled_from([1, 2, 5, PREFILL_TOKENS])


def do_nothing(step: int) -> None:
    """Nothing between steps."""


def run(engine: Engine, before_step: Callable[[int], None] = do_nothing) -> tuple[dict[int, list[int]], dict[int, str]]:
    """Step to the end; the tokens and the endings by handle."""
    tokens: dict[int, list[int]] = defaultdict(list)
    endings: dict[int, str] = {}
    step = 0
    before_step(step)
    while engine.busy:
        for event in engine.step():
            assert event.handle not in endings
            text = tokens[event.handle]
            if event.token is not None:
                text.append(event.token)
            if event.ended:
                endings[event.handle] = event.ended
        step += 1
        before_step(step)
    assert tokens.keys() == endings.keys()
    return dict(tokens), endings


def count_reads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of the model's `hidden_states` reads from now on, padding included."""
    counts: list[int] = []
    hidden_states = engine.model.hidden_states

    def counted(tokens_BT: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        counts.append(tokens_BT.numel())
        return hidden_states(tokens_BT, *arguments, **options)

    monkeypatch.setattr(engine.model, "hidden_states", counted)
    return counts
