"""Texts come, run, end and leave: an engine gives what each text gives alone."""

import pytest
from engine_runs import families, prefill_sizes, quick, requests, row_counts, run
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import FAMILIES

from llm.generation.engine import Engine
from llm.generation.greedy import generate_greedily
from llm.generation.request import Event, Request
from llm.generation.sampling import Sampling


@quick
@given(
    family=families,
    work=requests,
    rows=row_counts,
    arrivals=st.lists(st.integers(0, 6), min_size=7, max_size=7),
    prefill_tokens=prefill_sizes,
    data=st.data(),
)
def test_engine_gives_each_text_as_alone_without_a_cache_whatever_arrives_stops_or_is_cancelled(
    make_gpt, family, work, rows, arrivals, prefill_tokens, data
):
    gpt = make_gpt(**FAMILIES[family])
    texts = [generate_greedily(gpt, *request) for request in work]
    stop_tokens = data.draw(st.frozensets(st.sampled_from(sorted(set().union(*texts))), max_size=2))
    leaving = data.draw(st.dictionaries(st.integers(0, len(work) - 1), st.integers(1, 9), max_size=2))
    engine = Engine(gpt, rows, prefill_tokens=prefill_tokens)
    handles = {}

    def change(step: int) -> None:
        for number, request in enumerate(work):
            if number not in handles and (arrivals[number] <= step or not engine.busy):
                handles[number] = engine.submit(Request(*request, stop_tokens=stop_tokens))
            if number in handles and leaving.get(number) == step:
                engine.cancel(handles[number])

    tokens, endings = run(engine, change)
    for number, request in enumerate(work):
        text = tokens[handles[number]]
        ending = endings[handles[number]]
        expected = generate_greedily(gpt, *request, stop_tokens)
        if ending == "cancelled":
            assert number in leaving
            assert text == expected[: len(text)]
        else:
            assert text == expected
            assert ending == ("length" if text == texts[number] else "stop")


def test_cancel_is_reported_at_the_next_step_for_running_and_waiting_requests(make_gpt):
    engine = Engine(make_gpt(), 1)
    running = engine.submit(Request([1], 9))
    waiting = engine.submit(Request([2], 9))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    assert engine.step() == [Event(running, None, "cancelled"), Event(waiting, None, "cancelled")]
    engine.cancel(running)  # which has ended
    assert not engine.busy
    assert engine.step() == []


@quick
@given(
    family=families,
    seed=st.integers(0, 99),
    work=requests,
    rows=row_counts,
    temperature=st.just(0.0) | st.floats(0.1, 2.0),
)
def test_seed_gives_the_same_text_whatever_else_runs(make_gpt, family, seed, work, rows, temperature):
    gpt = make_gpt(**FAMILIES[family])
    request = Request([5, 6, 7], 12, Sampling(temperature=temperature, top_p=0.9, seed=seed, text_penalty=1.2))
    expected = alone(gpt, request)
    engine = Engine(gpt, rows)
    for prompt, new in work:
        engine.submit(Request(prompt, new, Sampling(temperature=1.0)))
    handle = engine.submit(request)
    assert run(engine)[0][handle] == expected


def alone(gpt, request: Request) -> list[int]:
    engine = Engine(gpt, 1)
    engine.submit(request)
    return run(engine)[0][0]


def test_failed_step_moves_no_text_reports_cancelled_ones_and_can_be_retried(make_gpt):
    gpt = make_gpt()
    drawn = Request([5, 6, 7], 12, Sampling(temperature=1.0, text_penalty=1.3, seed=3))
    expected = alone(gpt, drawn)
    engine = Engine(gpt, 4)

    def fail(step: int) -> None:
        if step == 0:
            engine.submit(drawn)
            engine.submit(Request([1, 2], 9, Sampling(temperature=1.0, text_penalty=2.0)))
            engine.submit(Request([8], 9))
        if step == 4:
            engine.cancel(2)
            engine.submit(Request([3], 6))
            sampler = engine.texts[1].sampler
            text = sampler.text
            sampler.text = {10**6}  # a token that there is no logit of
            with pytest.raises(IndexError):
                engine.step()
            sampler.text = text

    tokens, endings = run(engine, fail)
    assert tokens[0] == expected
    assert tokens[3] == generate_greedily(gpt, [3], 6)
    assert endings == {0: "length", 1: "length", 2: "cancelled", 3: "length"}
    assert [len(tokens[handle]) for handle in (1, 2)] == [9, 4]


def test_text_may_fill_a_shorter_context_to_its_last_token(make_gpt):
    engine = Engine(make_gpt(), 3, context_length=8)
    with pytest.raises(ValueError, match="6 prompt tokens and 3 new ones do not fit the context of 8"):
        engine.submit(Request([1] * 6, 3))
    engine.submit(Request([1] * 6, 2))
    assert run(engine)[0][0] == generate_greedily(make_gpt(), [1] * 6, 2)
    assert Engine(make_gpt(), 1, context_length=999).context_length == 32


@pytest.mark.parametrize(
    ("prompt", "new", "scoring", "reason"),
    [
        ([], 4, {}, "the prompt is empty"),
        ([1, 9999], 4, {}, "token 9999"),
        ([-1], 4, {}, "token -1"),
        ([1] * 30, 4, {}, "30 prompt tokens and 4 new ones"),
        ([1], 0, {}, "max_new_tokens 0"),
        ([1], 1, {"scored": [9999]}, "token 9999"),
        ([1] * 30, 1, {"scored": [2, 2, 2]}, "30 prompt tokens and 3 scored ones"),
        ([1, 2], 1, {"prompt_scored": 2}, "prompt_scored 2"),
        ([1, 2], 1, {"prompt_scored": -1}, "prompt_scored -1"),
    ],
)
def test_submit_refuses_an_impossible_request_at_once(make_gpt, prompt, new, scoring, reason):
    engine = Engine(make_gpt(), 1)
    with pytest.raises(ValueError, match=reason):
        engine.submit(Request(prompt, new, **scoring))
    assert not engine.busy
