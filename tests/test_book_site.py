"""The chapters of the book become notebooks, and the documentation a site that loads nothing from elsewhere."""

import functools
import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Route

from docs import build_site
from docs.book.notebooks import CHAPTERS, FOLDER, LINK, notebook
from docs.build_site import SITE, loads_from_elsewhere


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_notebook_has_a_cell_for_each_block_of_its_chapter(chapter):
    text = chapter.read_text()
    cells = notebook(text)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 1 + text.count("\n```python\n")
    for source in code:
        assert ">>> " not in source
        compile(source, chapter.name, "exec")
    prose = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    notebooks = {f"{path.stem}.ipynb" for path in CHAPTERS}
    dead = [
        target for target in LINK.findall(prose) if target not in notebooks and not (FOLDER / target).resolve().exists()
    ]
    assert dead == []


def test_site_that_loads_from_elsewhere_is_reported(tmp_path):
    page = '<a href="https://a.example">a</a><link rel="stylesheet" href="own.css"><img src="own.png">'
    (tmp_path / "own.html").write_text(page)
    assert loads_from_elsewhere(tmp_path) == {}
    script = '<script async src="https://b.example/x.js">'
    (tmp_path / "other.html").write_text(f"{page}{script}</script>")
    (tmp_path / "own.css").write_text("@import url(https://c.example/font.css);")
    assert set(loads_from_elsewhere(tmp_path)) == {script, "url(https://c.example/font.css)"}


@pytest.fixture
def address() -> Iterator[str]:
    """Where the site that `make site` builds is served."""
    if not (SITE / "index.html").exists():
        build_site.main()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_of_the_site_draw_their_diagrams_with_no_other_server(browser, address):
    elsewhere: list[str] = []

    def refuse(route: Route) -> None:
        elsewhere.append(route.request.url)
        route.abort()

    page = browser.new_page()
    page.route(lambda url: not url.startswith(address), refuse)
    page.goto(f"{address}/index.html")
    page.wait_for_selector("div.mermaid")  # what a `pre` becomes as soon as it is drawn
    page.close()
    assert elsewhere == []
