"""Parts of an HTML page, for tests that read one as a person does."""

from bs4 import BeautifulSoup, Tag


def text(tag: Tag) -> str:
    """The text of an element, on one line."""
    return " ".join(tag.get_text(" ").split())


def section(page: BeautifulSoup, title: str) -> BeautifulSoup:
    """Everything between a heading and the next one."""
    heading = next(each for each in page.find_all("h2") if text(each) == title)
    inside = []
    for each in heading.find_next_siblings():
        if each.name == "h2":
            break
        inside.append(str(each))
    return BeautifulSoup("".join(inside), "lxml")


def rows(part: BeautifulSoup) -> list[list[str]]:
    """The cells of each row of its tables, without their heads."""
    return [[text(cell) for cell in row.find_all("td")] for row in part.select("tbody tr")]
