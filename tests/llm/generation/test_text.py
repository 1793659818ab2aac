from itertools import takewhile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.generation.sampling import Sampling
from llm.generation.text import MOST_AT_ONCE, TextStream, generate, generate_text
from llm.loaded_model import LoadedModel
from llm.objectives.language_model import continuations
from llm.tokenizer import END_OF_TEXT, stop_tokens

quick = settings(max_examples=60)
WILD = Sampling(temperature=1.5, seed=1)


def test_generate_gives_each_prompt_its_text_in_order_if_prompts_exceed_rows(make_gpt):
    gpt = make_gpt()
    prompts = [[number + 1] * (1 + number % 7) for number in range(MOST_AT_ONCE + 5)]
    expected = [generate(gpt, [prompt], max_new_tokens=4)[0] for prompt in prompts]
    assert generate(gpt, prompts, max_new_tokens=4) == expected
    assert {len(text) for text in expected} == {4}
    stop = expected[0][1]
    stopped = [list(takewhile(lambda token: token != stop, text)) for text in expected]
    assert generate(gpt, prompts, max_new_tokens=4, stop_tokens=[stop]) == stopped


def test_generate_without_prompts_gives_no_texts(make_gpt):
    assert generate(make_gpt(), [], max_new_tokens=4) == []


def test_seed_gives_equal_prompts_equal_texts_and_another_seed_differs(make_gpt, encoding):
    gpt = make_gpt()
    first, second = generate(gpt, [[1, 2], [1, 2]], max_new_tokens=20, sampling=WILD)
    assert first == second
    texts = [
        generate_text(
            LoadedModel(gpt, encoding), "the cat", max_new_tokens=20, sampling=WILD.model_copy(update={"seed": seed})
        )
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def cut(text: str, stop: list[str]) -> str:
    """What someone who reads letter by letter has kept when the first stop string is complete."""
    for end in range(len(text) + 1):
        lengths = [len(string) for string in stop if text[:end].endswith(string)]
        if lengths:
            return text[: end - max(lengths)]
    return text


@quick
@given(
    st.text(alphabet="abé€😀\n", max_size=12), st.lists(st.text(alphabet="abé€", min_size=1, max_size=4), max_size=3)
)
def test_text_stream_joins_unicode_letters_and_stop_strings_across_tokens(encoding, text, stop):
    stream, expected = TextStream(encoding, stop), cut(text, stop)
    before = ""
    for byte in text.encode():
        before += stream.feed(encoding.encode_single_token(bytes([byte])))
        assert expected.startswith(before)
    assert stream.stopped == any(s in text for s in stop)
    assert before + stream.finish() == expected
    assert stream.finish() == ""


@quick
@given(st.binary(max_size=20))
def test_text_stream_gives_invalid_utf8_as_decode_does(encoding, raw):
    tokens = [encoding.encode_single_token(bytes([byte])) for byte in raw]
    stream = TextStream(encoding)
    assert "".join([*map(stream.feed, tokens), stream.finish()]) == encoding.decode(tokens)


def test_text_stream_holds_back_half_a_letter_and_the_beginning_of_a_stop_string(encoding):
    stream = TextStream(encoding, ["\nUser:"])
    letters = [encoding.encode_single_token(bytes([byte])) for byte in "é\nUs\nUser: x".encode()]
    pieces = [stream.feed(token) for token in letters]
    assert pieces == ["", "é", "", "", "", "\nUs", "", "", "", "", "", "", ""]
    assert stream.stopped
    assert stream.finish() == ""


def test_text_stream_refuses_an_empty_stop_string(encoding):
    with pytest.raises(ValueError, match="a stop string is empty"):
        TextStream(encoding, ["end", ""])


def test_generate_text_ends_at_the_end_token_and_leaves_it_out(make_gpt, encoding):
    gpt = make_gpt(tied=False)
    (tokens,) = generate(gpt, [encoding.encode_ordinary("the cat")], max_new_tokens=9, sampling=WILD)
    end = encoding.encode_single_token(END_OF_TEXT)
    assert stop_tokens(encoding) == {end}
    assert end not in tokens
    new_token = next(token for number, token in enumerate(tokens) if number > 1 and token not in tokens[:number])
    with torch.no_grad():  # from there on the model wants to end
        gpt.output.weight[end] = gpt.output.weight[new_token]
        gpt.output.weight[new_token] = 0
    (ended,) = generate(gpt, [encoding.encode_ordinary("the cat")], max_new_tokens=9, sampling=WILD)
    options = {"max_new_tokens": 9, "sampling": WILD}
    assert end in ended
    assert generate_text(LoadedModel(gpt, encoding), "the cat", **options) == encoding.decode(ended[: ended.index(end)])


def test_continuations_end_with_the_context(make_gpt, encoding):
    (text,) = continuations(LoadedModel(make_gpt(), encoding), ("the cat",), tokens=999, seed=1)
    assert text.startswith("the cat")
