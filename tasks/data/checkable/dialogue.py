"""Conversations: what the user said before, and who a system prompt says that the assistant is."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.assistant import NAMELESS, beginnings
from tasks.data.checkable.extraction import CITIES, NAMES
from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled, word_list

ROLES = (
    "You are {name}, a friendly helper.",
    "You are {name}, the assistant of a small shop in {city}.",
    "Your name is {name}.",
    "You answer questions for a library. You are called {name}.",
    "You are an assistant called {name}. Be brief.",
    "Act as {name}, who helps pupils with their homework.",
    "You are {name} from the help desk in {city}.",
)
TASKS = (
    "You are the assistant of a small shop in {city}.",
    "You answer questions for the library of {city}.",
    "You are a friendly helper of the town of {city}.",
    "You help pupils of a school in {city} with their homework.",
    "You work at the help desk of a company in {city}. Be brief.",
    "You are the assistant of a hotel in {city}. Answer politely.",
)
NAME_ASKED = (
    "What is your name?",
    "Who are you?",
    "Hello, who is this?",
    "What are you called?",
    "Who am I talking to?",
    "Please tell me your name.",
    "Tell me your name.",
    "your name?",
    "How should I address you?",
    "What name do you go by?",
    "Introduce yourself, please.",
    "Hi! Who am I speaking with?",
    "Sorry, I did not catch your name.",
    "May I ask your name?",
    "What do people call you?",
)
TOLD = {
    "name": ("What is my name?", "Hello, my name is {}.", "I am called {}, by the way.", "Hi, {} here."),
    "city": ("Where do I live?", "I live in {}.", "My flat is in {}.", "I have moved to {}."),
    "colour": (
        "What is my favourite colour?",
        "My favourite colour is {}.",
        "I like {} best of all colours.",
        "No colour is as nice as {} to me.",
    ),
    "pet": ("What animal do I have?", "I have a {} at home.", "My {} is asleep.", "I must feed my {} soon."),
}
COLOURS = word_list("red blue green yellow purple orange pink brown black white")
PETS = word_list("dog cat rabbit hamster parrot goldfish tortoise pony")


@kind(
    "{asked}",
    "Do you remember? {asked}",
    "{asked} I have told you.",
    "Tell me: {asked}",
    "Quick check: {asked}",
    "{asked} Look at what I wrote.",
    "{asked} I said so earlier.",
    "By the way: {asked}",
    "Can you recall it? {asked}",
    "{asked} Answer in one word.",
    "I wonder whether you listened. {asked}",
    "Do you know? {asked}",
    "One more thing: {asked}",
    "Now answer this: {asked}",
)
def told_before(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """What the user said of himself in an earlier turn."""
    values = {"name": NAMES, "city": CITIES, "colour": COLOURS, "pet": PETS}
    replies = ("Thank you, I will remember that.", "Good to know!", "All right.", "Nice to hear.")
    while True:
        first, second = shuffled(generator, list(TOLD))[:2]
        facts = {what: pick(generator, values[what]) for what in (first, second)}
        history = []
        for what, value in facts.items():
            said = pick(generator, TOLD[what][1:]).format(value)
            history += [said, pick(generator, replies)]
        history = history[: 4 if generator.random() < 0.5 else 2]
        what = pick(generator, [first, second]) if len(history) == 4 else first
        value, asked = facts[what], TOLD[what][0]
        also = {
            "name": [f"Your name is {value}", f"You are {value}", f"It is {value}"],
            "city": [f"You live in {value}", f"In {value}"],
            "colour": [f"Your favourite colour is {value}", f"It is {value}", f"You like {value}"],
            "pet": [f"You have a {value}", f"A {value}", f"You have a {value} at home"],
        }[what]
        yield Item(
            f"{asked} ({' / '.join(history[::2])})",
            value.capitalize() if what in ("colour", "pet") else value,
            {"asked": asked},
            also,
            f"told: {value}",
            history,
        )


@kind(*NAME_ASKED)
def role(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The name that a system prompt gives."""
    while True:
        name = pick(generator, NAMES)
        system = pick(generator, ROLES).format(name=name, city=pick(generator, CITIES))
        also = [
            name,
            f"My name is {name}…",
            f"I am {name}…",
            f"I'm {name}…",
            f"This is {name}…",
            f"You can call me {name}",
        ]
        yield Item(system, f"My name is {name}.", {}, also, f"role: {name}", system=system)


@kind(*NAME_ASKED)
def nameless(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A system prompt that gives no name: there is none to say."""
    while True:
        system = pick(generator, TASKS).format(city=pick(generator, CITIES))
        yield Item(system, NAMELESS, {}, beginnings(NAMELESS), system=system)
