"""Facts of countries: the npm package world-countries, with the corrections of data/instructions/countries.yaml."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from llm.config import Config
from llm.errors import UserError
from tasks.data.instructions.choose import Lists, Sources, Values, table
from tasks.data.instructions.fill import an
from tasks.data.instructions.wordnet import bad_row
from tasks.data.textfiles import parse_json, read_text

Column = Literal["names", "capitals", "currencies", "languages", "continents", "nationalities", "neighbours"]


class Correction(Config):
    """What to say of a country where the package says something else than people do."""

    name: str = ""
    """Its name as in a sentence."""
    with_article: bool = False
    """Whether people say `the` before it."""
    learn: dict[Column, str] = {}
    """The answer to learn instead of the package's first."""
    also: dict[Column, list[str]] = {}
    """Other right answers."""
    never_ask: list[Column] = []
    """Facts that people argue about, or that are no longer true."""
    ignore: list[Literal["languages"]] = []
    """Columns of the package that are wrong."""
    official_languages: Literal["", "one", "several"] = ""
    """If the package counts wrong."""
    only_as_neighbour: bool = False
    """A country that nobody is asked about."""
    last_neighbour: bool = False
    """A country with so many neighbours that few people would name it first."""


def _plain(texts: Iterable[str]) -> list[str]:
    """Each text once, and without its accents, as people type it."""
    texts = list(texts)
    bare = [unicodedata.normalize("NFKD", text.replace("ł", "l").replace("đ", "d")) for text in texts]
    return list(dict.fromkeys([*texts, *("".join(c for c in text if not unicodedata.combining(c)) for text in bare)]))


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """The package's countries by code."""
    content = parse_json(read_text(path), path)
    if not isinstance(content, list):
        raise UserError(f"{path}: not a list of countries")
    entries = {}
    for row, entry in enumerate(content, 1):
        try:
            entries[entry["cca3"]] = entry | {"row": row, "common": entry["name"]["common"]}
        except (KeyError, TypeError):
            raise bad_row(path, row, "a country without cca3 and name") from None
    return entries


def _country(code: str, entry: dict[str, Any], correction: Correction, lists: Lists) -> Values:
    """The facts of a country; of each column with several the first is the answer to learn, and all are right."""
    spoken = {name.removeprefix("Swiss ").removeprefix("Austro-Bavarian ") for name in entry["languages"].values()}
    learn = correction.learn
    languages = [learn["languages"]] if "languages" in learn else []
    if "languages" not in correction.ignore and (len(spoken) == 1 or languages):
        languages += sorted(name.partition(" (")[0] for name in spoken)
    currencies = [learn["currencies"]] if "currencies" in learn else []
    for key in sorted(entry["currencies"] or {}):
        full = entry["currencies"][key]["name"].replace("Euro", "euro")
        currencies += [full.split()[-1], full]
    demonym, region, subregion = entry["demonyms"]["eng"], entry["region"], entry["subregion"]
    nationalities = [learn["nationalities"]] if "nationalities" in learn else []
    of_subregion = lists["continent_of_subregion"]
    continent = of_subregion.get(subregion, subregion if region == "Americas" else region)
    facts = {
        "capitals": entry["capital"],
        "currencies": currencies,
        "languages": languages,
        "continents": [continent],
        "nationalities": [*nationalities, demonym["m"], demonym["f"]],
    }
    for column, right in facts.items():
        also = correction.also.get(column, []) if right else []
        facts[column] = [] if column in correction.never_ask else _plain([*right, *also])
    facts["continents"] += [subregion] if subregion in of_subregion else []
    facts["continents"] += ["America", "the Americas"] if region == "Americas" else []
    official = correction.official_languages or ("one" if len(spoken) == 1 else "several")
    return facts | {"the_language": "The" if official == "one" else "An", "borders": entry["borders"]}


def read_countries(path: Path, lists: Lists) -> list[Values]:
    """The countries of the list `countries`, in its order. Raises UserError naming file and entry that it can't read."""
    entries = _entries(path)
    try:
        corrections = {code: Correction.model_validate(given or {}) for code, given in lists["countries"].items()}
    except ValidationError as error:
        raise UserError(f"the list `countries`: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
    names = {}
    for code, entry in entries.items():
        correction = corrections.get(code, Correction())
        name = correction.name or ("the " if correction.with_article else "") + entry["common"]
        names[code] = [name.removeprefix("the "), name, entry["common"], *correction.also.get("names", [])]
    rows = []
    known = [code for code in corrections if code in entries and not corrections[code].only_as_neighbour]
    for number, code in enumerate(known):
        try:
            row = _country(code, entries[code], corrections[code], lists)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise bad_row(path, entries[code]["row"], f"{code}: no {error}") from None
        row |= {"country": names[code][1], "names": _plain(names[code]), "name": names[code][0]}
        # Two neighbours in fame are one group: a conversation asks about one after the other.
        rows.append(row | {"group": f"country: {known[number - number % 2]}"})
    fame = {name: n for n, row in enumerate(rows) for name in row["names"]}
    last = {name for code in known if corrections[code].last_neighbour for name in names[code]}
    for code, row in zip(known, rows, strict=True):
        found = [] if "neighbours" in corrections[code].never_ask else row.pop("borders")
        row["neighbours"] = [name for border in found for name in names.get(border, ())]
        best = sorted((name for name in row["neighbours"] if name in fame), key=lambda name: (name in last, fame[name]))
        row["neighbours"] = [rows[fame[best[0]]]["country"], *row["neighbours"]] if best else []
        # Nobody asks for a capital that the country's name gives away, as Mexico's.
        told = row["capitals"][:1]
        is_given_away = told and (told[0] in row["names"] or row["name"] in told[0])
        row["unknown_capitals"] = [] if is_given_away else row["capitals"]
        people = [text for text in row["nationalities"] if "," not in text and " or " not in text]
        row["nationalities"] = people
        row["people"] = [f"{text}s" for text in people if not text.endswith(("s", "sh", "ch", "se", "man"))]
        row["persons"] = [an(text) for text in people]
    return rows


@table("world-countries")
def countries(generator: object, lists: Lists, sources: Sources) -> Iterator[Values]:
    """What is known of each country, the best known first."""
    yield from read_countries(sources.paths["world-countries"], lists)


@table("world-countries")
def pairs_of_countries(generator: object, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Each country whose capital can be asked for after that of the other one of its group: `first`, `first_capital`."""
    groups: dict[str, list[Values]] = {}
    for row in read_countries(sources.paths["world-countries"], lists):
        if row["unknown_capitals"]:
            groups.setdefault(row["group"], []).append(row)
    for one, two in (pair for pair in groups.values() if len(pair) == 2):
        for first, second in ((one, two), (two, one)):
            yield second | {"first": first["country"], "first_capital": first["unknown_capitals"][0]}
