"""Log-probabilities that an engine gives: of the tokens that it makes, and of a text that is there already."""

import math

import pytest
import torch
from engine_runs import FAMILIES, families, prefill_sizes, quick, requests, row_counts
from hypothesis import given
from hypothesis import strategies as st

from llm.generation.engine import Engine
from llm.generation.greedy import generate_greedily
from llm.generation.request import Request
from llm.generation.sampling import Sampling


@quick
@given(family=families, work=requests, rows=row_counts, likeliest=st.integers(0, 5), seed=st.integers(0, 99))
def test_logprobs_are_the_log_softmax_of_a_plain_forward_pass(make_gpt, family, work, rows, likeliest, seed):
    gpt = make_gpt(**FAMILIES[family])
    engine = Engine(gpt, rows)
    sampling = Sampling(temperature=1.5, top_k=20, text_penalty=1.3, seed=seed)  # which do not change them
    for prompt, new in work:
        engine.submit(Request(prompt, new, sampling, logprobs=likeliest))
    texts = [list(prompt) for prompt, _ in work]
    while engine.busy:
        for event in engine.step():
            text = texts[event.handle]
            expected_V = gpt(torch.tensor([text]))[0, -1].log_softmax(dim=-1)
            logprobs = event.logprobs
            assert logprobs.token == pytest.approx(expected_V[event.token].item(), abs=1e-4)
            tokens = [token for token, _ in logprobs.likeliest]
            values = [value for _, value in logprobs.likeliest]
            assert values == pytest.approx(expected_V.topk(likeliest).values.tolist(), abs=1e-4)
            assert values == pytest.approx(expected_V[tokens].tolist(), abs=1e-4)
            text.append(event.token)


def test_logprobs_are_given_on_request_and_for_no_more_tokens_than_there_are(make_gpt):
    gpt = make_gpt()
    engine = Engine(gpt, 2)
    engine.submit(Request([1, 2], 2))
    engine.submit(Request([1, 2], 2, logprobs=9999))
    plain, detailed = engine.step()
    assert plain.logprobs is None
    assert plain.token == detailed.token
    assert detailed.logprobs.likeliest[0] == (detailed.token, detailed.logprobs.token)
    assert len(detailed.logprobs.likeliest) == gpt.config.vocabulary_size
    assert sum(math.exp(value) for _, value in detailed.logprobs.likeliest) == pytest.approx(1, abs=1e-5)


@quick
@given(family=families, work=requests, rows=row_counts, prefill_tokens=prefill_sizes, data=st.data())
def test_scores_are_those_of_a_plain_forward_pass_and_change_no_token(
    make_gpt, family, work, rows, prefill_tokens, data
):
    gpt = make_gpt(**FAMILIES[family])
    engine = Engine(gpt, rows, prefill_tokens=prefill_tokens)
    texts = []
    for prompt, new in work:
        scored = data.draw(st.lists(st.integers(0, 250), max_size=12))
        prompt_scored = data.draw(st.integers(0, len(prompt) - 1))
        engine.submit(Request(prompt, new, logprobs=1, scored=scored, prompt_scored=prompt_scored))
        texts.append(([*prompt, *scored], len(scored) + prompt_scored))
    tokens = {handle: [] for handle in range(len(work))}
    scores = {}
    while engine.busy:
        for event in engine.step():
            tokens[event.handle].append(event.token)
            if event.scored is not None:
                assert len(tokens[event.handle]) == 1
                scores[event.handle] = event.scored
    for handle, (text, count) in enumerate(texts):
        logprobs_TV = gpt(torch.tensor([text]))[0].log_softmax(dim=-1)
        scored_positions = range(len(text) - count, len(text))
        expected = [logprobs_TV[position - 1, text[position]].item() for position in scored_positions]
        measured = scores.get(handle, [])
        assert [logprobs.token for logprobs in measured] == pytest.approx(expected, abs=1e-4)
        highest = [logprobs_TV[position - 1].max().item() for position in scored_positions]
        assert [logprobs.likeliest[0][1] for logprobs in measured] == pytest.approx(highest, abs=1e-4)
        assert tokens[handle] == generate_greedily(gpt, *work[handle])
