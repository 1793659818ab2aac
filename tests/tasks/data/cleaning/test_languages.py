import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.cleaning.languages import SHORTEST, UNKNOWN, in_languages, language_of, languages_of
from tasks.data.cleaning.record import recorded

TEXTS = {
    "en": "Dear Anna, thank you for the invitation; we would be glad to come on Tuesday, and we will bring the cake.",
    "de": "Liebe Anna, vielen Dank für die Einladung; wir kommen am Dienstag sehr gerne und bringen den Kuchen mit.",
    "nl": "Beste Anna, bedankt voor de uitnodiging; we komen dinsdag heel graag en nemen de taart voor iedereen mee.",
    "fr": "Chère Anna, merci beaucoup pour ton invitation ; nous viendrons mardi avec plaisir et le gâteau promis.",
}


def test_the_language_of_a_text_is_told_where_it_is_long_enough_and_certain():
    assert {language: language_of(text) for language, text in TEXTS.items()} == {each: each for each in TEXTS}
    assert language_of(TEXTS["de"][: SHORTEST - 1]) == UNKNOWN
    assert language_of("0123456789 " * 20) not in TEXTS


ODD = ["漢字", "e\u0301", "\ud800", "1 ", " ", "\0"]
PIECES = st.sampled_from([*TEXTS.values(), *map(str.upper, TEXTS.values()), *ODD])


@settings(max_examples=200)
@given(st.lists(st.lists(st.one_of(PIECES, st.text(max_size=60)), max_size=30).map("".join), max_size=6))
def test_the_languages_of_many_texts_are_those_that_the_classifier_has_for_each(texts):
    assert [*languages_of(texts)] == [language_of(text) for text in texts]


def test_texts_between_two_languages_are_as_certain_as_for_the_classifier(monkeypatch):
    monkeypatch.setattr("tasks.data.cleaning.languages.TOGETHER", 100)
    pairs = [(one, other) for one in TEXTS.values() for other in TEXTS.values()]
    texts = [one[:cut] + other[cut:] for one, other in pairs for cut in range(0, 105, 3)]
    found = [language_of(text) for text in texts]
    assert [*languages_of(texts)] == found
    assert 20 < found.count(UNKNOWN) < len(texts) / 2


def test_rows_in_other_languages_are_left_out_where_some_are_named_and_counted_in_any_case(tmp_path):
    table = pd.DataFrame({"id": [*TEXTS, "short"], "text": [*TEXTS.values(), "Bonjour"]})
    with recorded() as record:
        assert in_languages(table, table["text"], ()).equals(table)
        assert record.quarantine().empty
    with recorded() as record:
        assert in_languages(table, table["text"], ["en", "nl"])["id"].tolist() == ["en", "nl", "short"]
    assert record.quarantine()[["id", "rule", "reason"]].to_numpy().tolist() == [
        ["de", "language", "it is in de"],
        ["fr", "language", "it is in fr"],
    ]
    assert record.counted == {"language": {"de": 1, "en": 1, "fr": 1, "nl": 1, "unknown": 1}}
    record.write(tmp_path, "letters")
    assert (
        "## Rows by language\n\n| language | rows | share |\n|---|--:|--:|\n| de | 1 | 20.00% |\n"
        in (tmp_path / "cleaning.md").read_text()
    )


def test_a_language_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"^languages: 'english' is no code of ISO 639 that is known; en and pt are$"):
        in_languages(pd.DataFrame({"text": []}), pd.Series([], dtype=object), ["en", "english"])
