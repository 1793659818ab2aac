"""What an engine reads: no token twice, long prompts in pieces, and texts of like length together."""

from copy import deepcopy

import pytest
from engine_runs import count_reads, run

from llm.generation import engine as engine_module
from llm.generation.engine import Engine
from llm.generation.greedy import generate_greedily
from llm.generation.packed import pack
from llm.generation.request import Request
from llm.kernels.serving.decode_library import load_library


def test_next_turn_of_a_conversation_reads_its_new_tokens_alone(make_gpt, monkeypatch):
    engine = Engine(make_gpt(), 2)
    counts = count_reads(engine, monkeypatch)
    engine.submit(Request([1, 2, 3, 4], 3))
    answer = run(engine)[0][0]
    assert counts == [4, 1, 1]
    conversation = [1, 2, 3, 4, *answer, 5, 6]
    engine.submit(Request(conversation, 2))
    assert run(engine)[0][1] == generate_greedily(make_gpt(), conversation, 2)
    assert counts[3:] == [3, 1]  # the last token of the answer was never read, as nothing came after it
    engine.submit(Request(conversation, 1))
    run(engine)
    assert counts[5:] == [1]  # of a prompt that is known as a whole the last token is read


def test_running_text_shares_its_beginning_and_texts_that_come_together_read_it_each(make_gpt, monkeypatch):
    engine = Engine(make_gpt(), 4)
    counts = count_reads(engine, monkeypatch)
    engine.submit(Request([1, 2, 3, 7], 9))
    engine.submit(Request([1, 2, 3, 8], 9))
    engine.step()
    assert counts == [2 * 4]
    engine.submit(Request([1, 2, 3, 9, 9], 9))
    engine.step()
    assert counts[1:] == [2, 2]  # a token of each that runs, and the last two of the prompt
    tokens, _ = run(engine)
    assert tokens[0] == generate_greedily(make_gpt(), [1, 2, 3, 7], 9)[2:]
    assert tokens[1] == generate_greedily(make_gpt(), [1, 2, 3, 8], 9)[2:]
    assert tokens[2] == generate_greedily(make_gpt(), [1, 2, 3, 9, 9], 9)[1:]


def test_cache_keeps_a_few_texts_that_left_and_forgets_the_first_one_first(make_gpt, monkeypatch):
    monkeypatch.setattr(engine_module, "KEPT", 2)
    engine = Engine(make_gpt(), 4)
    counts = count_reads(engine, monkeypatch)

    def tokens_read(number: int) -> int:
        engine.submit(Request([number] * 6, 1))
        engine.step()
        return counts[-1]

    assert [tokens_read(number) for number in (1, 2, 1, 3)] == [6, 6, 1, 6]
    assert [tokens_read(number) for number in (1, 2)] == [1, 6]


def test_prompts_are_read_in_pieces_and_running_texts_make_a_token_with_each(make_gpt, monkeypatch):
    gpt = make_gpt()
    engine = Engine(pack(deepcopy(gpt), load_library(), exact=True), 9, prefill_tokens=12)
    counts = count_reads(engine, monkeypatch)
    prompts = [[1], [2] * 4, [3] * 3, [4] * 3, [5] * 6, [6] * 20, [7]]
    texts = {engine.submit(Request(prompt, 9)): [] for prompt in prompts}
    handles = []
    tokens_read = []
    while engine.busy:
        events = engine.step()
        handles.append(sorted(event.handle for event in events))
        tokens_read.append(sum(counts))
        counts.clear()
        for event in events:
            texts[event.handle].append(event.token)
    assert handles[:4] == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], list(range(7))]
    assert tokens_read[:4] == [12, 4 + 12, 5 + 12, 5 + 2]  # a token of each text that runs, and a piece
    assert list(texts.values()) == [generate_greedily(gpt, prompt, 9) for prompt in prompts]


@pytest.mark.parametrize("by", ["torch", "decode.c"])
def test_prompts_cost_their_own_tokens_and_no_piece_is_longer_than_the_bound(make_gpt, monkeypatch, by):
    gpt = make_gpt(context_length=512)
    model = gpt if by == "torch" else pack(gpt, load_library())
    engine = Engine(model, 3)
    counts = count_reads(engine, monkeypatch)
    prompts = [[1] * 20, [2] * 20, [3] * 400]
    for prompt in prompts:
        engine.submit(Request(prompt, 1))
    run(engine)
    assert sum(counts) == 440
    assert max(counts) <= engine_module.PREFILL_TOKENS
    assert len(counts) == {"torch": 3, "decode.c": 2}[by]
