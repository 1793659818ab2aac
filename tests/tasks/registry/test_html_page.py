from pathlib import Path

from bs4 import BeautifulSoup
from html_pages import HOSTILE, is_harmless

from tasks.registry.html_page import State, html_page
from tasks.registry.markup import escaped, table


def page_of(markdown: str, pictures: dict[str, Path] | None = None, state: State = "open") -> BeautifulSoup:
    return BeautifulSoup(html_page(f"# Title\n\n{markdown}", pictures, state), "lxml")


def test_page_loads_nothing_and_has_its_title():
    html = html_page(f"# {escaped(HOSTILE)}\n\nText.\n")
    page = BeautifulSoup(html, "lxml")
    assert page.title.get_text() == page.h1.get_text() == HOSTILE
    assert "default-src 'none'" in page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert "http" not in html.replace("http-equiv", "").replace("https://example.com", "")
    assert "prefers-color-scheme: dark" in html


def test_page_escapes_html_in_markdown():
    assert is_harmless(page_of("<script>alert(1)</script> <img src=x onerror=alert(1)>"))


def test_page_holds_the_bytes_of_its_pictures_and_leaves_out_others(tmp_path):
    path = tmp_path / "roc.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    page = page_of("![roc](roc.svg) ![x](https://example.com/x.png)", {"roc.svg": path})
    assert is_harmless(page)
    roc, unknown = page.find_all("img")
    assert roc["src"].startswith("data:image/svg+xml;base64,")
    assert roc["alt"] == "roc"
    assert "src" not in unknown.attrs


def test_page_folds_sections_of_level_three_up_to_the_next_heading():
    page = page_of("## A\n\n### First\n\none\n\n### Second\n\ntwo\n\n## B\n\n### Third\n\nthree\n")
    folds = [(fold.summary.get_text(), fold.p.get_text()) for fold in page.find_all("details")]
    assert folds == [("First", "one"), ("Second", "two"), ("Third", "three")]
    assert [heading.get_text() for heading in page.main.find_all("h2", recursive=False)] == ["A", "B"]


def test_page_colours_its_verdict_and_marks():
    page = page_of("**Version 2 passes.** It is **better**.\n\n*A note.*\n", state="good")
    assert page.main["class"] == ["good"]
    assert [tag.get("class") for tag in page.find_all("strong")] == [None, ["good"]]
    assert page.em["class"] == ["note"]


def test_page_aligns_numbers():
    page = page_of("\n".join(table(("kind", "rows"), [("a", 0.25)], right=(1,))))
    kind, count = page.find_all("td")
    assert "style" not in kind.attrs
    assert count["style"] == "text-align:right"
