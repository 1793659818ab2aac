"""Replace personal data in texts by made-up data of the same kind: a gap could tell a model the label.

It uses short patterns, and checksums for numbers that have one. presidio and scrubadub need language models, and would
keep names of people, too.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from tasks.data.cleaning.record import changed

NO_TEXT = ("id", "source", "label", "kind", "group", "split")


def _is_card(number: str) -> bool:
    """Whether a number has the digits of a card and a valid checksum (Luhn)."""
    digits = [int(digit) for digit in reversed(re.sub(r"\D", "", number))]
    total = sum(digits[0::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]])
    return len(digits) >= 13 and total % 10 == 0 and any(digits)


def _is_iban(number: str) -> bool:
    """Whether an account number has a valid checksum (ISO 13616)."""
    compact = number.replace(" ", "")
    rest = int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97
    return len(compact) >= 15 and rest == 1


def _is_phone(number: str) -> bool:
    """Whether a number has as many digits as E.164 allows, and is no date."""
    digits = re.sub(r"\D", "", number)
    return 7 <= len(digits) <= 15 and not re.fullmatch(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}", number)


def _always(found: str) -> bool:
    return True


def _found_by(pattern: re.Pattern[str], holds: Callable[[str], bool], text: str) -> Iterator[tuple[int, int]]:
    """The spans of the matches for which `holds` is true.

    A short word behind a number, such as BIC, may look like a part of it: then the match ends at the last space before
    which `holds` is true.
    """
    start = 0
    while match := pattern.search(text, start):
        spaces = [match.start() + space.start() for space in re.finditer(" ", match[0])]
        ends = (end for end in (match.end(), *reversed(spaces)) if holds(text[match.start() : end]))
        if (end := next(ends, None)) is not None:
            yield match.start(), end
        start = end or match.end()


# Kind: its pattern, a further check, and its replacement. No pattern looks at a character more than twice.
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool], str]] = {
    "e-mail address": (
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}+@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        _always,
        "someone@example.com",
    ),
    "IBAN": (
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        _is_iban,
        "GB82 WEST 1234 5698 7654 32",
    ),
    "card number": (re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-])"), _is_card, "4111 1111 1111 1111"),
    "phone number": (
        re.compile(
            r"(?<![\w.,/+-])(?:\+|00)\d(?:[ ()./-]{0,2}\d){6,14}(?!\w)"  # of a country
            r"|(?<![\w.,/+-])\(?0\d{1,4}\)?[ /-](?:[ -]?\d){4,10}(?!\w)"  # with the zero of many
            r"|(?<![\w.,/+-])(?:1[ .-])?\(?\d{3}\)?[ .-]\d{3}[.-]\d{4}(?!\w)"  # of North America
        ),
        _is_phone,
        "+1 202 555 0100",
    ),
    "account name": (re.compile(r"(?<![\w@./:-])@[A-Za-z]\w{1,29}\b(?![@.]\w)"), _always, "@someone"),
}


def mask(text: str) -> str:
    """The text with made-up data in place of personal data. A masked text stays as it is."""
    for pattern, holds, instead in KINDS.values():
        parts, kept = [], 0
        for start, end in _found_by(pattern, holds, text):
            parts += [text[kept:start], instead]
            kept = end
        text = "".join([*parts, text[kept:]])
    return text


def mask_rows(table: pd.DataFrame, chosen: pd.Series | None = None) -> pd.DataFrame:
    """The table with the texts and lists of texts of the chosen rows masked; by default of all rows."""
    table = table.copy()
    rows = table.index if chosen is None else table.index[chosen]
    for column in table.columns.difference(NO_TEXT, sort=False) if len(rows) else ():
        values = table[column].astype(object)
        values[rows] = pd.Series(map(_masked, values[rows]), rows, dtype=object)
        table[column] = values.astype(table[column].dtype)
    return table


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if not isinstance(value, str):
        return value
    changed("personal_data", value, masked := mask(value))
    return masked
