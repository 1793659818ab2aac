"""What a good answer must and must not have, as a program can check it.

The rows are in `data/behavioural/instructions/`. A rubric is a floor: a good answer passes it; whoever evades, copies
the input, repeats themselves or talks of something else fails. It does not tell a good answer from a better one.
"""

import ast
import json
import re
import warnings
from itertools import combinations
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from llm.config import Config
from llm.errors import UserError
from llm.objectives.assistant.loops import has_loop
from tasks.applications.assistant.language import UNKNOWN, language_of
from tasks.applications.assistant.refusals import declines, denies, plain, sentences

Range = tuple[int, int]

LENIENT = 2  # times as long an answer may be where nobody asked for a short one
NEGATION = (
    r"(?:\b(?:can|do|does|did|wo|would|should|is|are|was|were|must|need)n't|\b(?:cannot|can not|not|never|unable to))"
)
NEGATED = rf"{NEGATION}(?: \w+ly| really| be able to| have to)? $"  # what stands right before a word that it denies
FIRST_LINES = 3  # in which a mail must greet: a preface and a subject line may stand before
CLOSING = 60  # characters at the end of a mail, in which it must be signed


class Rubric(Config):
    """Clauses; an answer must keep all. A `*` at the end of a word or phrase stands for any ending."""

    contains: list[list[str]] = Field(default_factory=list)
    """At least one word or phrase of each list must occur, as whole words in any case, and not be denied: "I can't
    cancel" has no "cancel"."""
    excludes: list[str] = Field(default_factory=list)
    """None of these words and phrases may occur."""
    min_words: int | None = Field(default=None, gt=0)
    """The fewest words."""
    max_words: int | None = Field(default=None, gt=0)
    """The most words; twice as many unless the question asks for a `short` answer."""
    short: bool = False
    """Whether the question asks for a short answer, or one of a certain length."""
    sentences: Range | None = None
    """The fewest and the most sentences."""
    items: Range | None = None
    """The fewest and the most items of a list: lines with a mark or number, else parts between commas or lines."""
    language: str | None = None
    """The answer's language by its code of ISO 639; an answer too short to tell passes."""
    starts_with: list[str] = Field(default_factory=list)
    """One of these must begin one of the first three lines."""
    ends_with: list[str] = Field(default_factory=list)
    """One of these must occur in the last sixty characters."""
    differs_from_input: bool = False
    """Whether an answer that only repeats the input fails."""
    may_decline: bool = False
    """Whether a good answer may say that the assistant can't do something, or what it is."""
    code: bool = False
    """Whether the answer must have a fence of code, an HTML element, or Python that calls, assigns or defines."""

    @model_validator(mode="after")
    def _has_a_clause(self) -> "Rubric":
        if not self.model_fields_set:
            raise ValueError("a rubric without clauses passes every answer")
        return self


class Question(Config):
    """A row of a file of questions."""

    id: str
    slice: str
    instruction: str
    input: str = ""
    history: list[str] = Field(default_factory=list)
    """The earlier turns, of user and assistant in turn."""
    rubric: Rubric
    example: str
    """An answer that passes."""
    counterexample: str
    """A plausible answer that fails."""


def read_rows(file: Path) -> list[Question]:
    """The rows of a file, a line each. Raises UserError that names file, row and key of what is wrong."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(Question.model_validate(json.loads(line)))
        except ValidationError as error:
            wrong = error.errors()[0]
            reason = "unknown key" if wrong["type"] == "extra_forbidden" else wrong["msg"]
            raise UserError(f"{file}, row {number}: {'.'.join(map(str, wrong['loc']))}: {reason}") from None
        except ValueError as error:
            raise UserError(f"{file}, row {number}: {error}") from None
    return rows


def passes(rubric: Rubric, answer: str, source: str = "") -> bool:
    """Whether an answer meets every clause of the rubric; `source` is the row's input."""
    return not failures(rubric, answer, source)


def failures(rubric: Rubric, answer: str, source: str = "") -> list[str]:
    """The clauses that an answer breaks, for people to read; none for a good one.

    Besides its own clauses every rubric has four: no loop, no item of a list twice, no mail to the one who signs it,
    and no refusal where none is expected.
    """
    text, items = plain(answer), _items(answer)
    words, ends = len(text.split()), len(sentences(text))
    lines = [line for line in map(plain, answer.splitlines()) if line]
    most = rubric.max_words and rubric.max_words * (1 if rubric.short else LENIENT)
    is_list = rubric.items is not None or len(_marked(answer)) > 1
    checks = {
        "no loop": not has_loop(answer),
        "no item twice": not is_list or len(set(map(_letters, items))) == len(items),
        "no mail to oneself": not _greets_its_sender(lines),
        "no refusal": rubric.may_decline or not (declines(answer) or denies(answer)),
        **{f"contains {_either(phrases)}": _has(phrases, text, affirmed=True) for phrases in rubric.contains},
        **{f"excludes {phrase}": not _has([phrase], text) for phrase in rubric.excludes},
        f"min_words {rubric.min_words}": words >= (rubric.min_words or 1),
        f"max_words {most}": words <= (most or words),
        f"sentences {rubric.sentences}, not {ends}": _within(ends, rubric.sentences),
        f"items {rubric.items}, not {len(items)}": _within(len(items), rubric.items),
        f"language {rubric.language}": rubric.language is None or language_of(text) in (rubric.language, UNKNOWN),
        f"starts_with {_either(rubric.starts_with)}": not rubric.starts_with
        or any(_begins(phrase, line) for phrase in rubric.starts_with for line in lines[:FIRST_LINES]),
        f"ends_with {_either(rubric.ends_with)}": not rubric.ends_with or _has(rubric.ends_with, text[-CLOSING:]),
        "differs_from_input": not rubric.differs_from_input or _letters(source) != _letters(answer),
        "code": not rubric.code or "```" in answer or "</" in answer or _has_python(answer),
    }
    return [clause for clause, kept in checks.items() if not kept]


def _greets_its_sender(lines: list[str]) -> bool:
    """Whether a mail ends with the name that it greets."""
    greetings = (
        re.match(r"(?:dear|hi|hello|hey) ([\w. ]+?)[,!:]?$", line, re.IGNORECASE) for line in lines[:FIRST_LINES]
    )
    names = [greeting[1].lower() for greeting in greetings if greeting]
    return any(lines[-1].lower().rstrip(".!") == name for name in names)


def _letters(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _either(alternatives: list[str]) -> str:
    return " | ".join(alternatives)


def _within(count: int, allowed: Range | None) -> bool:
    return allowed is None or allowed[0] <= count <= allowed[1]


def _pattern(phrase: str) -> str:
    """A phrase as whole words; a number is no part of a longer one, such as 1.5 or 1,500."""
    start = r"(?<!\w)(?<!\d[.,])" if phrase[0].isalnum() else ""
    end = r"(?!\w|[.,]\d)" if phrase[-1].isalnum() else ""
    return f"{start}{re.escape(plain(phrase.removesuffix('*')))}{end}"


def _has(alternatives: list[str], text: str, *, affirmed: bool = False) -> bool:
    """Whether one of these stands in a text; if `affirmed`, without a negation right before it."""
    places = [match for phrase in alternatives for match in re.finditer(_pattern(phrase), text, re.IGNORECASE)]
    if not affirmed:
        return bool(places)
    return any(not re.search(NEGATED, text[: match.start()], re.IGNORECASE) for match in places)


def _begins(phrase: str, line: str) -> bool:
    return re.match(_pattern(phrase), line.lstrip("\"'*_> "), re.IGNORECASE) is not None


def _marked(answer: str) -> list[str]:
    """The lines with a mark or number, without it."""
    return re.findall(r"^\s*(?:[-*•\u2013]|\d+[.):])\s*(?=\w|\W\w)(.+)", answer, re.MULTILINE)


def _items(answer: str) -> list[str]:
    """The items of a list. Where no line has a mark or number, the parts after a first colon."""
    if marked := _marked(answer):
        return marked
    parts = re.split(r"[,;\n]+(?:\s*(?:and|or)\s)?|\s(?:and|or)\s", answer.partition(":")[2] or answer)
    return [part for part in parts if re.search(r"\w", part)]


def _has_python(answer: str) -> bool:
    """Whether some lines in a row parse as Python that does more than name things: prose such as `Yes` parses, too."""
    lines = answer.splitlines()
    does = (ast.Call, ast.Assign, ast.FunctionDef, ast.Import, ast.ImportFrom, ast.For, ast.Lambda, ast.ListComp)
    for start, end in combinations(range(len(lines) + 1), 2):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse("\n".join(lines[start:end]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if any(isinstance(node, does) for node in ast.walk(tree)):
            return True
    return False
