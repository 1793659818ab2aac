"""Replace personal data in texts by made-up data of the same kind: a gap could tell a model the label.

It uses short patterns, and checksums for numbers that have one. presidio and scrubadub need language models, and would
keep names of people, too.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

NO_TEXT = ["id", "source", "label", "kind", "group", "split"]


def _is_card(number: str) -> bool:
    """Whether a number has the digits of a card and a valid checksum (Luhn)."""
    digits = [int(digit) for digit in reversed(re.sub(r"\D", "", number))]
    total = sum(digits[0::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]])
    return len(digits) >= 13 and total % 10 == 0 and any(digits)


def _is_iban(number: str) -> bool:
    """Whether an account number has a valid checksum (ISO 13616)."""
    compact = number.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return len(compact) >= 15 and int(digits) % 97 == 1


def _is_phone(number: str) -> bool:
    """Whether a number has as many digits as E.164 allows, and is no date."""
    digits = re.sub(r"\D", "", number)
    return 7 <= len(digits) <= 15 and not re.fullmatch(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}", number)


def _always(match: str) -> bool:
    return True


class Kind(NamedTuple):
    """A kind of personal data. Its pattern looks at no character more than twice."""

    pattern: re.Pattern[str]
    holds: Callable[[str], bool]
    """A further check of a match."""
    replacement: str


KINDS = {
    "e-mail address": Kind(
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}+@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        _always,
        "someone@example.com",
    ),
    "IBAN": Kind(
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        _is_iban,
        "GB82 WEST 1234 5698 7654 32",
    ),
    "card number": Kind(re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-])"), _is_card, "4111 1111 1111 1111"),
    "phone number": Kind(
        re.compile(
            r"(?<![\w.,/+-])(?:\+|00)\d(?:[ ()./-]{0,2}\d){6,14}(?!\w)"  # of a country
            r"|(?<![\w.,/+-])\(?0\d{1,4}\)?[ /-](?:[ -]?\d){4,10}(?!\w)"  # with the zero of many
            r"|(?<![\w.,/+-])(?:1[ .-])?\(?\d{3}\)?[ .-]\d{3}[.-]\d{4}(?!\w)"  # of North America
        ),
        _is_phone,
        "+1 202 555 0100",
    ),
    "account name": Kind(re.compile(r"(?<![\w@./:-])@[A-Za-z]\w{1,29}\b(?![@.]\w)"), _always, "@someone"),
}


def _spans(kind: Kind, text: str) -> Iterator[tuple[int, int]]:
    """The spans of personal data of a kind.

    A short word behind a number, such as BIC, may look like a part of it: then the match ends at the last space before
    which the number holds.
    """
    start = 0
    while match := kind.pattern.search(text, start):
        spaces = [match.start() + space.start() for space in re.finditer(" ", match[0])]
        start = match.end()
        for end in (match.end(), *reversed(spaces)):
            if kind.holds(text[match.start() : end]):
                yield match.start(), end
                start = end
                break


def mask(text: str) -> str:
    """The text with made-up data in place of personal data. A masked text stays as it is."""
    for kind in KINDS.values():
        parts: list[str] = []
        copied = 0
        for start, end in _spans(kind, text):
            parts += [text[copied:start], kind.replacement]
            copied = end
        text = "".join([*parts, text[copied:]])
    return text


def mask_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its texts and lists of texts masked."""
    columns = table.columns.difference(list(NO_TEXT), sort=False)
    masked = {name: table[name].astype(object).map(_masked).astype(table[name].dtype) for name in columns}
    return table.assign(**masked)


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(text) for text in value]
    return mask(value) if isinstance(value, str) else value
