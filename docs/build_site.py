"""Build the site of the documentation into site/: `make site`.

zensical.toml lists the pages. They are copied to .site/pages under the paths that they have here, with all that they
link to: a source file becomes a page that shows it, and a folder becomes a page that lists its files. The build fails
if a link is dead, or if a browser would have to load a part of a page from elsewhere.
"""

import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zensical

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from llm.errors import UserError  # noqa: E402
from tasks.data.sources import Source, write_source  # noqa: E402

PAGES = ROOT / ".site/pages"
SITE = ROOT / "site"
MERMAID = Source(
    source="npm:@mermaid-js/tiny@12.0.0",
    sha256="94f4bea4d69ae2766d6d29cd3321c9ed6be8c640852c57ef89d4f9999ada9783",
    name="mermaid",
)
"""What draws the diagrams. Without it, the theme would load it from elsewhere when a page is opened."""
STYLE = """\
.md-grid { max-width: 84rem }
@media screen and (max-width: 90rem) { .md-sidebar--secondary:not([hidden]) { display: none } }
"""  # so that the lines of the book's code fit
CODE_OR_LINK = re.compile(r"^```.*?^```|`[^`\n]*`|(?<=\]\()[^)\s#]+", re.MULTILINE | re.DOTALL)
IMAGES = (".png", ".svg")
SHOWN = """\
---
title: {name}
hide: [navigation, toc]
search: {{exclude: true}}
---

# {name}

{text}
"""
LOAD = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>|url\(["']?http[^)]*\)"""
)
"""A part of a page or of a style sheet that a browser would load from elsewhere."""


def paths_in(navigation: Any) -> Iterator[str]:
    """The paths in the navigation of zensical.toml."""
    if isinstance(navigation, str):
        yield navigation
    else:
        entries = navigation.values() if isinstance(navigation, dict) else navigation
        for entry in entries:
            yield from paths_in(entry)


def page_of(path: Path) -> Path:
    """The page that shows a file or a folder of the project, below PAGES. An image is copied as it is."""
    if path.is_dir():
        path = path / "README.md" if (path / "README.md").exists() else path / "index.md"
    elif path.suffix not in (".md", *IMAGES):
        path = path.with_name(f"{path.name}.md")
    parts = [part.lstrip(".") for part in path.relative_to(ROOT).parts]  # hidden folders are left out of a site
    return PAGES.joinpath(*parts)


def markdown(path: Path) -> str:
    """The Markdown that shows a file or a folder of the project."""
    if path.suffix == ".md":
        return path.read_text()
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return SHOWN.format(name=f"{name}/", text="\n".join(f"- [{file}]({file})" for file in files))
    language = "c" if path.suffix == ".h" else path.suffix[1:]
    return SHOWN.format(name=name, text=f"``````{language}\n{path.read_text()}\n``````")


def copy(path: Path) -> list[Path]:
    """Copy a file, or the list of a folder's files, to its page, and return what it links to.

    Raises UserError for a dead link: zensical finds those to pages and headings alone.
    """
    page = page_of(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in IMAGES:
        shutil.copy(path, page)
        return []
    folder = path if path.is_dir() else path.parent
    linked: list[Path] = []

    def to_page(match: re.Match[str]) -> str:
        link = match[0]
        if link.startswith("`") or "://" in link:
            return link
        target = Path(os.path.normpath(folder / link))
        if not target.exists():
            raise UserError(f"{path.relative_to(ROOT)} links to {link}, which does not exist")
        linked.append(target)
        return os.path.relpath(page_of(target), page.parent)

    text = markdown(path)
    has_links = path.is_dir() or path.suffix == ".md"
    page.write_text(CODE_OR_LINK.sub(to_page, text) if has_links else text)
    return linked


def copy_pages() -> None:
    """Rebuild PAGES from the pages in the navigation and everything that they link to."""
    shutil.rmtree(PAGES, ignore_errors=True)
    navigation = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    waiting = [ROOT / path for path in paths_in(navigation)]
    copied: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in copied:
            copied.add(path)
            waiting += copy(path)
    (PAGES / "wide.css").write_text(STYLE)


def copy_mermaid() -> None:
    """Copy MERMAID to PAGES, fetched if no earlier build has."""
    package = PAGES.parent / f"mermaid-{MERMAID.sha256}"
    if not package.exists():
        with tempfile.TemporaryDirectory(dir=PAGES.parent) as folder:
            write_source(MERMAID, Path(folder))
            (Path(folder) / "mermaid").rename(package)
    shutil.copytree(package / "package", PAGES / "mermaid", ignore=shutil.ignore_patterns("*.md", "*.json"))


def loads_from_elsewhere(folder: Path) -> dict[str, Path]:
    """What the pages and style sheets of a site would load from elsewhere, each with one of its files."""
    loads: dict[str, Path] = {}
    for path in folder.rglob("*.*"):
        if path.suffix in (".html", ".css"):
            loads |= dict.fromkeys(LOAD.findall(path.read_text()), path)
    return loads


def main() -> None:
    """Copy the pages and build the site."""
    shutil.rmtree(SITE, ignore_errors=True)
    try:
        copy_pages()
        copy_mermaid()
        zensical.build(str(ROOT / "zensical.toml"), {"clean": True, "strict": True})
    except (UserError, RuntimeError) as error:  # zensical has said what is wrong
        sys.exit(str(error))
    if loads := loads_from_elsewhere(SITE):
        sys.exit("\n".join(f"{path}: a browser would load {load}" for load, path in loads.items()))


if __name__ == "__main__":
    main()
