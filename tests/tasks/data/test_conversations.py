import pytest

from tasks.data.conversations import is_right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("A feline mammal.", ["a  feline\nmammal"], True),
        ("large", ["Large."], True),
        ("Large!", ["large"], True),
        ("large", ["larger"], False),
        (" . ", ["."], True),
        ("", ["."], False),
        ("!", ["."], False),
        ("...", ["!"], False),
        ("- nothing", ["….", ".…", "…", " …"], False),
        ("…", ["…"], False),
        ("", ["…"], False),
        ("a.b", ["ab"], False),
        ("Why?", ["why"], False),
        ("four", ["4", "four"], True),
        ("four", [], False),
        ("Yes, because it is.", ["Yes…"], True),
        ("yes", ["Yes…"], True),
        ("I say yes", ["Yes…"], False),
        ("Not at all", ["No…"], False),
        ("My name is Anna.", ["My name is Ann…", "I'm Ann…"], False),
        ("I'm Ann. And you?", ["My name is Ann…", "I'm Ann…"], True),
        ("No", ["No, it isn't…"], False),
        ("hello", ["HELLO"], False),
        ("HELLO!", ["HELLO"], True),
    ],
)
def test_an_answer_is_right_but_for_spaces_case_and_what_ends_it_or_by_how_it_begins(answer, expected, right):
    assert is_right(answer, expected) is right
