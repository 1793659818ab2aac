"""Small calculations with the reason for the result."""

from collections.abc import Callable, Iterator

import numpy as np

from tasks.data.checkable.invented import people, rounds
from tasks.data.checkable.kind import Item, Sources, kind, pick, word_list

# A box, and what is in it.
PACKED = (
    "bags apples|boxes pencils|trays eggs|packs batteries|rows chairs|shelves books|baskets lemons|bunches roses|"
    "vases tulips|boats rowers|teams players|tables guests|plates dumplings|tins biscuits|nets oranges|sheets stamps|"
    "crates bottles|cages rabbits|cars passengers|jars olives|packets seeds|pages photos|tents scouts|classes pupils|"
    "stalls sellers|buckets shells|drawers socks|envelopes cards|bowls cherries|tanks fish|nests birds|rooms beds"
)
SHARED = word_list(
    "sweets marbles nuts cookies stickers balloons grapes pencils cards coins plums shells walnuts crayons dates "
    "badges buttons figs stamps tickets peaches muffins beads pears apricots carrots kiwis notebooks toys chestnuts"
)
BOUGHT = (
    "a book|a scarf|a cinema ticket|a pot plant|two sandwiches|a bag|a bunch of flowers|a cake|a map|a cap|"
    "a puzzle|three cups of coffee|a pizza|a lamp|a ball|a mug|a comic|a bottle of oil|a melon and some cheese|a kite|"
    "a toy car|a pair of gloves|a jar of honey|a belt|a candle|an umbrella|a box of tea|a pack of cards|a poster|a toy"
)
EVENTS = word_list(
    "film concert lesson match meeting flight party course tour play lecture workshop exam hike show visit training "
    "dinner rehearsal ceremony"
)

Question = tuple[str, str, str, str]
"""What is asked, the answer, the reason for it, and the group."""


def _packed(generator: np.random.Generator) -> Question:
    boxes, things = pick(generator, PACKED.split("|")).split()
    a, b = (int(n) for n in generator.integers(2, 11, 2))
    asked = f"There are {a} {boxes} with {b} {things} each. How many {things} are there in all?"
    answer, reason = f"There are {a * b} {things} in all", f"{a} times {b} is {a * b}"
    return asked, answer, reason, f"product: {min(a, b)} {max(a, b)}"


def _shared(generator: np.random.Generator) -> Question:
    things = pick(generator, SHARED)
    a, b = (int(n) for n in generator.integers(2, 11, 2))
    asked = f"{a} children share {a * b} {things} fairly. How many {things} does each child get?"
    answer, reason = f"Each child gets {b} {things}", f"{a * b} divided by {a} is {b}"
    return asked, answer, reason, f"product: {min(a, b)} {max(a, b)}"


def _change(generator: np.random.Generator) -> Question:
    note, name = pick(generator, [10, 20]), people(generator, 1)[0].name
    price = int(generator.integers(2, note))
    asked = f"{name} buys {pick(generator, BOUGHT.split('|'))} for {price} euros and pays with a {note}-euro note."
    left = note - price
    euros = "1 euro" if left == 1 else f"{left} euros"
    answer, reason = f"{name} gets {euros} back", f"{note} minus {price} is {left}"
    return f"{asked} How much change is that?", answer, reason, f"sum: {min(price, left)} {max(price, left)}"


def _percent(generator: np.random.Generator) -> Question:
    tens, base = int(generator.integers(2, 10)), 10 * int(generator.integers(2, 21))
    part = base // 10
    asked = f"What is {10 * tens} percent of {base}?"
    answer = f"{10 * tens} percent of {base} is {tens * part}"
    reason = f"10 percent is {part}, and {tens} times {part} is {tens * part}"
    return asked, answer, reason, f"percent: {base}"


def _end(generator: np.random.Generator) -> Question:
    event, start, hours = pick(generator, EVENTS), int(generator.integers(1, 8)), int(generator.integers(2, 5))
    asked = f"The {event} begins at {start} pm and lasts {hours} hours. When does it end?"
    answer, reason = f"The {event} ends at {start + hours} pm", f"{start} plus {hours} is {start + hours}"
    return asked, answer, reason, f"end: {event}"


def _more(generator: np.random.Generator) -> Question:
    one, two = people(generator, 2)
    things, (a, b) = pick(generator, SHARED), (int(n) for n in generator.choice(np.arange(3, 60), 2, replace=False))
    asked = f"{one.name} has {a} {things} and {two.name} has {b}. Who has more?"
    (few, loser), (many, winner) = sorted([(a, one.name), (b, two.name)])
    answer, reason = f"{winner} has more {things} than {loser}", f"{many} is {many - few} more than {few}"
    return asked, answer, reason, f"sum: {min(few, many - few)} {max(few, many - few)}"


def _rule(generator: np.random.Generator) -> Question:
    step = int(generator.integers(2, 11))
    start = int(generator.integers(1, 20))
    numbers = [start + step * n for n in range(5)]
    shown, word = ", ".join(map(str, numbers[:4])), "more"
    if generator.random() < 0.4:
        numbers.reverse()
        shown, word = ", ".join(map(str, numbers[:4])), "less"
    asked = f"Which number comes next: {shown}?"
    answer, reason = f"The next number is {numbers[4]}", f"each number is {step} {word} than the one before"
    return asked, answer, reason, f"sequence: {shown}"


QUESTIONS: tuple[Callable[[np.random.Generator], Question], ...] = (
    _packed,
    _shared,
    _change,
    _percent,
    _end,
    _more,
    _rule,
)


@kind(
    "{asked} Give a reason for your answer.",
    "{asked} Explain how you get there.",
    "Answer with the reason: {asked}",
    "{asked} I need the way to the result, too.",
    "Solve this and say why.\n{asked}",
    "{asked} Please explain.",
    "{asked} Show me the calculation in a sentence.",
    "maths homework, with explanation: {asked}",
    "Can you explain this to me? {asked}",
    "My daughter wonders: {asked} Tell her the answer and why it is so.",
    "{asked} How do you know?",
    "Work it out and justify the result.\n{asked}",
    "Not just the number, please, but how it comes about. {asked}",
    "{asked} Answer in a sentence that contains the calculation.",
    "{asked} Say why in a full sentence.",
    checkable=False,
)
def explained_result(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The result of a small calculation, and the reason for it."""
    forms = ("{answer}, because {reason}.", "{answer}, since {reason}.", "{answer}. That is because {reason}.")
    for question in rounds(generator, QUESTIONS):
        asked, answer, reason, group = question(generator)
        output = pick(generator, forms).format(answer=answer, reason=reason)
        yield Item(asked, output, {"asked": asked}, group=group)
