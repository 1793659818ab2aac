from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.registry.markup import (
    cut,
    entries_markdown,
    first_entries,
    number,
    plain,
    printable,
    render_markdown,
    table,
)


def as_html(markdown: str) -> BeautifulSoup:
    """Markdown as MLflow, Prefect and the app show it."""
    return BeautifulSoup(MarkdownIt("commonmark").enable("table").render(markdown), "lxml")


def test_table_keeps_hostile_text_in_its_cell():
    page = as_html("\n".join(table(("id", "text"), [(HOSTILE, 3)])))
    assert [cell.get_text() for cell in page.find_all("td")] == [HOSTILE, "3"]
    assert not page.table.find_all(["a", "img", "code", "strong"])
    assert is_harmless(page)


@given(st.lists(st.text(), min_size=1, max_size=4))
@example(["_0_", "a__b", "f1_gain", "__init__"])
def test_table_shows_any_text_as_it_is(values):
    page = as_html("\n".join(table(["name"] * len(values), [values])))
    shown = [cell.get_text() for cell in page.find_all("td")]
    assert shown == [" ".join(printable(value).split()) for value in values]


def test_table_aligns_columns_of_numbers_and_rounds_them():
    assert table(("kind", "rows"), [("a", 0.25)], right=(1,)) == ["| kind | rows |", "|---|---:|", "| a | 0.250 |"]
    assert [number(value) for value in (0.0, 0.00012345, 12, None, "x")] == ["0.000", "0.00012", 12, "", "x"]


def test_plain_cuts_a_long_value():
    assert plain("a" * 9, 4) == "aaaa …"
    assert cut("aaaa\n", 4) == "aaaa"


def test_plain_leaves_out_hidden_characters_and_those_that_reverse_text():
    assert plain("a\x00\x1b[31mb\u202etxt.exe\u2066") == "a \\[31mb txt.exe"


@pytest.mark.parametrize("value", ["- a", "+ a", "1. a", "2) a", "---", "===", "-", "-0.5", "+0.125", "1.5"])
def test_template_escapes_values_at_the_start_of_a_line(tmp_path, value):
    template = tmp_path / "line.md.j2"
    template.write_text("above\n{{ value }}\n")
    page = as_html(render_markdown(template, value=value))
    assert [tag.name for tag in page.body.find_all(True)] == ["p"]
    assert page.p.get_text() == f"above\n{value}"


def test_template_escapes_hostile_values_and_keeps_own_markdown(tmp_path: Path):
    template = tmp_path / "values.md.j2"
    parts = ["# {{ value }}", "{{ own | markdown }}", "{{ table(('a', 'b'), [(value, 1)]) }}", "{{ value | code }}"]
    template.write_text("\n\n".join(parts))
    page = as_html(render_markdown(template, value=HOSTILE, own="**own**"))
    assert page.h1.get_text() == HOSTILE
    assert page.td.get_text() == HOSTILE
    assert [tag.get_text() for tag in page.find_all("strong")] == ["own"]
    assert len(page.find_all("code")) == 1
    assert is_harmless(page)


def test_entries_keep_quotes_lists_and_bold_beginnings_and_escape_the_text_in_them():
    page = as_html(entries_markdown(f"**id**: is ham\n\n> {HOSTILE}\n\n# no title\n\n~~~\nopen\n\n- answer: a"))
    assert is_harmless(page)
    assert page.strong.get_text() == "id"
    assert page.li.get_text() == "answer: a"
    assert page.blockquote.get_text().strip() == HOSTILE
    assert not page.find_all(["h1", "pre", "code", "hr", "a"])


@given(st.text(alphabet="#>-*_=~`[]()<>!|&\\ \n\tab1.:", max_size=60))
def test_entries_never_swallow_what_follows_them(text):
    page = as_html(f"{entries_markdown(text)}\n\n## The next section\n")
    assert is_harmless(page)
    assert [heading.get_text() for heading in page.body.find_all("h2", recursive=False)] == ["The next section"]
    assert len(page.find_all(["h1", "h2"])) == 1


def test_first_entries_begin_in_bold_or_are_paragraphs():
    text = "# Errors\n\n**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two\n"
    assert first_entries(text, 1) == "**a**: x\n\n> one\n\nmore"
    assert first_entries(text, 2) == "**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two"
    assert first_entries("# Samples\n\n> one\n\n> two\n", 1) == "> one"
    assert first_entries("# Errors\n", 5) == ""


def test_first_entries_are_cut_when_they_are_long():
    long = "\n\n".join(f"**{index}** " + "x" * 9000 for index in range(4))
    assert len(first_entries(long, 4)) == 20_000
