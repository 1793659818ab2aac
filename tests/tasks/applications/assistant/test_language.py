from tasks.applications.assistant.language import SHORTEST, UNKNOWN, language_of

IN_LANGUAGES = {
    "en": "Dear Anna, thank you for the invitation; we would be glad to come on Tuesday, and we will bring the cake.",
    "de": "Liebe Anna, vielen Dank für die Einladung; wir kommen am Dienstag sehr gerne und bringen den Kuchen mit.",
    "nl": "Beste Anna, bedankt voor de uitnodiging; we komen dinsdag heel graag en nemen de taart voor iedereen mee.",
    "fr": "Chère Anna, merci beaucoup pour ton invitation ; nous viendrons mardi avec plaisir et le gâteau promis.",
}


def test_language_of_a_text_is_named_if_it_is_long_enough_and_certain():
    assert [language_of(text) for text in IN_LANGUAGES.values()] == list(IN_LANGUAGES)
    assert language_of(IN_LANGUAGES["de"][: SHORTEST - 1]) == UNKNOWN
    assert language_of("0123456789 " * 20) not in IN_LANGUAGES
