"""Write the chapters of the book as notebooks into notebooks/: `make notebooks`.

Each block of code becomes a cell. A notebook that exists stays as it is, for it may hold your answers.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

BOOK = Path(__file__).parent
CHAPTERS = sorted(BOOK.glob("[0-9a-z]-*.md"))
FOLDER = BOOK.parent.parent / "notebooks"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
FIRST = """\
import os
from pathlib import Path

folders = [Path.cwd(), *Path.cwd().parents]
os.chdir(next(folder for folder in folders if (folder / "dvc.yaml").exists()))  # the project's root
"""


class Block(NamedTuple):
    """A block of a chapter's code, and the result that is shown below it."""

    code: str
    result: str


def blocks(chapter: str) -> list[Block]:
    """The blocks of a chapter's Markdown."""
    return [Block(match[1], match[2] or "") for match in BLOCK.finditer(chapter)]


def from_folder(link: re.Match[str]) -> str:
    """A link as it is seen from FOLDER; one to a chapter leads to its notebook."""
    path = BOOK / link[0]
    return f"{path.stem}.ipynb" if path in CHAPTERS else os.path.relpath(path, FOLDER)


def text_cell(text: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": LINK.sub(from_folder, text).strip()}


def code_cell(source: str) -> dict[str, Any]:
    """A cell to run. An exercise that is not solved yet does not stop `Run All`."""
    metadata = {"tags": ["raises-exception"]} if "\ncheck(" in source else {}
    return {"cell_type": "code", "metadata": metadata, "source": source.strip(), "execution_count": None, "outputs": []}


def notebook(chapter: str) -> dict[str, Any]:
    """The notebook of a chapter's Markdown; a result that is shown stays, to compare one's own with it."""
    cells = [code_cell(FIRST)]
    end = 0
    for match in BLOCK.finditer(chapter):
        cells += [text_cell(chapter[end : match.start()]), code_cell(match[1])]
        end = match.end(1) + len("```\n")
    cells.append(text_cell(chapter[end:]))
    cells = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for chapter in CHAPTERS:
        path = FOLDER / f"{chapter.stem}.ipynb"
        if path.exists():
            print(f"notebooks/{path.name} stays as it is; remove it to have it written again")
        else:
            path.write_text(json.dumps(notebook(chapter.read_text()), indent=1))
