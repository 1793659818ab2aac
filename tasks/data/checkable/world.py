"""Questions about countries: capital, currency, language, continent, nationality, neighbour."""

import re
from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.countries import Country, read_countries
from tasks.data.checkable.kind import Item, Sources, kind, pick


def _countries(sources: Sources) -> list[Country]:
    return sources.read(read_countries, "world-countries")


def _about(country: Country, right: list[str], **more: str) -> Item:
    fields = {"country": country.name, "name": country.names[0], **more}
    return Item(country.names[0], right[0], fields, right, country.group)


def _has_capital(country: Country) -> bool:
    """Whether it has one, and its own name does not give that away, as Mexico City."""
    return (
        bool(country.capitals)
        and country.capitals[0] not in country.names
        and country.names[0] not in country.capitals[0]
    )


@kind(
    "What is the capital of {country}?",
    "Name the capital of the country.\n{name}",
    "capital of {country}?",
    "Which city is the capital of {country}?",
    "Please tell me the capital city of {country}.",
    "I would like to know the capital of this country: {name}",
    "{name}: capital?",
    "What is the capital city of this country?\n{name}",
    "I am learning capitals. What is that of {country}?",
    "Country: {name}. Capital:",
    "Could you name the capital of {country} for me?",
    "Do you know which city {country} has as its capital?",
    "Fill in: the capital of {country} is ___.",
    "Find the capital that belongs to the country.\n{name}",
    "Tell me what the capital of {country} is called.",
    "Give the capital city.\n{name}",
    needs=["world-countries"],
    told=["The capital of {country} is {answer}.", "The capital city of {country} is {answer}."],
)
def capital(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The capital of a country; where there are several, each is right.

    A sentence that begins with the capital is right, and not learned: after "The capital of" the base knows more of
    them, and of cities in other texts it would say what they are the capital of (benchmarks/LOG.md).
    """
    for country in _countries(sources):
        if _has_capital(country):
            also = [f"{capital} is the capital of {country.name}." for capital in country.capitals]
            yield _about(country, [*country.capitals, *also])


@kind(
    "{city} is the capital of which country?",
    "Of which country is {city} the capital?",
    "Name the country that has this capital.\n{city}",
    "which country's capital is {city}",
    "Which country has {city} as its capital?",
    "Please tell me what country this is the capital of: {city}",
    "{city}: capital of which country?",
    "Capital: {city}. Country:",
    "{city} is a capital. To which country does it belong?",
    "I am flying to the capital {city}. In which country is that?",
    "Match this capital with its country.\n{city}",
    "Could you say which country this is the capital city of? {city}",
    "Fill in: {city} is the capital of ___.",
    "What country is {city} the capital of?",
    "Give the country whose capital is {city}.",
    needs=["world-countries"],
    told=["{city} is the capital of {answer}."],
)
def country_of_capital(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The country that a city is the capital of."""
    for country in _countries(sources):
        if _has_capital(country):
            yield _about(country, [country.name, *country.names], city=country.capitals[0])


@kind(
    "What is the currency of {country}?",
    "Name the currency of the country.\n{name}",
    "currency of {country}?",
    "What money do people pay with in {country}?",
    "Which currency is used in {country}?",
    "Please tell me the currency of this country: {name}",
    "{name}: currency?",
    "I am travelling to {country}. What money do they have there?",
    "Which is the national currency of {country}?",
    "Country: {name}. Currency:",
    "With what currency do I pay in a shop there?\n{name}",
    "Tell me which currency they have in {country}.",
    "Could you name the money that {country} uses?",
    "In {country}, which currency do you need?",
    "What is the money of {country} called?",
    needs=["world-countries"],
    told=["The currency of {country} is the {answer}."],
)
def currency(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The money of a country, with or without the country's adjective."""
    for country in _countries(sources):
        if country.currencies:
            yield _about(country, country.currencies)


@kind(
    "What is an official language of {country}?",
    "Name an official language of the country.\n{name}",
    "official language of {country}?",
    "Which language is official in {country}?",
    "Please tell me the official language of {country}.",
    "What language do the authorities of {country} use?",
    "{name}: official language?",
    "Which official language does {country} have?",
    "I am writing to an office in {country}. Which language is official there?",
    "Country: {name}. Official language:",
    "Could you tell me one official language of {country}?",
    "Which language has official status there?\n{name}",
    "What is the language of the state in {country}?",
    "In which language are the laws of {country} written?",
    "Give an official language of {country}.",
    needs=["world-countries"],
    told=["{article} official language of {country} is {answer}."],
)
def official_language(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """An official language of a country; where there are several, each is right."""
    for country in _countries(sources):
        if country.languages:
            article = "The" if country.has_one_language else "An"
            also = [f"An official language of {country.name} is {language}." for language in country.languages]
            yield _about(country, [*country.languages, *also], article=article)


@kind(
    "On which continent is {country}?",
    "Name the continent of the country.\n{name}",
    "continent of {country}?",
    "Where is {country}? Name the continent.",
    "Which continent does {country} belong to?",
    "Please tell me the continent where this country lies: {name}",
    "{name}: continent?",
    "Country: {name}. Continent:",
    "On what continent do I find {country}?",
    "I am looking for {country} on the globe. On which continent should I look?",
    "Say to which continent this country belongs.\n{name}",
    "Could you place {country} on a continent?",
    "Find the right continent: {name}",
    "In what part of the world is {country}? Answer with the continent.",
    "What continent is {country} on?",
    needs=["world-countries"],
    told=["{country} is in {answer}.", "{country} lies in {answer}."],
)
def continent(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The continent of a country."""
    for country in _countries(sources):
        yield _about(country, country.continents)


@kind(
    "What do you call a person from {country}?",
    "What nationality are people from {country}?",
    "nationality of someone from {country}",
    "Give the adjective that goes with the country.\n{name}",
    "My friend was born in {country}. What nationality is she?",
    "Please tell me the nationality that belongs to this country: {name}",
    "{name}: nationality?",
    "Country: {name}. Nationality:",
    "He comes from {country}, so he is what?",
    "I met a woman from {country}. What is her nationality?",
    "Turn the country into a nationality.\n{name}",
    "Which word describes someone who comes from here?\n{name}",
    "Could you tell me the nationality of somebody from {country}?",
    "Someone with a passport of {country} is of what nationality?",
    "Name the nationality.\n{name}",
    needs=["world-countries"],
    told=["People from {country} are {answer}."],
)
def nationality(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """What people of a country are called."""
    for country in _countries(sources):
        right = [text for text in country.nationalities if "," not in text and " or " not in text]
        if right:
            article = [f"{'an' if re.match('[AEIO]|Uz', text) else 'a'} {text}" for text in right]
            plural = [f"{text}s" for text in right if not re.search(r"(s|sh|ch|se|man)$", text)]
            yield _about(country, [*right, *plural, *article])


@kind(
    "Name a country that borders {country}.",
    "Which country is a neighbour of {country}?",
    "a neighbouring country of {country}",
    "Give one neighbour of the country.\n{name}",
    "Tell me a country next to {country}.",
    "Please name any country that shares a border with {country}.",
    "{name}: one neighbouring country?",
    "Country: {name}. A neighbour:",
    "If I cross the border of {country}, in which country might I be?",
    "Mention one of the countries around {country}.",
    "I want the name of one country that touches {country}.",
    "Give any country that is adjacent to this one.\n{name}",
    "Could you tell me one neighbour of {country}?",
    "What is a country with a border to {country}?",
    "Say one country that lies next to this one.\n{name}",
    needs=["world-countries"],
    told=["A neighbour of {country} is {answer}.", "{country} borders {answer}."],
)
def neighbour(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Any country that shares a border; the best known is the one to learn."""
    countries = _countries(sources)
    fame = {name: place for place, country in enumerate(countries) for name in country.names}
    in_a_sentence = {name: country.name for country in countries for name in country.names}
    for country in countries:
        # Russia and China have so many neighbours that few people would name them first.
        named = [name for name in country.neighbours if name in fame]
        known = sorted(named, key=lambda name: (name in ("Russia", "China"), fame[name]))
        if known:
            yield _about(country, [in_a_sentence[known[0]], *country.neighbours])


@kind(
    "And of {country}?",
    "And the capital of {country}?",
    "What about {country}?",
    "Now for {country}.",
    "And {country}?",
    "The same for {country}, please.",
    "{name}?",
    "Next: {name}",
    "Good. Now {country}.",
    "And that of {country}?",
    "Thanks, and {country}?",
    "Then the capital of {country}, please.",
    "Do {country} next.",
    "How about {country}?",
    "And what is it for {country}?",
    needs=["world-countries"],
)
def capital_of_another(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The capital of a second country, asked for in few words after a first one."""
    countries = [country for country in _countries(sources) if _has_capital(country)]
    groups: dict[str, list[Country]] = {}
    for country in countries:
        groups.setdefault(country.group, []).append(country)
    for one, two in (pair for pair in groups.values() if len(pair) == 2):
        for first, second in ((one, two), (two, one)):
            asked = pick(generator, ["What is the capital of {}?", "capital of {}?", "Name the capital of {}."])
            history = [asked.format(first.name), first.capitals[0]]
            yield _about(second, second.capitals)._replace(history=history)
