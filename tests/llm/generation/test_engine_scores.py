"""Log-probabilities that an engine gives: of the tokens that it makes, and of a text that is there already."""

import pytest
import torch
from engine_runs import families, prefill_sizes, quick, requests, row_counts
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import FAMILIES

from llm.generation.engine import Engine
from llm.generation.greedy import generate_greedily
from llm.generation.request import Logprobs, Request
from llm.generation.sampling import GREEDY, Sampling


def assert_near(logprobs: list[Logprobs], expected_TV: torch.Tensor, tokens: list[int], likeliest: int) -> None:
    """Compare the scores of tokens, and of the likeliest in their places, with those of a plain forward pass."""
    for token, score, expected_V in zip(tokens, logprobs, expected_TV, strict=True):
        assert score.token == pytest.approx(expected_V[token].item(), abs=1e-4)
        values = [value for _, value in score.likeliest]
        assert values == pytest.approx(expected_V.topk(likeliest).values.tolist(), abs=1e-4)
        named = [named for named, _ in score.likeliest]
        assert values == pytest.approx(expected_V[named].tolist(), abs=1e-4)


@quick
@given(
    family=families,
    work=requests,
    rows=row_counts,
    prefill_tokens=prefill_sizes,
    likeliest=st.integers(0, 5),
    sampling=st.sampled_from([GREEDY, Sampling(temperature=1.5, top_k=20, text_penalty=1.3, seed=1)]),
    data=st.data(),
)
def test_scores_are_the_log_softmax_of_a_plain_forward_pass_and_change_no_token(
    make_gpt, family, work, rows, prefill_tokens, likeliest, sampling, data
):
    gpt = make_gpt(**FAMILIES[family])
    engine = Engine(gpt, rows, prefill_tokens=prefill_tokens)
    texts = []
    counts = []
    for prompt, new in work:
        scored = data.draw(st.lists(st.integers(0, 250), max_size=12))
        prompt_scored = data.draw(st.integers(0, len(prompt) - 1))
        engine.submit(Request(prompt, new, sampling, logprobs=likeliest, scored=scored, prompt_scored=prompt_scored))
        texts.append([*prompt, *scored])
        counts.append(len(scored) + prompt_scored)
    tokens = [[] for _ in work]
    logprobs = [[] for _ in work]
    scores = [[] for _ in work]
    while engine.busy:
        for event in engine.step():
            if event.scored is not None:
                assert not tokens[event.handle]
                scores[event.handle] = event.scored
            tokens[event.handle].append(event.token)
            logprobs[event.handle].append(event.logprobs)
    for number, (prompt, new) in enumerate(work):
        text = texts[number]
        first = len(text) - counts[number]
        expected_TV = gpt(torch.tensor([text]))[0].log_softmax(dim=-1)
        assert_near(scores[number], expected_TV[first - 1 : -1], text[first:], likeliest)
        expected_TV = gpt(torch.tensor([prompt + tokens[number]]))[0].log_softmax(dim=-1)
        assert_near(logprobs[number], expected_TV[len(prompt) - 1 : -1], tokens[number], likeliest)
        if sampling == GREEDY:
            assert tokens[number] == generate_greedily(gpt, prompt, new)


def test_logprobs_are_given_on_request_and_for_no_more_tokens_than_there_are(make_gpt):
    gpt = make_gpt()
    engine = Engine(gpt, 2)
    engine.submit(Request([1, 2], 2))
    engine.submit(Request([1, 2], 2, logprobs=9999))
    plain, detailed = engine.step()
    assert plain.logprobs is None
    assert plain.token == detailed.token
    assert len(detailed.logprobs.likeliest) == gpt.config.vocabulary_size
