import pytest
from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.registry.markup import plain, printable, render_markdown


def as_html(markdown):
    """Markdown as MLflow, Prefect and the app show it."""
    return BeautifulSoup(MarkdownIt("commonmark").enable("table").render(markdown), "lxml")


@given(st.text())
@example("_0_")
@example("a__b")
@example("__init__")
def test_plain_shows_any_text_as_it_is_in_a_cell(value):
    page = as_html(f"| name |\n|---|\n| {plain(value, 10_000)} |")
    assert page.td.get_text() == " ".join(printable(value).split())


def test_plain_leaves_out_hidden_characters_and_those_that_reverse_text():
    assert plain("a\x00\x1b[31mb\u202etxt.exe\u2066") == "a \\[31mb txt.exe"


@pytest.mark.parametrize("value", ["- a", "+ a", "1. a", "2) a", "---", "===", "-", "-0.5", "+0.125", "1.5"])
def test_template_escapes_values_at_the_start_of_a_line(tmp_path, value):
    template = tmp_path / "line.md.j2"
    template.write_text("above\n{{ value }}\n")
    page = as_html(render_markdown(template, value=value))
    assert [tag.name for tag in page.body.find_all(True)] == ["p"]
    assert page.p.get_text() == f"above\n{value}"


def test_template_escapes_hostile_values_and_keeps_own_markdown(tmp_path):
    template = tmp_path / "values.md.j2"
    parts = ["# {{ value }}", "{{ own | markdown }}", "| a |\n|---|\n| {{ value }} |", "{{ value | code }}"]
    template.write_text("\n\n".join(parts))
    page = as_html(render_markdown(template, value=HOSTILE, own="**own**"))
    assert page.h1.get_text() == HOSTILE
    assert page.td.get_text() == HOSTILE
    assert [tag.get_text() for tag in page.find_all("strong")] == ["own"]
    assert len(page.find_all("code")) == 1
    assert is_harmless(page)
