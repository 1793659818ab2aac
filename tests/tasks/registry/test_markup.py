from pathlib import Path

from bs4 import BeautifulSoup
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.registry.markup import as_html, first_entries, plain, printable, table, tame

HOSTILE = (
    "<script>alert(1)</script> | a ![x](https://example.com/x.png) [click](https://example.com) <https://example.com> "
    "`code` **bold** &lt;b&gt; \\| <img src=x onerror=alert(1)>"
)


def body(markdown: str, **pictures: Path) -> BeautifulSoup:
    return BeautifulSoup(as_html(f"# A title\n\n{markdown}\n", pictures), "lxml").main


def is_harmless(html: BeautifulSoup) -> bool:
    tags = html.find_all(True)
    addresses = [tag.get("src") or tag.get("href") for tag in tags if tag.get("src") or tag.get("href")]
    return (
        not html.find_all(["script", "iframe", "style", "link"])
        and all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in addresses)
        and not any(name.startswith("on") for tag in tags for name in tag.attrs)
    )


def test_a_hostile_value_stays_in_its_cell_and_reads_as_it_was():
    found = body("\n".join(table(("id", "text"), [("one\ntwo", HOSTILE), ("x", 3)])))
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in found.find_all("tr")[1:]]
    assert rows == [["one two", HOSTILE], ["x", "3"]]
    assert [
        tag.name for tag in found.table.find_all(True) if tag.name not in ("thead", "tbody", "tr", "th", "td")
    ] == []
    assert is_harmless(found)


@given(st.lists(st.text(), min_size=1, max_size=4))
@example(["_0_", "a__b", "f1_gain", "__init__"])
def test_any_text_in_a_table_reads_as_it_was(values):
    found = body("\n".join(table(["name"] * len(values), [values])))
    cells = [cell.get_text() for cell in found.find_all("td")]
    assert cells == [" ".join(printable(value).split()) for value in values]


def test_a_long_value_is_cut_and_says_so():
    assert plain("a" * 9, 4) == "aaaa …"
    assert plain("aaaa", 4) == "aaaa"


def test_hidden_characters_and_those_that_turn_text_around_are_left_out():
    assert plain("a\x00\x1b[31mb\u202etxt.exe\u2066") == "a \\[31mb txt.exe"


def test_numbers_stand_on_the_right():
    assert table(("kind", "rows"), [("a", 3)], right=(1,)) == ["| kind | rows |", "|---|---:|", "| a | 3 |"]


def test_text_among_markup_keeps_its_quotes_and_bold_and_nothing_that_does_harm():
    text = (
        f"# Errors\n\n**id**: is ham\n\n> {HOSTILE}\n\n> # no heading\n\nTitle\n---\n\n~~~\nstill open\n\n- answer: a"
    )
    found = body(tame(text) + "\n\n## The next section")
    assert is_harmless(found)
    assert [heading.get_text() for heading in found.find_all("h2")] == ["The next section"]
    assert found.h4.get_text() == "Errors"
    assert found.strong.get_text() == "id"
    assert found.li.get_text() == "answer: a"
    assert found.blockquote.get_text().strip() == HOSTILE.replace("**bold**", "bold")
    assert not found.find_all(["pre", "code", "hr", "h3"])


@given(st.text(alphabet="#>-*_=~`[]()<>!|&\\ \n\tab1.:", max_size=60))
def test_no_text_opens_what_swallows_the_rest_of_the_card(text):
    found = body(f"{tame(text)}\n\n## The next section")
    assert is_harmless(found)
    assert found.find_all("h2")[-1].get_text() == "The next section"
    assert len(found.find_all("h2")) == 1


def test_entries_begin_in_bold_and_say_whether_they_are_all():
    text = "# Errors\n\n**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two\n"
    assert first_entries(text, 1) == ("**a**: x\n\n> one\n\nmore", False)
    assert first_entries(text, 2) == ("**a**: x\n\n> one\n\nmore\n\n**b**: y\n\n> two", True)
    assert first_entries("# Samples\n\n> one\n\n> two\n", 1) == ("> one", False)
    assert first_entries("# Errors\n", 5) == ("", True)
    long = "\n\n".join(f"**{n}** " + "x" * 9000 for n in range(4))
    shown, whole = first_entries(long, 4)
    assert (shown.count("**"), whole) == (4, False)


def test_a_picture_is_in_the_file_and_one_that_nobody_named_is_its_text(tmp_path):
    (tmp_path / "roc.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    markdown = '![the "curve"](a.svg)\n\n![gone](b.svg)\n\n![far](https://example.com/x.svg)'
    found = BeautifulSoup(as_html(f"# T\n\n{markdown}\n", {"a.svg": tmp_path / "roc.svg"}), "lxml")
    (image,) = found.find_all("img")
    assert image["alt"] == 'the "curve"'
    assert image["src"].startswith("data:image/svg+xml;base64,")
    assert [paragraph.get_text() for paragraph in found.main.find_all("p")] == ["", "gone", "far"]


def test_the_file_asks_no_other_host_and_has_its_sections_at_the_top():
    page = as_html("# The <b>\n\n## One & two\n\n## Three\n", {})
    found = BeautifulSoup(page, "lxml")
    assert found.title.get_text() == "The <b>: model card"
    assert [(link["href"], link.get_text()) for link in found.nav.find_all("a")] == [
        ("#section-1", "One & two"),
        ("#section-2", "Three"),
    ]
    assert [heading["id"] for heading in found.find_all("h2")] == ["section-1", "section-2"]
    assert "default-src 'none'" in found.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert "http" not in page.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in page
