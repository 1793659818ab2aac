from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.registry.markup import as_source, cut, first_entries, number, plain, printable, render, table

HOSTILE = (
    "<script>alert(1)</script> | a ![x](https://example.com/x.png) [click](https://example.com) <https://example.com> "
    "`code` **bold** &lt;b&gt; \\| <img src=x onerror=alert(1)>"
)


def as_html(markdown: list[str]) -> BeautifulSoup:
    """Markdown as others show it: MLflow, Prefect, the app."""
    return BeautifulSoup(MarkdownIt("commonmark").enable("table").render("\n".join(markdown)), "lxml")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    template = tmp_path_factory.mktemp("templates") / "a.html.j2"
    template.write_text(
        '{% extends "page.html.j2" %}{% from "page.html.j2" import table with context %}{% block page %}'
        "<h1>{{ title }}</h1>{{ table(('text', 'rows'), rows) }}{{ text | others_markdown }}<h2>The next section</h2>"
        '<img src="{{ image }}">{% endblock %}'
    )
    return template


def rendered(page: Path, title: str = "T", rows: object = (), text: str = "", image: str = "") -> BeautifulSoup:
    return BeautifulSoup(render(page, title=title, rows=rows, text=text, image=image), "lxml")


def is_harmless(html: BeautifulSoup) -> bool:
    tags = html.find_all(True)
    addresses = [tag.get("src") or tag.get("href") for tag in tags if tag.get("src") or tag.get("href")]
    return (
        not html.find_all(["script", "iframe", "link"])
        and all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
        and not any(name.startswith("on") for tag in tags for name in tag.attrs)
    )


def test_a_hostile_value_stays_in_its_cell_and_reads_as_it_was(page):
    for found in (rendered(page, HOSTILE, [(HOSTILE, 3)]), as_html(table(("id", "text"), [(HOSTILE, 3)]))):
        assert [cell.get_text() for cell in found.find_all("td")] == [HOSTILE, "3"]
        assert not found.table.find_all(["a", "img", "code", "strong"])
        assert is_harmless(found)


@given(st.lists(st.text(), min_size=1, max_size=4))
@example(["_0_", "a__b", "f1_gain", "__init__"])
def test_any_text_in_a_markdown_table_reads_as_it_was(values):
    found = as_html(table(["name"] * len(values), [values]))
    cells = [cell.get_text() for cell in found.find_all("td")]
    assert cells == [" ".join(printable(value).split()) for value in values]


def test_a_long_value_is_cut_and_says_so():
    assert plain("a" * 9, 4) == "aaaa …"
    assert cut("aaaa\n", 4) == "aaaa"


def test_hidden_characters_and_those_that_turn_text_around_are_left_out(page):
    text = "a\x00\x1b[31mb\u202etxt.exe\u2066"
    assert plain(text) == "a \\[31mb txt.exe"
    assert rendered(page, text).h1.get_text().split() == ["a", "[31mb", "txt.exe"]


def test_numbers_are_right_aligned_and_as_long_as_they_need(page):
    assert table(("kind", "rows"), [("a", 3)], right=(1,)) == ["| kind | rows |", "|---|---:|", "| a | 3 |"]
    cells = rendered(page, rows=[("a", 0.25)]).find_all("td")
    assert [(each.get_text(), each.get("class")) for each in cells] == [("a", None), ("0.250", ["number"])]
    assert [number(each) for each in (0.0, 0.00012345, 12, None, "x")] == ["0.000", "0.00012", 12, "", "x"]


def test_text_among_markup_keeps_its_quotes_and_bold_and_nothing_that_does_harm(page):
    found = rendered(page, text=f"# Errors\n\n**id**: is ham\n\n> {HOSTILE}\n\n~~~\nopen\n\n- answer: a")
    assert is_harmless(found)
    assert found.strong.get_text() == "id"
    assert found.li.get_text() == "answer: a"
    assert found.blockquote.get_text().strip() == HOSTILE.replace("**bold**", "bold")
    assert not found.main.find_all(["pre", "code", "hr", "a"])


@given(st.text(alphabet="#>-*_=~`[]()<>!|&\\ \n\tab1.:", max_size=60))
def test_no_text_opens_what_swallows_the_rest_of_the_page(page, text):
    found = rendered(page, text=text)
    assert is_harmless(found)
    assert [each.get_text() for each in found.main.find_all("h2", recursive=False)] == ["The next section"]
    assert len(found.find_all("h2")) == 1


def test_entries_begin_in_bold_and_say_whether_they_are_all():
    text = "# Errors\n\n**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two\n"
    assert first_entries(text, 1) == ("**a**: x\n\n> one\n\nmore", False)
    assert first_entries(text, 2) == ("**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two", True)
    assert first_entries("# Samples\n\n> one\n\n> two\n", 1) == ("> one", False)
    assert first_entries("# Errors\n", 5) == ("", True)
    long = "\n\n".join(f"**{n}** " + "x" * 9000 for n in range(4))
    shown, whole = first_entries(long, 4)
    assert (len(shown), whole) == (20_000, False)


def test_a_picture_is_in_the_page_and_the_page_asks_no_other_host(page, tmp_path):
    (tmp_path / "roc.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    found = rendered(page, image=as_source(tmp_path / "roc.svg"))
    assert is_harmless(found)
    assert found.img["src"].startswith("data:image/svg+xml;base64,")
    assert "default-src 'none'" in found.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert "http" not in str(found).replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in str(found)
