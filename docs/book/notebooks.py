"""Write the chapters of the book as notebooks into notebooks/: `make notebooks`.

A block of examples becomes a cell without prompts and results, and an exercise becomes a cell. A notebook that exists
stays as it is, for it may hold your answers.
"""

import doctest
import json
import os
import re
from pathlib import Path
from typing import Any

BOOK = Path(__file__).parent
FOLDER = BOOK.parent.parent / "notebooks"
PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
FIRST = """\
import os
from pathlib import Path

folders = [Path.cwd(), *Path.cwd().parents]
os.chdir(next(folder for folder in folders if (folder / "dvc.yaml").exists()))  # the project's root
get_ipython().ast_node_interactivity = "all"  # a cell shows each of its results
"""


def code_of(block: str) -> str:
    """A block's code: of examples without prompts and results."""
    examples = doctest.DocTestParser().get_examples(block)
    return "".join(example.source for example in examples) or block


def from_folder(link: re.Match[str]) -> str:
    """A link as it is seen from FOLDER; one to a chapter leads to its notebook."""
    path = BOOK / link[0]
    return f"{path.stem}.ipynb" if path.match("book/[0-9]-*.md") else os.path.relpath(path, FOLDER)


def code_cell(source: str) -> dict[str, Any]:
    """A cell to run. An exercise that is not solved yet does not stop `Run All`."""
    metadata = {"tags": ["raises-exception"]} if "\ncheck(" in source else {}
    return {"cell_type": "code", "metadata": metadata, "source": source.strip(), "execution_count": None, "outputs": []}


def notebook(chapter: str) -> dict[str, Any]:
    """The notebook of a chapter's Markdown."""
    cells = [code_cell(FIRST)]
    for number, part in enumerate(PYTHON.split(chapter)):  # prose and blocks by turns
        if number % 2:
            cells.append(code_cell(code_of(part)))
        elif part.strip():
            cells.append({"cell_type": "markdown", "metadata": {}, "source": LINK.sub(from_folder, part).strip()})
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for chapter in sorted(BOOK.glob("[0-9]-*.md")):
        path = FOLDER / f"{chapter.stem}.ipynb"
        if path.exists():
            print(f"notebooks/{path.name} stays as it is; remove it to have it written again")
        else:
            path.write_text(json.dumps(notebook(chapter.read_text()), indent=1))
