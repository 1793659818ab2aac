"""Chemical elements and their symbols, from the npm package chemical-elements."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from tasks.data.checkable.kind import Item, Sources, bad_row, kind, word_list
from tasks.data.textfiles import read_text

SPELLINGS = {"Aluminium": "Aluminum", "Caesium": "Cesium", "Sulfur": "Sulphur"}
SPELLINGS |= {other: name for name, other in SPELLINGS.items()}
WELL_KNOWN = word_list(
    "H O C N He Fe Au Ag Cu Na K Ca Mg Al Si Cl S P Pb Sn Zn Hg Ni U Pt Ne I F Li Ti Cr Mn Co Ar B Br Ra Kr Be W Pu "
    "Xe As Ba Rn Cs Bi Cd Pd Sb Th Sr V Ga Ge Se Zr Mo Rb Po At Es Cm Fr Ir Y Ru Rh In"
)


def read_elements(path: Path) -> dict[str, str]:
    """Names by symbol, the best known first. Raises UserError for an element without one of the two."""
    names: dict[str, str] = {}
    entries = re.split(r"^    \{$", read_text(path), flags=re.MULTILINE)
    row = 1
    for before, entry in pairwise(entries):
        row += before.count("\n")
        symbol, name = (re.search(rf"^\s+{key}: '(\w+)',$", entry, re.MULTILINE) for key in ("symbol", "name"))
        if not symbol or not name:
            raise bad_row(path, row, "an element without symbol and name")
        names[symbol[1]] = name[1]
    if not names:
        raise bad_row(path, 1, "no elements")
    return {symbol: names[symbol] for symbol in WELL_KNOWN if symbol in names}


@kind(
    "What is the chemical symbol of {name}?",
    "Give the symbol of the chemical element.\n{name}",
    "symbol for {name}",
    "How is {name} written in the periodic table?",
    "Please tell me the chemical symbol for this element: {name}",
    "Which letters stand for {name} in chemistry?",
    "Which abbreviation do chemists use for {name}?",
    "{name}: chemical symbol?",
    "I need the symbol of {name} for my chemistry homework.",
    "Write the short form of the element as chemists do.\n{name}",
    "Could you give me the letters for {name} on the periodic table?",
    "Turn the element into its symbol.\n{name}",
    "If I want to write {name} in a formula, which symbol do I use?",
    "Name the symbol of {name}.",
    "What symbol does the element {name} have?",
    needs=["chemical-elements"],
    told=["The chemical symbol for {name} is {answer}.", "The symbol for {name} is {answer}."],
)
def element_symbol(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The symbol of an element."""
    for symbol, name in sources.read(read_elements, "chemical-elements").items():
        yield Item(name, symbol, {"name": name.lower()}, group=f"element: {symbol}")


@kind(
    "Which element has the symbol {symbol}?",
    "Name the chemical element.\n{symbol}",
    "element with symbol {symbol}",
    "What does {symbol} stand for in the periodic table?",
    "Please tell me which element is written as {symbol}.",
    "{symbol} is the symbol of which chemical element?",
    "Which element do chemists write as {symbol}?",
    "{symbol}: which element?",
    "I see {symbol} on the periodic table. What is it called?",
    "Write out the full name of this element.\n{symbol}",
    "Translate the chemical symbol into a word: {symbol}",
    "Could you tell me what {symbol} is short for in chemistry?",
    "Which substance hides behind the chemical symbol {symbol}?",
    "Give the name of the element with the symbol {symbol}.",
    "In chemistry, what element is {symbol}?",
    needs=["chemical-elements"],
    told=["{symbol} is the symbol for {lower}.", "{symbol} stands for {lower}."],
)
def element_of_symbol(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The element that has a symbol."""
    for symbol, name in sources.read(read_elements, "chemical-elements").items():
        also = [SPELLINGS[name]] if name in SPELLINGS else []
        yield Item(symbol, name, {"symbol": symbol}, also, f"element: {symbol}")
