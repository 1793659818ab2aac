import pytest

from llm.objectives.assistant.rows import contains_answer, is_right


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
def test_answer_is_right_but_for_spaces_case_and_what_ends_it_or_by_how_it_begins(answer, expected, right):
    assert is_right(answer, expected) is right
    assert contains_answer(answer, expected) or not right


@pytest.mark.parametrize(
    ("answer", "expected", "holds"),
    [
        ("The capital of Chad is N'Djamena.", ["N'Djamena"], True),
        ("It is paris, I think", ["Paris"], True),
        ("Parisian", ["Paris"], False),
        ("It is twenty-five.", ["five"], False),
        ("It is 25.", ["5"], False),
        ("It is 3.5, or 1,000.", ["3", "5", "1", "000"], False),
        ("It is 3.", ["3"], True),
        ("That makes -3.", ["-3"], True),
        ("That makes -3.", ["3"], False),
        ("the  right\nanswer here", ["right answer"], True),
        ("it says hello world", ["HELLO WORLD"], False),
        ("it says HELLO WORLD.", ["HELLO WORLD"], True),
        ("I think that I do not know it", ["I do not know…"], False),
        ("I do not know: nobody does", ["I do not know…"], True),
        ("What?", ["?"], False),
        ("?", ["?"], True),
        ("", ["a"], False),
        ("anything", [], False),
    ],
)
def test_answer_contains_another_as_whole_words_or_begins_with_it(answer, expected, holds):
    assert contains_answer(answer, expected) is holds
