import pandas as pd
import pytest

from tasks.data.cleaning.languages import SHORTEST, UNKNOWN, in_languages, language_of
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


def test_rows_in_other_languages_are_left_out_where_some_are_named():
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


def test_a_language_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"^languages: 'english' is no code of ISO 639 that is known; en and pt are$"):
        in_languages(pd.DataFrame({"text": []}), pd.Series([], dtype=object), ["en", "english"])
