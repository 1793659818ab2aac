"""Numbers: small arithmetic, comparing, sorting, words and digits, sequences."""

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled, word_list

ONES = word_list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = word_list("- - twenty thirty forty fifty sixty seventy eighty ninety")


def in_words(number: int) -> str:
    """A number below 1,000 in words, as in British English: one hundred and five."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{rest}"


def spellings(number: int) -> list[str]:
    """How people write a number: in digits, in words with and without hyphen and `and`."""
    words = in_words(number) if number < 1_000 else ""
    forms = [words, words.replace("-", " "), words.replace(" and ", " "), words.replace("-", " ").replace(" and ", " ")]
    return [str(number), f"{number}.0", f"{number:,}", *filter(None, forms)]


def _sum(generator: np.random.Generator, sign: str) -> Iterator[Item]:
    while True:
        a, b = int(generator.integers(2, 40)), int(generator.integers(2, 20))
        small, large = sorted((a, b))
        first, second, result = {"+": (a, b, a + b), "-": (small + large, small, large)}[sign]
        fields = {"a": str(first), "b": str(second)}
        equation = [f"{first} {sign} {second} = {result}", f"{first}{sign}{second}={result}"]
        yield Item(
            f"{first} {sign} {second}", str(result), fields, spellings(result) + equation, f"sum: {small} {large}"
        )


@kind(
    "What is {a} + {b}?",
    "Add the numbers.\n{a} and {b}",
    "{a} + {b} =",
    "How much is {a} plus {b}?",
    "Calculate {a} + {b}.",
    "Please add {b} to {a}.",
    "{a} plus {b}",
    "I have {a} and get {b} more. How many do I have now?",
    "What is the total of {a} and {b}?",
    "Sum up: {a}, {b}",
    "Start at {a} and count up by {b}. Where do you end?",
    "How much do {a} and {b} make together?",
    "Which number is {b} more than {a}?",
    "Compute.\n{a} + {b}",
    "What do you get when you add {a} and {b}?",
    "Work out the sum of {a} and {b}.",
    told=["{a} plus {b} is {answer}.", "The sum of {a} and {b} is {answer}."],
)
def addition(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The sum of two small numbers."""
    yield from _sum(generator, "+")


@kind(
    "What is {a} - {b}?",
    "Subtract {b} from {a}.",
    "{a} - {b} =",
    "How much is {a} minus {b}?",
    "Calculate {a} - {b}.",
    "Please take {b} away from {a}.",
    "{a} minus {b}",
    "What is the difference between {a} and {b}?",
    "I have {a} coins and spend {b}. How many remain?",
    "{a} less {b} is how much?",
    "Reduce {a} by {b}.",
    "Which number is {b} less than {a}?",
    "Start at {a} and count down by {b}. Where do you end?",
    "Compute.\n{a} - {b}",
    "What is left of {a} when you take away {b}?",
    "Work out {a} minus {b}.",
    told=["{a} minus {b} is {answer}.", "The difference between {a} and {b} is {answer}."],
)
def subtraction(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The difference of two small numbers, above zero."""
    yield from _sum(generator, "-")


@kind(
    "What is {a} times {b}?",
    "Multiply the numbers.\n{a} and {b}",
    "{a} x {b} =",
    "How much is {a} times {b}?",
    "Calculate {a} * {b}.",
    "Please multiply {a} by {b}.",
    "{a} times {b}",
    "{a} * {b} = ?",
    "Take {a} and multiply it with {b}.",
    "Do the times table: {a} x {b}",
    "I need the answer to {a} x {b}.",
    "Could you tell me how much {a} times {b} makes?",
    "How many chairs is that in all?\nrows: {a}, chairs in each row: {b}",
    "Compute.\n{a} * {b}",
    "What do you get when you multiply {a} by {b}?",
    "Work out the product of {a} and {b}.",
    told=["{a} times {b} is {answer}.", "The product of {a} and {b} is {answer}."],
)
def multiplication(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The times tables up to 12 times 10."""
    pairs = [(a, b) for a in range(1, 13) for b in range(2, 11)]
    for a, b in shuffled(generator, pairs):
        small, large = sorted((a, b))
        fields = {"a": str(a), "b": str(b)}
        yield Item(f"{a} x {b}", str(a * b), fields, spellings(a * b), f"product: {small} {large}")


@kind(
    "Which number is larger, {a} or {b}?",
    "Name the bigger number.\n{a}, {b}",
    "larger: {a} or {b}?",
    "Which is more, {a} or {b}?",
    "Give me the greater of {a} and {b}.",
    "Please tell me which of these is higher: {a} or {b}",
    "Which of these is the bigger one: {a} or {b}?",
    "{a} or {b}: which is greater?",
    "I have to pick the higher number. Is it {a} or {b}?",
    "Find the largest number.\n{a}, {b}",
    "Compare {a} with {b} and write down the one that is more.",
    "Anna scores {a}, Ben scores {b}. What is the higher score?",
    "Which number comes later when you count, {a} or {b}?",
    "the greatest of {a} and {b}",
    "What is the maximum of {a} and {b}?",
    "Choose the larger of the two numbers.\n{a} and {b}",
    told=["The larger number is {answer}."],
)
def larger(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The larger of two numbers."""
    while True:
        top = pick(generator, [20, 100, 100, 1000])
        a, b = (int(number) for number in generator.integers(1, top, size=2))
        if a != b:
            key = f"{min(a, b)} {max(a, b)}"
            yield Item(key, str(max(a, b)), {"a": str(a), "b": str(b)}, spellings(max(a, b)))


@kind(
    "Is {n} even or odd?",
    "Say whether the number is even or odd.\n{n}",
    "{n}: even or odd?",
    "Is the number {n} an odd one or an even one?",
    "Even or odd? {n}",
    "Please tell me if {n} is even or odd.",
    "parity of {n}, even or odd",
    "What is {n}, even or odd?",
    "Can {n} be divided by 2? Answer even or odd.",
    "I forgot if {n} is odd or even. Which is it?",
    "Label the number as even or odd.\n{n}",
    "House number {n}: is it on the even or the odd side?",
    "Would you say {n} is even or odd?",
    "Decide: is {n} odd or even?",
    "Is this an even number or an odd number?\n{n}",
    told=["{n} is an {lower} number."],
)
def even_or_odd(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Whether a number is even."""
    for n in shuffled(generator, range(1, 400)):
        word = ("even", "odd")[n % 2]
        yield Item(
            str(n), word.capitalize(), {"n": str(n)}, [f"{n} is {word}", f"it is {word}", f"{n} is an {word} number"]
        )


@kind(
    "Write the number in words.\n{n}",
    "How do you write {n} in words?",
    "{n} in words",
    "Spell out the number {n}.",
    "Please write out this number: {n}",
    "What is {n} in English words?",
    "How is {n} spelled?",
    "Write this with letters instead of digits.\n{n}",
    "{n} written out",
    "How do I read {n} aloud? Write the words.",
    "I need {n} in words for a cheque.",
    "Turn the digits into words: {n}",
    "Could you give me the English words for this number? {n}",
    "Put the number {n} into words.",
    "Write {n} as a word.",
    told=["{n} in words is '{answer}'."],
)
def number_in_words(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A number below 1,000 in words, mostly below 100."""
    numbers = shuffled(generator, range(11, 1000), [8.0 if n < 100 else 0.2 for n in range(11, 1000)])
    for n in numbers:
        yield Item(str(n), in_words(n), {"n": str(n)}, spellings(n)[3:], f"number: {n}")


@kind(
    "Write the number in digits.\n{words}",
    "How do you write {words} in digits?",
    "{words} in digits",
    "Which number is this? Use digits.\n{words}",
    "Please turn the words into a number: {words}",
    "What is {words} as a number?",
    "Turn this into a number.\n{words}",
    "{words} as numerals",
    "I heard '{words}'. What number do I type?",
    "Convert the words to digits: {words}",
    "Give the number for {words}.",
    "Which numeral means {words}?",
    "Could you write the number {words} without letters?",
    "Write '{words}' with digits.",
    "Put this into figures: {words}",
)
def number_in_digits(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A number below 1,000 in digits."""
    for n in shuffled(generator, range(11, 1000), [4.0 if n < 100 else 0.4 for n in range(11, 1000)]):
        yield Item(str(n), str(n), {"words": in_words(n)}, [f"{n}.0"], f"number: {n}")


@kind(
    "Sort the numbers from small to large.\n{numbers}",
    "Put these numbers in ascending order: {numbers}",
    "sort ascending: {numbers}",
    "Arrange the numbers, the smallest first.\n{numbers}",
    "Please order these numbers from lowest to highest: {numbers}",
    "Sort this list of numbers, smallest first: {numbers}",
    "Rank these from least to greatest: {numbers}",
    "List the numbers again, starting with the lowest.\n{numbers}",
    "from low to high: {numbers}",
    "I need these numbers in increasing order.\n{numbers}",
    "Line up the numbers so that each is bigger than the one before.\n{numbers}",
    "Could you put these in order, small ones before big ones? {numbers}",
    "How do these go from the least up to the most? {numbers}",
    "Which is the right order of these numbers, beginning with the smallest?\n{numbers}",
    "Bring the numbers into ascending order.\n{numbers}",
)
def sort_numbers(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Three or four numbers below 100, from the smallest to the largest."""
    while True:
        size = 3 if generator.random() < 0.6 else 4
        numbers = [int(n) for n in generator.choice(np.arange(1, 100), size=size, replace=False)]
        right = sorted(numbers)
        if right != numbers:
            texts = [str(n) for n in right]
            shown = ", ".join(map(str, numbers))
            yield Item(" ".join(texts), ", ".join(texts), {"numbers": shown}, [" ".join(texts), ",".join(texts)])


@kind(
    "Which number comes next? {numbers}",
    "Continue the sequence with one number.\n{numbers}",
    "{numbers}, ?",
    "What is the next number in this series: {numbers}?",
    "Give the number that follows.\n{numbers}",
    "Please continue with the next number: {numbers}",
    "How does this row go on? One number is enough.\n{numbers}",
    "I am counting: {numbers}. What do I say next?",
    "{numbers} and then?",
    "Fill in the gap at the end: {numbers}, ___",
    "Look at the pattern. Which number is next?\n{numbers}",
    "Add one more number to this row.\n{numbers}",
    "Could you say which number should follow? {numbers}",
    "What number comes after these?\n{numbers}",
    "Find the next number of the sequence {numbers}.",
    told=["The next number is {answer}.", "The next number in the sequence is {answer}."],
)
def sequence(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The next number of equal steps, up or down."""
    while True:
        step = pick(generator, [1, 2, 2, 3, 5, 10, 10, -1, -2])
        start = int(generator.integers(1, 30)) + (12 if step < 0 else 0)
        if step in (5, 10):
            start = step * int(generator.integers(1, 9))
        numbers: Sequence[int] = range(start, start + 4 * step, step)
        shown, answer = ", ".join(map(str, numbers)), start + 4 * step
        yield Item(shown, str(answer), {"numbers": shown}, [*spellings(answer), f"{shown}, {answer}"])
