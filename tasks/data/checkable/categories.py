"""What belongs where: categories of things, the odd one out, a or an."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled, word_list

CATEGORIES = {
    "animal": "dog cat horse cow sheep lion tiger bear wolf rabbit mouse elephant monkey snake goat pig camel fox deer",
    "fruit": "apple pear banana cherry grape lemon mango peach plum strawberry kiwi melon raspberry pineapple apricot",
    "vegetable": "carrot onion potato cabbage spinach broccoli cauliflower leek turnip radish celery beetroot",
    "colour": "red blue green yellow purple brown black white grey pink",
    "vehicle": "car bus train bicycle lorry tram taxi motorbike van tractor ambulance scooter",
    "tool": "hammer saw screwdriver drill pliers spade axe wrench chisel shovel rake",
    "piece of clothing": "shirt coat jacket sock skirt dress glove scarf sweater trousers hat blouse",
    "piece of furniture": "table chair sofa bed desk wardrobe bookcase armchair stool cupboard",
    "musical instrument": "piano guitar violin drum flute trumpet cello harp clarinet saxophone trombone",
    "sport": "football tennis hockey golf basketball swimming rugby volleyball cricket judo handball badminton",
    "job": "teacher doctor nurse baker farmer pilot lawyer plumber carpenter waiter dentist electrician journalist",
}
WORDS = {name: listed.split() for name, listed in CATEGORIES.items()}
ALIKE = ({"fruit", "vegetable"}, {"fruit", "colour"}, {"animal", "sport"}, {"tool", "musical instrument"})
UNCOUNTED = frozenset(
    word_list(
        "spinach broccoli celery football tennis hockey golf basketball swimming rugby volleyball cricket judo "
        "handball badminton red blue green yellow purple brown black white grey pink pliers trousers"
    )
)


def with_article(word: str) -> str:
    """The word as in a sentence: a dog, an axe, tennis."""
    return word if word in UNCOUNTED else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@kind(
    "What is {thing}: {options}?",
    "Choose the right category ({options}).\n{word}",
    "{word}: {options}?",
    "To which category does '{word}' belong: {options}?",
    "Into which of these groups does '{word}' fall: {options}?",
    "Please sort this word into one of these groups: {options}.\n{word}",
    "Is {thing} best described as {options}?",
    "{options}? {word}",
    "I need to label the word '{word}' as {options}. Which one is right?",
    "Classify the following word as {options}.\n{word}",
    "Say what {thing} is. The choices are {options}.",
    "There are three boxes: {options}. Where would you put {word}?",
    "What kind of thing is this, {options}?\n{word}",
    "Which of these is {thing}: {options}?",
    "Pick the category of the word from: {options}.\n{word}",
)
def category(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Which of three categories a thing belongs to."""
    while True:
        name = pick(generator, list(WORDS))
        word = pick(generator, WORDS[name])
        others = [o for o in shuffled(generator, list(WORDS)) if o != name and {o, name} not in ALIKE][:2]
        first, second, third = shuffled(generator, [name, *others])
        options = f"{first}, {second} or {third}"
        fields = {"word": word, "thing": with_article(word), "options": options}
        article = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        also = [article, name.removeprefix("piece of ").removeprefix("musical "), f"{with_article(word)} is {article}"]
        yield Item(word, name.capitalize(), fields, also, f"word: {word}")


@kind(
    "Which word does not belong?\n{words}",
    "Find the odd one out: {words}",
    "odd one out: {words}",
    "One of these words does not fit. Which one?\n{words}",
    "Which of these is different from the others? {words}",
    "Please tell me the word that does not fit with the rest: {words}",
    "Spot the outsider.\n{words}",
    "Which one is of another kind? {words}",
    "Cross out the word that has nothing to do with the rest.\n{words}",
    "Look at {words}. Which word is out of place?",
    "Could you pick the word that is in the wrong group? {words}",
    "All but one of these things are of the same type. What is the exception?\n{words}",
    "which is the intruder: {words}",
    "Name the one that is not like the others.\n{words}",
    "Three of these belong together; name the fourth.\n{words}",
    told=["The odd one out is '{answer}'.", "'{answer}' does not belong with the others."],
)
def odd_one_out(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The one of four words that is of another category."""
    while True:
        one, other = shuffled(generator, list(WORDS))[:2]
        if {one, other} in ALIKE:
            continue
        odd = pick(generator, WORDS[other])
        words = [*shuffled(generator, WORDS[one])[:3], odd]
        shown = ", ".join(shuffled(generator, words))
        yield Item(" ".join(sorted(words)), odd, {"words": shown}, group=f"odd: {odd} {one}")


NOUNS = word_list(
    "apple orange egg umbrella island elephant onion idea engine uncle aunt office artist actor answer animal ant "
    "arm axe eagle ear elbow envelope eye igloo iron oak ocean olive oven owl oyster architect airport album alarm "
    "ambulance angel apron arrow attic author avocado autumn evening example exam exit expert inn insect invitation "
    "opera ornament"
)
CONSONANTS = word_list(
    "table house dog car book chair window garden letter picture river mountain doctor teacher pencil kitchen banana "
    "lemon tree flower hat ship train song lake key lamp map nurse park queen road school ticket village wall zebra "
    "box cup door farm game hill jar king leaf mouse nose party rabbit star tiger"
)
SPOKEN = {
    "hour": "an",
    "honest man": "an",
    "hourglass": "an",
    "heir": "an",
    "MP": "an",
    "university": "a",
    "uniform": "a",
    "European": "a",
}
SPOKEN |= {
    "unicorn": "a",
    "useful tool": "a",
    "one-way street": "a",
    "union": "a",
    "honour": "an",
    "euro": "a",
    "X-ray": "an",
    "unit": "a",
}


@kind(
    "Put 'a' or 'an' before the word.\n{word}",
    "Is it a or an? {word}",
    "a or an: {word}",
    "Which article goes with the word, a or an?\n{word}",
    "Do I say 'a {word}' or 'an {word}'?",
    "Please write the word with the right indefinite article: {word}",
    "Add the indefinite article.\n{word}",
    "{word} with a or an",
    "I never know if {word} takes a or an. Which is it?",
    "Complete with a or an: ___ {word}",
    "Say this with the indefinite article: {word}",
    "Could you tell me which is correct, a or an? {word}",
    "Does {word} need a or an?",
    "Choose between a and an for this: {word}",
    "Write a or an in front of it.\n{word}",
)
def article(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A word with its indefinite article."""
    words = dict.fromkeys(NOUNS, "an") | dict.fromkeys(CONSONANTS, "a") | SPOKEN
    for word in shuffled(generator, list(words)):
        yield Item(word, f"{words[word]} {word}", {"word": word}, [words[word]], f"word: {word}")
