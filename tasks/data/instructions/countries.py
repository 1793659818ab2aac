"""Facts of countries: the npm package world-countries, with the corrections of the list `countries`."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llm.config import Config
from tasks.data.instructions.choose import Generator, Lists, Sources, Values
from tasks.data.textfiles import parse_json, read_text

Column = Literal["capitals", "currencies", "languages", "continents", "nationalities"]


class Correction(Config):
    """Corrections of the package for one country."""

    name: str = ""
    """Its name within a sentence."""
    with_article: bool = False
    """Whether people say `the` before it."""
    learn: dict[Column, str] = Field(default_factory=dict)
    """The answer to learn instead of the package's first."""
    also: dict[Column, list[str]] = Field(default_factory=dict)
    """Other right answers."""
    ignore: tuple[Column, ...] = ()
    """Columns of the package that are wrong."""
    never_ask: tuple[Column, ...] = ()
    """Facts that people argue about, or that are no longer true."""
    official_languages: Literal["", "one", "several"] = ""
    """Overrides how many official languages the package lists."""


def _plain(texts: list[str]) -> list[str]:
    """Each distinct text, and the same without accents, as people type it."""
    return list(dict.fromkeys([*texts, *map(_without_accents, texts)]))


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _country(entry: dict[str, Any], correction: Correction, of_subregion: dict[str, str]) -> Values:
    """The facts of a country. Every text in a column is a right answer, and the model learns the first."""
    spoken = {name.removeprefix("Swiss ").removeprefix("Austro-Bavarian ") for name in entry["languages"].values()}
    languages = sorted(name.partition(" (")[0] for name in spoken)
    if "languages" in correction.ignore or (len(languages) > 1 and "languages" not in correction.learn):
        languages.clear()  # with several, it is not clear which one to learn
    currencies = [money["name"].replace("Euro", "euro") for _, money in sorted((entry["currencies"] or {}).items())]
    demonym = entry["demonyms"]["eng"]
    region = entry["region"]
    subregion = entry["subregion"]
    is_american = region == "Americas"
    columns: dict[Column, list[str]] = {
        "capitals": entry["capital"],
        "currencies": [name.split()[-1] for name in currencies],
        "languages": languages,
        "continents": [of_subregion.get(subregion, subregion if is_american else region)],
        "nationalities": [demonym["m"], demonym["f"]],
    }
    facts = {column: _corrected(column, answers, correction) for column, answers in columns.items()}
    if subregion in of_subregion:
        facts["continents"].append(subregion)
    if is_american:
        facts["continents"] += ["America", "the Americas"]
    is_one = correction.official_languages == "one" or (not correction.official_languages and len(spoken) == 1)
    people = [text for text in facts["nationalities"] if "," not in text and " or " not in text]
    return facts | {
        "the_language": "The" if is_one else "An",
        "nationalities": people,
        "people": [f"{text}s" for text in people if not text.endswith(("s", "sh", "ch", "se", "man"))],
    }


def _corrected(column: Column, answers: list[str], correction: Correction) -> list[str]:
    """The right answers of a column, the one to learn first; none if it is never asked."""
    if column in correction.learn:
        answers = [correction.learn[column], *answers]
    if not answers or column in correction.never_ask:
        return []
    return _plain([*answers, *correction.also.get(column, [])])


def read_countries(path: Path, lists: Lists) -> list[Values]:
    """The listed countries, in that order. Raises ValueError, LookupError or TypeError for another format."""
    corrections = lists["countries"]
    entries = {entry["cca3"]: entry for entry in parse_json(read_text(path), path)}
    codes = [code for code in corrections if code in entries]
    rows: list[Values] = []
    for rank, code in enumerate(codes):
        correction = corrections[code]
        common = entries[code]["name"]["common"]
        name = correction.name or (f"the {common}" if correction.with_article else common)
        row = _country(entries[code], correction, lists["continent_of_subregion"])
        # Two countries of neighbouring rank share a group: their facts go to the same split.
        group = f"country: {codes[rank - rank % 2]}"
        rows.append(row | {"name": name.removeprefix("the "), "country": name, "group": group})
    return rows


def countries(generator: Generator, sources: Sources) -> Iterator[Values]:
    """The facts of each country, the best known country first."""
    yield from sources.read(read_countries, "world-countries")
