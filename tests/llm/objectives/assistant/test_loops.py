import pytest

from llm.objectives.assistant.loops import has_loop

AGAIN = "A combination of a combination, a Combination of a combination of a combination of all."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AGAIN, True),
        ("a b c d e a b c d f a b c d", True),
        ("a b c d e a b c d f a b c", False),
        ("no no no no no no", True),
        ("no no no no no", False),
        ("", False),
    ],
)
def test_loop_is_a_run_of_four_words_that_occurs_three_times(text, expected):
    assert has_loop(text) is expected
