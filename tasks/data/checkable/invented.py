"""What made-up messages are about: people of many countries, days and times, and notes as they are jotted down."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from tasks.data.checkable.kind import pick, shuffled, word_list

WOMEN = word_list(
    "Amara Aisha Beatriz Chiara Danuta Emine Fatima Greta Hana Ingrid Jasmine Katarina Leila Meera Nadia Olivia Priya "
    "Rania Sofia Thandiwe Ulrike Valentina Wanjiru Yuki Zainab Bridget Deborah Elena Freya Gloria Helga Irina Joana "
    "Lucia Maya Naomi Orla Paloma Svetlana Teresa Yara Anjali Carmen Esther Mercy Xiulan Linh Sunita Zofia Astrid"
)
MEN = word_list(
    "Ahmed Bogdan Carlos Dmitri Emeka Farid Giorgio Hiroshi Ibrahim Jamal Kofi Lars Mateo Nikolai Omar Pavel Rafael "
    "Sanjay Tomasz Uwe Vikram Wei Yusuf Zoran Alberto Babak Chidi Diego Enzo Femi Gareth Hassan Isak Jorge Kwame Luis "
    "Minh Niall Otto Pedro Ravi Stefan Thabo Viktor Xavier Yannick Arjun Henrik Murat Tariq"
)
SURNAMES = word_list(
    "Adeyemi Alvarez Banerjee Bauer Castillo Chen Clarke Demir Diallo Eriksson Fernandes Fischer Garcia Gupta Haddad "
    "Hansen Horvat Ivanova Jansen Kaplan Kim Kowalczyk Larsson Lopez Mahlangu Martins Mensah Murphy Nakamura Nguyen "
    "Novak Okafor Oliveira Osei Papadopoulos Patel Petrov Popescu Rahman Ramos Reyes Romano Rossi Sato Schneider "
    "Sharma Silva Singh Suzuki Svensson Tanaka Torres Tran Virtanen Wagner Walsh Yilmaz Zhang"
)
DAYS = word_list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
WORKDAYS = DAYS[:5]
TIMES = ("8 am", "9 am", "9:30 am", "10 am", "11 am", "noon", "1 pm", "2 pm", "3 pm", "3:30 pm", "4 pm", "5 pm", "6 pm")

# How a note and its key are written, and what stands between two notes; the last is test's, the last but one
# validation's.
LAYOUTS = (
    ("{key}: {note}", "\n"),
    ("- {key}: {note}", "\n"),
    ("{key}: {note}", "; "),
    ("{key} = {note}", "\n"),
    ("* {key} - {note}", "\n"),
    ("[{key}] {note}", " "),
    ("{key}: {note}", " | "),
    ("{key} -> {note}", "\n"),
)

T = TypeVar("T")


class Person(NamedTuple):
    """Somebody, and the pronouns for them."""

    name: str
    he: str
    his: str
    him: str


def people(generator: np.random.Generator, count: int) -> list[Person]:
    """So many people with different names."""
    women = [Person(name, "she", "her", "her") for name in WOMEN]
    men = [Person(name, "he", "his", "him") for name in MEN]
    return shuffled(generator, [*women, *men])[:count]


def addressed(generator: np.random.Generator, person: Person) -> str:
    """How a mail names the person that it goes to: Yuki, or Ms Sato."""
    title = "Ms" if person.he == "she" else "Mr"
    return pick(generator, [person.name, f"{title} {pick(generator, SURNAMES)}"])


def letter(to: str, text: str, closing: str, sender: str) -> str:
    """A mail with salutation and signature."""
    return f"Dear {to},\n\n{text}\n\n{closing},\n{sender}"


def noted(generator: np.random.Generator, **notes: str) -> tuple[str, str, str]:
    """Notes in a layout for each split; keys have _ for a space."""
    layouts = (pick(generator, LAYOUTS[:-2]), *LAYOUTS[-2:])
    lines = [(key.replace("_", " "), note) for key, note in shuffled(generator, list(notes.items()))]
    train, validation, test = (
        between.join(frame.format(key=key, note=note) for key, note in lines) for frame, between in layouts
    )
    return train, validation, test


def rounds(generator: np.random.Generator, choices: Sequence[T]) -> Iterator[T]:
    """Every choice in turn, again and again, in ever new orders."""
    while True:
        yield from shuffled(generator, choices)


def capitalised(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def cells(row: str) -> list[str]:
    """What a row of a list says, separated by bars."""
    return row.split("|")
