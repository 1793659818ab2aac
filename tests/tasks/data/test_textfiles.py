import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.textfiles import fix_text

BROKEN = ("schön", "é", "\u2019", "\U0001f600", "\u3000")
UNUSUAL = ("\u2018", "cafe\u0301", "\ufb01", "\u2028", "\x85", "\uff21", "\ufeff", "\ud83d", "\x1b[36m", "\0", "\x7f")
PIECES = st.one_of(
    st.sampled_from(
        [each.encode().decode("windows-1252", "replace") for each in BROKEN]
        + [*UNUSUAL, "\uff06lt;", "&lt;", "&amp;", "&", "<", "\r\n", "\r", "\n", "\x0c", "a b\tc ~"]
    ),
    st.text(max_size=5),
)


@settings(max_examples=1_000, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_text_is_mended_as_ftfy_mends_it(text):
    assert fix_text(text) == ftfy.fix_text(text)


@settings(max_examples=2_000, deadline=None)
@given(st.text(st.sampled_from("\u2013\u2014\u2018\u2019\u201c\u201d\u2026 \n\taAsS.'\"-~<"), max_size=20))
def test_quotes_and_dashes_are_no_mojibake(text):
    assert fix_text(text) == ftfy.fix_text(text)


@pytest.mark.parametrize("text", ["\uff1cb\n\uff06lt;", "<b\n\uff06lt;", "<\n&lt;", "&lt;\n<", "a\n" * 3 + "schÃ¶n"])
def test_entities_hang_on_lines_before(text):
    assert fix_text(text) == ftfy.fix_text(text)
