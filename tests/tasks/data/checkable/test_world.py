"""Countries and elements, on slices of the real sources."""

import json

import pytest

from llm.errors import UserError
from tasks.data.checkable import kinds
from tasks.data.checkable.countries import read_countries
from tasks.data.checkable.elements import read_elements


def answers(sources, name):
    kind = kinds()[name]
    return {item.asked: kind.answers(item) for item in kind.items(sources, seed=1, rows=500)}


def test_every_capital_counts_and_none_that_the_name_gives_away_is_asked(sources):
    found = answers(sources, "capital")
    assert found["France"] == ["Paris", "Paris is the capital of France."]
    assert found["United States"][:4] == ["Washington D.C.", "Washington, D.C", "Washington", "Washington DC"]
    assert found["Brazil"][:2] == ["Brasília", "Brasilia"]
    assert "Mexico" not in found


def test_the_best_known_countries_come_first_and_are_named_as_people_name_them(sources):
    kind = kinds()["capital"]
    first = kind.items(sources, seed=1, rows=3)
    assert [item.asked for item in first] == ["France", "Italy", "Germany"]
    britain = next(item for item in kind.items(sources, seed=1, rows=99) if item.asked == "United Kingdom")
    assert kind.put(britain, "train", 0) == ("What is the capital of the United Kingdom?", "")
    assert kind.put(britain, "test", 2) == ("Give the capital city.", "United Kingdom")


def test_money_counts_with_and_without_its_country(sources):
    found = answers(sources, "currency")
    assert found["Japan"] == ["yen", "Japanese yen"]
    assert found["Germany"] == ["euro"]
    assert "pound sterling" in found["United Kingdom"]


def test_official_languages_continents_nationalities_and_neighbours(sources):
    told = [f"An official language of Canada is {language}." for language in ("English", "French")]
    assert answers(sources, "official_language")["Canada"] == ["English", "French", *told]
    assert answers(sources, "continent")["Russia"] == ["Europe", "Asia"]
    assert answers(sources, "continent")["Haiti"][:2] == ["North America", "Caribbean"]
    assert {"Greek", "a Greek", "Greeks"} == set(answers(sources, "nationality")["Greece"])
    assert {"France", "Portugal"} <= set(answers(sources, "neighbour")["Spain"])
    assert "Japan" not in answers(sources, "neighbour")


def test_a_second_capital_is_asked_for_after_that_of_its_own_group(sources):
    kind = kinds()["capital_of_another"]
    items = kind.items(sources, seed=1, rows=4)
    group = {item.asked: item.group for item in kinds()["capital"].items(sources, seed=1, rows=99)}
    assert items[0].history[1] == "Paris"
    assert items[0].output == "Rome"
    assert items[0].group == group["France"] == group["Italy"]


def test_elements_and_symbols_are_each_others_answers(sources):
    symbols, names = answers(sources, "element_symbol"), answers(sources, "element_of_symbol")
    assert symbols["Gold"] == ["Au"]
    assert names["Au"] == ["Gold"]
    assert set(names["Al"]) == {"Aluminium", "Aluminum"}


def test_a_country_that_lacks_something_is_named(tmp_path, sources):
    entries = json.loads(sources.paths["world-countries"].read_text())
    path = tmp_path / "countries.json"
    del entries[1]["currencies"]
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=rf"countries\.json, row 2: {entries[1]['cca3']}: no 'currencies'"):
        read_countries(path)
    path.write_text("[3]")
    with pytest.raises(UserError, match=r"countries\.json, row 1: a country without cca3 and name"):
        read_countries(path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"countries\.json: not a list of countries"):
        read_countries(path)


def test_an_element_without_symbol_is_named(tmp_path):
    path = tmp_path / "elementsAndIsotopes.js"
    element = "    {\n        number: 1,\n        symbol: 'H',\n        name: 'Hydrogen',\n    },\n"
    path.write_text("exports = [\n" + element + element.replace("symbol: 'H',", "") + "];\n")
    with pytest.raises(UserError, match=r"elementsAndIsotopes\.js, row 7: an element without symbol and name"):
        read_elements(path)
    path.write_text("")
    with pytest.raises(UserError, match=r"row 1: no elements"):
        read_elements(path)
