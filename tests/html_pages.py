"""Parts of an HTML page, for tests that read one as a person does."""

from pathlib import Path

from bs4 import BeautifulSoup, Tag

HOSTILE = (
    "<script>alert(1)</script> | a ![x](https://example.com/x.png) [click](https://example.com) <https://example.com> "
    "`code` **bold** &lt;b&gt; \\| # c <img src=x onerror=alert(1)>"
)
"""Text that would run code, load a picture, or change a page if it were not escaped."""


def read_page(path: Path) -> BeautifulSoup:
    """The page in a file."""
    return BeautifulSoup(path.read_text(), "lxml")


def text(tag: Tag) -> str:
    """The text of an element, on one line."""
    return " ".join(tag.get_text(" ").split())


def titles(page: BeautifulSoup) -> list[str]:
    """The headings of its sections."""
    return [text(heading) for heading in page.find_all("h2")]


def section(page: BeautifulSoup, title: str) -> BeautifulSoup:
    """Everything between a heading and the next one."""
    heading = next(heading for heading in page.find_all("h2") if text(heading) == title)
    inside = []
    for element in heading.find_next_siblings():
        if element.name == "h2":
            break
        inside.append(str(element))
    return BeautifulSoup("".join(inside), "lxml")


def cells(row: Tag) -> list[str]:
    """The texts of a row's cells."""
    return [text(cell) for cell in row.find_all("td")]


def rows(part: BeautifulSoup) -> list[list[str]]:
    """The cells of each row of its tables, without their heads."""
    return [cells(row) for row in part.select("tr") if row.td]


def is_harmless(page: BeautifulSoup) -> bool:
    """Whether a page runs no code, and loads or links nothing but pictures that it holds itself."""
    tags = page.find_all(True)
    addresses = [tag.get("src") or tag.get("href") for tag in tags if tag.get("src") or tag.get("href")]
    attributes = [name for tag in tags for name in tag.attrs]
    return (
        not page.find_all(["script", "iframe", "link"])
        and all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
        and not any(name.startswith("on") for name in attributes)
    )
