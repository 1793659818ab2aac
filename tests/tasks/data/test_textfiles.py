import pytest

from tasks.data.textfiles import tidy


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("\n \n    y = x + 1\n    return y \n\n", "    y = x + 1\n    return y"),
        ("  Paris. \n", "Paris."),
        ("  One.\r\nTwo.", "  One.\nTwo."),
        (" \n ", ""),
    ],
)
def test_text_loses_blank_lines_and_spaces_around_it_and_lines_stay_indented(text, tidied):
    assert tidy(text) == tidied
