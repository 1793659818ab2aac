"""What is known of countries: the npm package world-countries, mended where it is not what people say."""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import UserError
from tasks.data.checkable.kind import bad_row, word_list
from tasks.data.textfiles import parse_json, read_text

# The best known first, by the codes of ISO 3166; countries that are not named here are not asked about.
WELL_KNOWN = word_list(
    "FRA ITA DEU ESP GBR JPN CHN RUS USA CAN IND GRC EGY IRL PRT MEX BRA AUS ARG NLD BEL CHE AUT POL SWE NOR DNK FIN "
    "TUR KOR THA VNM IDN PHL SAU IRN IRQ ISR CUB PER CHL COL VEN NZL ZAF KEN NGA MAR UKR HUN CZE ROU BGR ISL PAK AFG "
    "PRK MYS NPL ETH GHA JAM DZA TUN SYR LBN JOR QAT KWT ARE ECU BOL URY PRY CRI PAN GTM HND HTI DOM SRB HRV ALB SVK "
    "SVN EST LVA LTU BLR GEO ARM AZE KAZ UZB MNG BGD LKA KHM LAO MMR SEN UGA TZA ZMB ZWE SDN SOM LBY AGO MOZ MDG NAM "
    "CMR CIV COD MLI NIC SLV CYP MLT LUX MCO VAT SGP OMN YEM BHR BIH MKD MNE MDA RWA BWA FJI PNG BHS BRB TTO GUY SUR "
    "BTN MDV MUS TCD NER BEN TGO GAB COG LBR SLE GIN GMB MWI ERI BFA MRT TJK KGZ TKM BRN BLZ LIE AND SMR SSD LSO DJI "
    "BDI"
)
WITH_ARTICLE = frozenset(word_list("ARE BHS CAF COG COD COM DOM GBR GMB MDV MHL NLD PHL SLB SYC USA"))
NAMES = {"TUR": "Turkey", "CZE": "the Czech Republic", "COD": "the Democratic Republic of the Congo"}
OTHER_NAMES = {
    "USA": "USA|the USA|US|United States of America|America",
    "GBR": "UK|the UK|Great Britain|Britain|England",
    "TUR": "Türkiye",
    "CZE": "Czechia",
    "MMR": "Burma",
    "CIV": "Côte d'Ivoire",
    "NLD": "Holland",
    "COD": "DR Congo|Congo",
    "COG": "Congo",
    "VAT": "Holy See|the Vatican|Vatican",
    "MKD": "Macedonia",
    "KOR": "Korea",
    "ARE": "UAE|the UAE",
    "BIH": "Bosnia",
}
OTHER_CAPITALS = {
    "BOL": "La Paz",
    "UKR": "Kiev",
    "MNG": "Ulaanbaatar",
    "USA": "Washington, D.C|Washington|Washington DC",
    "KAZ": "Nur-Sultan",
    "IND": "Delhi",
    "CHE": "Berne",
    "LUX": "Luxembourg City",
    "YEM": "Sanaa",
    "MMR": "Nay Pyi Taw|Naypyitaw",
    "MCO": "Monaco-Ville",
    "BDI": "Bujumbura",
    "SMR": "San Marino",
    "ROU": "Bucuresti",
    "GEO": "Tiflis",
}
DISPUTED_CAPITALS = frozenset(["ISR", "LKA"])  # or another one than the source has
# As people type them, without accents.
CURRENCIES = {
    "GBR": "pound",
    "ISR": "shekel",
    "BIH": "convertible mark",
    "UZB": "som",
    "VNM": "dong",
    "POL": "zloty",
    "ISL": "krona",
    "CRI": "colon",
    "NIC": "cordoba",
    "MNG": "tugrik",
    "PRY": "guarani",
}
OTHER_CURRENCIES = {
    "CHN": "renminbi|RMB",
    "GBR": "pound sterling|sterling",
    "ISR": "new shekel",
    "MKD": "Macedonian denar",
    "GEO": "Georgian lari",
    "GMB": "Gambian dalasi",
    "UZB": "sum",
    "USA": "US dollar|U.S. dollar|American dollar",
    "CZE": "crown",
    "ARE": "UAE dirham",
    "DNK": "crown",
    "NOR": "crown",
    "SWE": "crown",
    "PER": "nuevo sol",
    "BIH": "mark",
    "CHE": "franken",
}
# Several, lately changed, or about to.
DOUBTFUL_CURRENCIES = frozenset(word_list("ZWE CUB KHM SLV PAN ECU BTN HTI LSO NAM LBR BGR VEN"))
# Where several are official, the one that first comes to mind.
LANGUAGES = {
    "AUT": "German",
    "CHE": "German",
    "BEL": "Dutch",
    "CAN": "English",
    "FIN": "Finnish",
    "NOR": "Norwegian",
    "IRL": "English",
    "IND": "Hindi",
    "ISR": "Hebrew",
    "PAK": "Urdu",
    "KEN": "Swahili",
    "TZA": "Swahili",
    "KAZ": "Kazakh",
    "ARG": "Spanish",
    "PER": "Spanish",
    "BOL": "Spanish",
    "PRY": "Spanish",
    "NZL": "English",
    "ZAF": "English",
    "MDA": "Romanian",
    "IRN": "Persian",
    "IRQ": "Arabic",
    "MAR": "Arabic",
    "LBN": "Arabic",
    "PHL": "Filipino",
    "BLR": "Belarusian",
    "CZE": "Czech",
    "AZE": "Azerbaijani",
    "HTI": "Haitian Creole",
    "JAM": "English",
    "MYS": "Malay",
    "UZB": "Uzbek",
    "AFG": "Pashto",
    "UGA": "English",
    "LUX": "French",
}
OTHER_LANGUAGES = {
    "IRN": "Farsi",
    "CHN": "Mandarin|Mandarin Chinese",
    "AFG": "Dari|Persian",
    "PHL": "Tagalog|English",
    "MYS": "Malaysian",
    "MMR": "Myanmar",
    "BEL": "Flemish",
    "DZA": "Tamazight|Berber",
    "IRL": "Gaelic",
    "SVN": "Slovenian",
    "ESP": "Castilian",
    "KHM": "Cambodian",
    "LKA": "Sinhalese",
    "KAZ": "Russian",
    "ETH": "Oromo",
    "USA": "American English",
    "ISR": "Arabic",
    "BGD": "Bangla",
    "IND": "English",
    "MKD": "Albanian",
}
OTHER_OFFICIAL = frozenset(["PHL", "AFG", "KAZ", "ETH", "DZA", "IND", "MKD"])  # beside the one that the source names
# Of which the source names languages that are none of the official ones.
ONE_LANGUAGE = frozenset(["AZE", "UZB", "CZE", "JAM", "IND"])
DOUBTFUL_LANGUAGES = frozenset(word_list("MLI BFA NER GAB SSD ZMB BGD MNE BIH SLE"))
CONTINENTS = {"Caribbean": "North America", "Central America": "North America"}
OTHER_CONTINENTS = {
    "RUS": "Asia",
    "TUR": "Europe",
    "EGY": "Asia",
    "KAZ": "Europe",
    "GEO": "Europe",
    "ARM": "Europe",
    "AZE": "Europe",
    "CYP": "Asia",
    "IDN": "Oceania",
    "AUS": "Australia",
    "NZL": "Australia",
    "PNG": "Asia",
    "TTO": "South America",
    "YEM": "Africa",
}
NATIONALITIES = {
    "ISL": "Icelandic",
    "PAK": "Pakistani",
    "SAU": "Saudi",
    "KGZ": "Kyrgyz",
    "TJK": "Tajik",
    "SUR": "Surinamese",
}
NATIONALITIES |= {"ECU": "Ecuadorian", "KAZ": "Kazakh", "UZB": "Uzbek", "LUX": "Luxembourgish", "BWA": "Botswanan"}
NATIONALITIES |= {"BIH": "Bosnian", "ARG": "Argentinian", "LIE": "Liechtenstein"}
OTHER_NATIONALITIES = {
    "ESP": "Spaniard",
    "DNK": "Dane",
    "SWE": "Swede",
    "FIN": "Finn",
    "POL": "Pole",
    "TUR": "Turk",
    "NLD": "Dutchman",
    "GBR": "Briton|Brit",
    "IRL": "Irishman",
    "FRA": "Frenchman",
    "SRB": "Serb",
    "HRV": "Croat",
    "ARG": "Argentine",
    "NPL": "Nepali",
    "KOR": "Korean",
    "PRK": "Korean",
    "USA": "US-American",
    "LAO": "Lao",
    "SVN": "Slovene|Slovenian",
    "SVK": "Slovak|Slovakian",
    "SOM": "Somalian",
    "NZL": "Kiwi",
    "CZE": "Czech",
    "COD": "Congolese",
    "ARE": "Emirian",
    "LUX": "Luxembourger",
    "GEO": "Georgian",
    "AUS": "Aussie",
}
DOUBTFUL_NATIONALITIES = frozenset(word_list("VAT DJI LSO CPV LIE AND MCO SMR BFA MDV"))
ISLANDS = frozenset(["LKA"])  # the source takes a sandbank for a border


class Country(NamedTuple):
    """What is known of a country; of each list the first is the answer to learn, and all are right."""

    name: str
    """As in a sentence: the Netherlands."""
    names: list[str]
    """Without its article first."""
    capitals: list[str]
    currencies: list[str]
    languages: list[str]
    continents: list[str]
    nationalities: list[str]
    neighbours: list[str]
    group: str
    has_one_language: bool
    """Whether no other one is official beside the first of its languages."""


def _listed(table: dict[str, str], code: str) -> list[str]:
    """What a table adds for a country."""
    return table[code].split("|") if code in table else []


def _plain(texts: list[str]) -> list[str]:
    """Each text once, and without its accents, as people type it."""
    bare = [unicodedata.normalize("NFKD", text.replace("ł", "l").replace("đ", "d")) for text in texts]
    return list(dict.fromkeys([*texts, *("".join(c for c in text if not unicodedata.combining(c)) for text in bare)]))


def _country(code: str, entry: dict[str, Any], names: dict[str, list[str]], group: str) -> Country:
    spoken = {
        language.removeprefix("Swiss ").removeprefix("Austro-Bavarian ") for language in entry["languages"].values()
    }
    languages = [LANGUAGES[code]] if code in LANGUAGES else []
    if code not in ONE_LANGUAGE and (len(spoken) == 1 or languages):
        languages += sorted(name.partition(" (")[0] for name in spoken)
    currencies = [CURRENCIES[code]] if code in CURRENCIES else []
    for key in sorted(entry["currencies"] or {}):
        full = entry["currencies"][key]["name"].replace("Euro", "euro")
        currencies += [full.split()[-1], full]
    demonym = entry["demonyms"]["eng"]
    nationalities = [NATIONALITIES[code]] if code in NATIONALITIES else []
    continent = CONTINENTS.get(
        entry["subregion"], entry["subregion"] if entry["region"] == "Americas" else entry["region"]
    )
    central = [entry["subregion"]] if entry["subregion"] in CONTINENTS else []
    americas = ["America", "the Americas"] if entry["region"] == "Americas" else []
    return Country(
        name=names[code][1],
        names=_plain(names[code]),
        capitals=[] if code in DISPUTED_CAPITALS else _plain([*entry["capital"], *_listed(OTHER_CAPITALS, code)]),
        currencies=[] if code in DOUBTFUL_CURRENCIES else _plain([*currencies, *_listed(OTHER_CURRENCIES, code)]),
        languages=[]
        if code in DOUBTFUL_LANGUAGES or not languages
        else _plain([*languages, *_listed(OTHER_LANGUAGES, code)]),
        continents=[continent, *_listed(OTHER_CONTINENTS, code), *central, *americas],
        nationalities=[]
        if code in DOUBTFUL_NATIONALITIES
        else _plain([*nationalities, demonym["m"], demonym["f"], *_listed(OTHER_NATIONALITIES, code)]),
        neighbours=[] if code in ISLANDS else [n for border in entry["borders"] for n in names.get(border, ())],
        group=group,
        has_one_language=code not in OTHER_OFFICIAL and (len(spoken) == 1 or code in ONE_LANGUAGE),
    )


def read_countries(path: Path) -> list[Country]:
    """The well-known countries, the best known first. Raises UserError naming file and entry for what it can't read."""
    content = parse_json(read_text(path), path)
    if not isinstance(content, list):
        raise UserError(f"{path}: not a list of countries")
    entries: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    for row, entry in enumerate(content, 1):
        try:
            code, name = entry["cca3"], entry["name"]["common"]
        except (KeyError, TypeError):
            raise bad_row(path, row, "a country without cca3 and name") from None
        entries[code] = entry
        spoken = NAMES.get(code, f"the {name}" if code in WITH_ARTICLE else name)
        names[code] = [spoken.removeprefix("the "), spoken, name, *_listed(OTHER_NAMES, code)]
    known = [code for code in WELL_KNOWN if code in entries]
    countries = []
    for number, code in enumerate(known):
        # Two neighbours in fame are one group: a conversation asks about one after the other.
        group = f"country: {known[number - number % 2]}"
        try:
            countries.append(_country(code, entries[code], names, group))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise bad_row(path, content.index(entries[code]) + 1, f"{code}: no {error}") from None
    return countries
