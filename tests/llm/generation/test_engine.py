import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.generation import engine as engine_module
from llm.generation.engine import Engine
from llm.generation.greedy import generate_greedily
from llm.generation.packed import pack
from llm.generation.pieces import Piece, batches
from llm.generation.request import Event, Request
from llm.generation.sampling import Sampling
from llm.kernels.serving.decode import load_library

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "tied": False}
FAMILIES = {"gpt2": {}, "llama": LLAMA | {"n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 40}}
quick = settings(max_examples=25)
families = st.sampled_from(sorted(FAMILIES))
beginnings = st.sampled_from([[], [3, 1, 4], [3, 1, 4, 1, 5, 9, 2]])  # which several have in common
prompts = st.builds(list.__add__, beginnings, st.lists(st.integers(0, 250), min_size=1, max_size=13))
pieces = st.sampled_from([1, 2, 5, engine_module.PREFILL_TOKENS])  # prompt tokens a step
requests = st.lists(st.tuples(prompts, st.integers(1, 12)), min_size=1, max_size=7)


def run(engine: Engine, between: Callable[[int], None] = lambda step: None) -> tuple[dict, dict]:
    """Step to the end; the tokens and the endings by handle. `between` is called before each step."""
    tokens, endings, step = {}, {}, 0
    between(0)
    while engine.busy:
        for event in engine.step():
            assert event.handle not in endings
            tokens.setdefault(event.handle, [])
            if event.token is not None:
                tokens[event.handle].append(event.token)
            if event.ended:
                endings[event.handle] = event.ended
        step += 1
        between(step)
    assert tokens.keys() == endings.keys()
    return tokens, endings


@quick
@given(families, requests, st.integers(1, 4), st.lists(st.integers(0, 6), min_size=7, max_size=7), pieces)
def test_any_order_of_arrivals_gives_what_each_gives_alone_without_a_cache(make_gpt, family, work, rows, steps, piece):
    gpt = make_gpt(**FAMILIES[family])
    engine, handles = Engine(gpt, rows, prefill_tokens=piece), {}

    def arrive(step: int) -> None:
        for number, request in enumerate(work):
            if number not in handles and (steps[number] <= step or not engine.busy):
                handles[number] = engine.submit(Request(*request))

    tokens, endings = run(engine, arrive)
    assert {number: tokens[handle] for number, handle in handles.items()} == {
        number: generate_greedily(gpt, *request) for number, request in enumerate(work)
    }
    assert set(endings.values()) == {"length"}


@quick
@given(families, requests, st.integers(1, 4), st.data())
def test_a_text_ends_before_a_stop_token(make_gpt, family, work, rows, data):
    gpt = make_gpt(**FAMILIES[family])
    texts = [generate_greedily(gpt, *request) for request in work]
    stops = data.draw(st.frozensets(st.sampled_from(sorted(set().union(*texts))), max_size=4))
    engine = Engine(gpt, rows)
    tokens, endings = run(engine, lambda step: step or [engine.submit(Request(*r, stop_tokens=stops)) for r in work])
    for handle, text in enumerate(texts):
        end = next((place for place, token in enumerate(text) if token in stops), len(text))
        assert tokens[handle] == text[:end]
        assert endings[handle] == ("length" if end == len(text) else "stop")


@quick
@given(families, requests, st.integers(1, 4), pieces, st.data())
def test_a_cancelled_request_leaves_and_the_others_go_on(make_gpt, family, work, rows, piece, data):
    gpt = make_gpt(**FAMILIES[family])
    leaving = data.draw(st.dictionaries(st.integers(0, len(work) - 1), st.integers(0, 5)))
    engine = Engine(gpt, rows, prefill_tokens=piece)
    for request in work:
        engine.submit(Request(*request))
    tokens, endings = run(
        engine, lambda step: [engine.cancel(handle) for handle, when in leaving.items() if when == step]
    )
    for handle, request in enumerate(work):
        text = generate_greedily(gpt, *request)
        if endings[handle] == "cancelled":
            assert handle in leaving
            assert tokens[handle] == text[: len(tokens[handle])]
        else:
            assert tokens[handle] == text


def test_steps_say_what_they_made_and_what_ended(make_gpt):
    gpt = make_gpt()
    (first, second), (other, stop) = generate_greedily(gpt, [1, 2], 2), generate_greedily(gpt, [7], 2)
    engine = Engine(gpt, 2)
    assert [
        engine.submit(Request([1, 2], 2)),
        engine.submit(Request([7], 9, stop_tokens=frozenset({stop}))),
        engine.submit(Request([1, 2], 1)),
    ] == [0, 1, 2]
    assert engine.step() == [Event(0, first), Event(1, other)]
    assert engine.step() == [Event(0, second, "length"), Event(1, None, "stop")]
    assert engine.step() == [Event(2, first, "length")]
    assert not engine.busy
    assert engine.step() == []


@quick
@given(families, requests, st.integers(1, 4), st.integers(0, 5), st.integers(0, 99))
def test_log_probabilities_are_the_log_softmax_of_a_plain_forward_pass(make_gpt, family, work, rows, likeliest, seed):
    gpt = make_gpt(**FAMILIES[family])
    engine = Engine(gpt, rows)
    sampling = Sampling(temperature=1.5, top_k=20, repetition_penalty=1.3, seed=seed)  # which do not change them
    for prompt, new in work:
        engine.submit(Request(prompt, new, sampling, logprobs=likeliest))
    texts = [list(prompt) for prompt, _ in work]
    while engine.busy:
        for event in engine.step():
            expected_V = gpt(torch.tensor([texts[event.handle]]))[0, -1].log_softmax(dim=-1)
            told = event.logprobs
            assert told.token == pytest.approx(expected_V[event.token].item(), abs=1e-4)
            assert len(told.likeliest) == likeliest
            assert [value for _, value in told.likeliest] == pytest.approx(
                expected_V.topk(likeliest).values.tolist(), abs=1e-4
            )
            for token, value in told.likeliest:
                assert value == pytest.approx(expected_V[token].item(), abs=1e-4)
            texts[event.handle].append(event.token)


def test_log_probabilities_are_told_to_those_alone_who_ask_and_of_no_more_tokens_than_there_are(make_gpt):
    gpt = make_gpt()
    engine = Engine(gpt, 2)
    engine.submit(Request([1, 2], 2))
    engine.submit(Request([1, 2], 2, logprobs=9999))
    silent, told = engine.step()
    assert silent.logprobs is None
    assert silent.token == told.token == told.logprobs.likeliest[0][0]
    assert told.logprobs.token == told.logprobs.likeliest[0][1]
    assert len(told.logprobs.likeliest) == gpt.config.vocabulary_size
    assert sum(math.exp(value) for _, value in told.logprobs.likeliest) == pytest.approx(1, abs=1e-5)


@quick
@given(families, requests, st.integers(1, 4), pieces, st.data())
def test_a_text_that_is_there_already_is_scored_as_by_a_plain_forward_pass_and_moves_nothing(
    make_gpt, family, work, rows, piece, data
):
    gpt = make_gpt(**FAMILIES[family])
    engine, texts = Engine(gpt, rows, prefill_tokens=piece), []
    for prompt, new in work:
        scored = data.draw(st.lists(st.integers(0, 250), max_size=12))
        before = data.draw(st.integers(0, len(prompt) - 1))
        engine.submit(Request(prompt, new, scored=scored, prompt_scored=before))
        texts.append(([*prompt, *scored], len(scored) + before))
    made, told = {}, {}
    while engine.busy:
        for event in engine.step():
            made.setdefault(event.handle, []).append(event.token)
            if event.scored is not None:
                assert len(made[event.handle]) == 1
                told[event.handle] = event.scored
    for handle, (text, count) in enumerate(texts):
        expected_TV = gpt(torch.tensor([text]))[0].log_softmax(dim=-1)
        expected = [expected_TV[place - 1, text[place]].item() for place in range(len(text) - count, len(text))]
        assert told.get(handle, []) == pytest.approx(expected, abs=1e-4)
        assert made[handle] == generate_greedily(gpt, *work[handle])


def reads(engine: Engine, monkeypatch) -> list[int]:
    """How many tokens each call of the model's `hidden_states` reads from now on, padding included."""
    counts, hidden_states = [], engine.model.hidden_states

    def count(tokens_BT: torch.Tensor, *given, **more) -> torch.Tensor:
        counts.append(tokens_BT.numel())
        return hidden_states(tokens_BT, *given, **more)

    monkeypatch.setattr(engine.model, "hidden_states", count)
    return counts


def test_the_next_turn_of_a_talk_reads_what_is_new_of_it(make_gpt, monkeypatch):
    engine = Engine(make_gpt(), 2)
    counts = reads(engine, monkeypatch)
    engine.submit(Request([1, 2, 3, 4], 3))
    answer = run(engine)[0][0]
    assert counts == [4, 1, 1]
    talk = [1, 2, 3, 4, *answer, 5, 6]
    engine.submit(Request(talk, 2))
    assert run(engine)[0][1] == generate_greedily(make_gpt(), talk, 2)
    assert counts[3:] == [3, 1]  # its last token was never read, as nothing came after it
    engine.submit(Request(talk, 1))
    run(engine)
    assert counts[5:] == [1]  # of a prompt that is known as a whole the last token is asked


def test_what_runs_lends_its_beginning_and_those_that_come_together_read_it_each(make_gpt, monkeypatch):
    engine = Engine(make_gpt(), 4)
    counts = reads(engine, monkeypatch)
    for last in (7, 8):
        engine.submit(Request([1, 2, 3, last], 9))
    engine.step()
    assert counts == [2 * 4]
    engine.submit(Request([1, 2, 3, 9, 9], 9))
    engine.step()
    assert counts[1:] == [2, 2]  # a token of each that runs, and the last two of the prompt
    left = [([1, 2, 3, 7], 2), ([1, 2, 3, 8], 2), ([1, 2, 3, 9, 9], 1)]
    assert run(engine)[0] == {
        n: generate_greedily(make_gpt(), prompt, 9)[made:] for n, (prompt, made) in enumerate(left)
    }


def test_of_texts_that_have_left_so_many_are_known_and_the_first_is_forgotten_first(make_gpt, monkeypatch):
    monkeypatch.setattr(engine_module, "KEPT", 2)
    engine = Engine(make_gpt(), 4)
    counts = reads(engine, monkeypatch)

    def read(prompt: list[int]) -> int:
        engine.submit(Request(prompt, 1))
        engine.step()
        return counts[-1]

    first, second, third = ([number] * 6 for number in (1, 2, 3))
    assert [read(prompt) for prompt in (first, second, first, third)] == [6, 6, 1, 6]
    assert [read(prompt) for prompt in (first, second)] == [1, 6]


def test_cancelling_says_so_at_the_next_step_whether_it_ran_or_waited(make_gpt):
    engine = Engine(make_gpt(), 1)
    running, waiting = engine.submit(Request([1], 9)), engine.submit(Request([2], 9))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    assert engine.step() == [Event(running, None, "cancelled"), Event(waiting, None, "cancelled")]
    engine.cancel(running)
    assert engine.step() == []


@quick
@given(families, st.integers(0, 99), requests, st.integers(1, 4), st.just(0.0) | st.floats(0.1, 2.0))
def test_a_seed_gives_the_same_text_whatever_else_runs(make_gpt, family, seed, work, rows, temperature):
    gpt = make_gpt(**FAMILIES[family])
    repetition = {"repetition_penalty": 1.1, "text_penalty": 1.2}
    request = Request([5, 6, 7], 12, Sampling(temperature=temperature, top_p=0.9, seed=seed, **repetition))
    quiet = Engine(gpt, 1)
    quiet.submit(request)
    expected = run(quiet)[0][0]
    engine = Engine(gpt, rows)
    for other in work:
        engine.submit(Request(*other, Sampling(temperature=1.0)))
    handle = engine.submit(request)
    assert run(engine)[0][handle] == expected


def test_a_step_that_fails_moves_nobody_and_may_be_taken_again(make_gpt):
    drawn = Request([5, 6, 7], 12, Sampling(temperature=1.0, seed=3))
    quiet = Engine(make_gpt(tied=False), 1)
    quiet.submit(drawn)
    expected = run(quiet)[0][0]

    gpt = make_gpt(tied=False)
    engine = Engine(gpt, 3)

    def fail(step: int) -> None:
        if step == 0:
            engine.submit(Request([1, 2], 9))
            engine.submit(drawn)
        if step == 4:
            engine.submit(Request([8], 6))
            weight = gpt.output.weight.detach().clone()
            gpt.output.weight.data.fill_(torch.nan)  # nothing can be drawn from what it gives
            with pytest.raises(RuntimeError, match="probabilit"):
                engine.step()
            gpt.output.weight.data.copy_(weight)

    tokens, endings = run(engine, fail)
    assert tokens == {0: generate_greedily(gpt, [1, 2], 9), 1: expected, 2: generate_greedily(gpt, [8], 6)}
    assert set(endings.values()) == {"length"}


def test_a_row_whose_sampler_raises_leaves_those_before_it_and_the_next_step_tells_who_was_cancelled(make_gpt):
    drawn = Request([5, 6, 7], 12, Sampling(temperature=1.0, repetition_penalty=1.3, seed=3))
    quiet = Engine(make_gpt(), 1)
    quiet.submit(drawn)
    expected = run(quiet)[0][0]

    engine = Engine(make_gpt(), 3)

    def fail(step: int) -> None:
        if step == 0:
            engine.submit(drawn)
            engine.submit(Request([1, 2], 9, Sampling(repetition_penalty=2.0)))
            engine.submit(Request([8], 9))
        if step == 4:
            engine.cancel(2)
            sampler = engine.texts[1].sampler
            seen, sampler.seen = sampler.seen, {10**6}  # a token that there is no logit of
            with pytest.raises(IndexError):
                engine.step()
            sampler.seen = seen

    tokens, endings = run(engine, fail)
    assert tokens[0] == expected
    assert endings == {0: "length", 1: "length", 2: "cancelled"}
    assert [len(tokens[handle]) for handle in (1, 2)] == [9, 4]


def test_a_text_may_fill_the_context_to_its_last_token(make_gpt):
    engine = Engine(make_gpt(), 1)
    engine.submit(Request([1] * 20, 12))
    assert run(engine)[0][0] == generate_greedily(make_gpt(), [1] * 20, 12)


def test_prompts_are_read_in_pieces_and_running_texts_make_a_token_beside_each(make_gpt, monkeypatch):
    gpt = make_gpt()
    engine = Engine(pack(deepcopy(gpt), load_library(), exact=True), 9, prefill_tokens=12)
    counts = reads(engine, monkeypatch)
    prompts = [[1], [2] * 4, [3] * 3, [4] * 3, [5] * 6, [6] * 20, [7]]
    texts = {engine.submit(Request(prompt, 9)): [] for prompt in prompts}
    made, computed = [], []
    while engine.busy:
        events = engine.step()
        made.append(sorted(event.handle for event in events))
        computed.append(sum(counts))
        counts.clear()
        for event in events:
            texts[event.handle].append(event.token)
    assert made[:4] == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], list(range(7))]
    assert computed[:4] == [12, 4 + 12, 5 + 12, 5 + 2]  # a token of each text that runs, and a piece
    assert list(texts.values()) == [generate_greedily(gpt, prompt, 9) for prompt in prompts]


@pytest.mark.parametrize("by", ["torch", "decode.c"])
def test_prompts_cost_their_own_tokens_and_no_piece_is_longer_than_the_bound(make_gpt, monkeypatch, by):
    gpt = make_gpt(context_length=512)
    model = gpt if by == "torch" else pack(gpt, load_library())
    engine = Engine(model, 3)
    counts = reads(engine, monkeypatch)
    prompts = [[1] * 20, [2] * 20, [3] * 400]
    handles = [engine.submit(Request(prompt, 1)) for prompt in prompts]
    tokens, _ = run(engine)
    assert sum(counts) == 440
    assert max(counts) <= engine_module.PREFILL_TOKENS
    assert len(counts) == {"torch": 3, "decode.c": 2}[by]
    whole = Engine(model, 1, prefill_tokens=400)
    for handle, prompt in zip(handles, prompts, strict=True):
        alone = whole.submit(Request(prompt, 1))
        assert run(whole)[0][alone] == tokens[handle]


def test_batches_hold_texts_of_like_length_in_adjacent_rows_with_little_padding():
    lengths = {0: 1, 1: 1, 3: 1, 4: 2, 5: 9, 6: 10, 7: 8, 8: 100}
    pieces = [Piece(row, 0, [0] * length) for row, length in lengths.items()]
    assert [[piece.row for piece in batch] for batch in batches(pieces)] == [[0, 1], [3], [4], [5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("prompt", "new", "reason"),
    [
        ([], 4, "^the prompt is empty$"),
        ([1, 9999], 4, "^token 9999 is not one of the model's"),
        ([-1], 4, "^token -1 is not one of the model's"),
        ([1] * 30, 4, "^30 prompt tokens and 4 new ones do not fit the context of 32$"),
        ([1], 0, "^max_new_tokens 0 is less than 1$"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once_and_nothing_waits(make_gpt, prompt, new, reason):
    engine = Engine(make_gpt(), 1)
    with pytest.raises(ValueError, match=reason):
        engine.submit(Request(prompt, new))
    assert not engine.busy


@pytest.mark.parametrize(
    ("prompt", "more", "reason"),
    [
        ([1], {"scored": [9999]}, "^token 9999 is not one of the model's"),
        ([1] * 30, {"scored": [2, 2, 2]}, "^30 prompt tokens and 3 scored ones do not fit the context of 32$"),
        ([1, 2], {"prompt_scored": 2}, "^prompt_scored 2 is not below the prompt's 2 tokens$"),
        ([1, 2], {"prompt_scored": -1}, "^prompt_scored -1 is not below the prompt's 2 tokens$"),
    ],
)
def test_what_can_not_be_scored_is_refused_at_once(make_gpt, prompt, more, reason):
    engine = Engine(make_gpt(), 1)
    with pytest.raises(ValueError, match=reason):
        engine.submit(Request(prompt, 1, **more))
    assert not engine.busy


def test_a_shorter_context_bounds_texts_and_memory(make_gpt):
    engine = Engine(make_gpt(), 3, context_length=8)
    with pytest.raises(ValueError, match="6 prompt tokens and 3 new ones do not fit the context of 8"):
        engine.submit(Request([1] * 6, 3))
    assert engine.context_length == 8
    assert Engine(make_gpt(), 1, context_length=999).context_length == 32
    with pytest.raises(ValueError, match="an engine of 0 rows"):
        Engine(make_gpt(), 0)
