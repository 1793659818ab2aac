from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.generation.sampling import GREEDY
from llm.generation.text import MOST_AT_ONCE, TextStream, generate, generate_text
from llm.loaded_model import LoadedModel
from llm.objectives.language_model import continuations

quick = settings(max_examples=60)


def test_generate_gives_each_prompt_its_text_in_order_if_prompts_exceed_rows(make_gpt):
    gpt = make_gpt()
    prompts = [[number + 1] * (1 + number % 7) for number in range(MOST_AT_ONCE + 5)]
    expected = [generate(gpt, [prompt], max_new_tokens=4)[0] for prompt in prompts]
    assert generate(gpt, prompts, max_new_tokens=4) == expected
    assert {len(text) for text in expected} == {4}
    stop = expected[0][1]
    stopped = [list(takewhile(lambda token: token != stop, text)) for text in expected]
    assert generate(gpt, prompts, max_new_tokens=4, stop_tokens=[stop]) == stopped


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
    loaded = LoadedModel(make_gpt(tied=False), encoding)
    (tokens,) = generate(loaded.model, [encoding.encode_ordinary("the cat")], max_new_tokens=9)
    assert generate_text(loaded, "the cat", max_new_tokens=9, sampling=GREEDY) == encoding.decode(tokens)
    rows = [tokens[0], encoding.eot_token]
    weight = loaded.model.output.weight.data
    weight[rows] = weight[rows[::-1]]  # now the model wants to end at once
    assert generate_text(loaded, "the cat", max_new_tokens=9, sampling=GREEDY) == ""


def test_continuations_end_with_the_context(make_gpt, encoding):
    (text,) = continuations(LoadedModel(make_gpt(), encoding), ("the cat",), tokens=999, seed=1)
    assert text.startswith("the cat")
