"""Sentences made into others: question, negation, past tense, passive, short form, polite request."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled


class Action(NamedTuple):
    """A verb in its forms and what follows it."""

    base: str
    third: str
    past: str
    participle: str
    rest: str
    is_transitive: bool

    @property
    def group(self) -> str:
        """That of the verb's inflections."""
        return f"lemma: {self.base}"


TRANSITIVE = (
    "write writes wrote written the letter/ read reads read read the book/ open opens opened opened the window/ "
    "close closes closed closed the door/ clean cleans cleaned cleaned the kitchen/ wash washes washed washed the "
    "car/ paint paints painted painted the fence/ repair repairs repaired repaired the bicycle/ bake bakes baked "
    "baked the cake/ cook cooks cooked cooked the dinner/ water waters watered watered the garden/ move moves moved "
    "moved the table/ carry carries carried carried the bag/ sell sells sold sold the house/ buy buys bought bought "
    "the lamp/ find finds found found the key/ lose loses lost lost the ticket/ break breaks broke broken the cup/ "
    "take takes took taken the photo/ draw draws drew drawn the map/ sing sings sang sung the song/ drive drives "
    "drove driven the bus/ build builds built built the wall/ cut cuts cut cut the bread/ send sends sent sent the "
    "parcel/ teach teaches taught taught the class/ choose chooses chose chosen the colour/ steal steals stole "
    "stolen the watch/ wear wears wore worn the blue coat/ hide hides hid hidden the present/ feed feeds fed fed the "
    "dog/ catch catches caught caught the ball/ check checks checked checked the list/ finish finishes finished "
    "finished the report/ cancel cancels cancelled cancelled the meeting/ print prints printed printed the page/ "
    "plan plans planned planned the trip/ invite invites invited invited the guest/ answer answers answered answered "
    "the phone/ cover covers covered covered the pot/ count counts counted counted the money/ deliver delivers "
    "delivered delivered the newspaper/ translate translates translated translated the text/ record records recorded "
    "recorded the concert/ return returns returned returned the ladder/ copy copies copied copied the file/ fill "
    "fills filled filled the bottle/ collect collects collected collected the post/ sign signs signed signed the "
    "contract/ rent rents rented rented the flat/ solve solves solved solved the puzzle/ test tests tested tested "
    "the machine/ visit visits visited visited the museum/ watch watches watched watched the film/ throw throws "
    "threw thrown the stone/ forget forgets forgot forgotten the password/ hang hangs hung hung the picture/ burn "
    "burns burned burned the toast/ eat eats ate eaten the soup/ drink drinks drank drunk the juice"
)
INTRANSITIVE = (
    "walk walks walked walked to school/ swim swims swam swum in the lake/ run runs ran run in the park/ sleep "
    "sleeps slept slept in the afternoon/ live lives lived lived near the sea/ work works worked worked in a bank/ "
    "travel travels travelled travelled by train/ dance dances danced danced at parties/ sit sits sat sat by the "
    "fire/ stand stands stood stood at the gate/ wait waits waited waited for the bus/ talk talks talked talked "
    "about football/ speak speaks spoke spoken Spanish/ smile smiles smiled smiled at the baby/ laugh laughs laughed "
    "laughed at the joke/ arrive arrives arrived arrived at noon/ come comes came come home late/ go goes went gone "
    "to the market/ get gets got got up early/ fall falls fell fallen asleep quickly/ fly flies flew flown to "
    "Madrid/ ride rides rode ridden to work/ climb climbs climbed climbed over the wall/ cry cries cried cried at "
    "night/ study studies studied studied after dinner/ stay stays stayed stayed at home/ listen listens listened "
    "listened to music/ grow grows grew grown tomatoes/ jog jogs jogged jogged along the river"
)
PERSONS = ("He", "She", "Anna", "Ben", "Clara", "The teacher", "My brother", "Our neighbour", "The doctor", "Oscar")
AGENTS = (
    "Anna",
    "Ben",
    "Clara",
    "Oscar",
    "the teacher",
    "the student",
    "the farmer",
    "the manager",
    "the nurse",
    "my uncle",
)
HELPERS = (
    ("do not", "don't", "They"),
    ("did not", "didn't", "We"),
    ("did not", "didn't", "She"),
    ("does not", "doesn't", "He"),
    ("will not", "won't", "I"),
    ("would not", "wouldn't", "They"),
    ("could not", "couldn't", "He"),
    ("should not", "shouldn't", "You"),
    ("cannot", "can't", "We"),
    ("cannot", "can't", "She"),
)


def _actions(text: str, is_transitive: bool) -> list[Action]:
    return [Action(*(row.split(maxsplit=4)), is_transitive) for row in text.split("/ ")]  # type: ignore[arg-type]


ACTIONS = [*_actions(TRANSITIVE, True), *_actions(INTRANSITIVE, False)]


def _inside(subject: str) -> str:
    """A subject as it stands inside a sentence."""
    return subject if subject in ("Anna", "Ben", "Clara", "Oscar", "I") else subject[0].lower() + subject[1:]


def _rounds(generator: np.random.Generator, actions: list[Action]) -> Iterator[Action]:
    """Every action in turn, again and again."""
    while True:
        yield from shuffled(generator, actions)


@kind(
    "Turn the sentence into a question.\n{sentence}",
    "Make a question out of this: {sentence}",
    "as a question: {sentence}",
    "Rewrite the statement as a yes/no question.\n{sentence}",
    "How do I ask this as a question? {sentence}",
    "Please change this sentence into a question: {sentence}",
    "Ask whether this is so: {sentence}",
    "I want to ask if this is true. What do I say?\n{sentence}",
    "question form: {sentence}",
    "Begin with do, does or did and make it a question.\n{sentence}",
    "Could you reword this so that it asks instead of tells? {sentence}",
    "Convert to an interrogative sentence.\n{sentence}",
    "Put a question mark at the end and change what must be changed.\n{sentence}",
    "Form a yes/no question from the statement.\n{sentence}",
    "Write this statement as a question.\n{sentence}",
)
def question(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The yes/no question that a sentence answers."""
    for action in _rounds(generator, ACTIONS):
        subject = pick(generator, [*PERSONS, "They", "The children", "They"])
        is_one = subject in PERSONS
        verb, helper = pick(
            generator, [(action.third if is_one else action.base, "Does" if is_one else "Do"), (action.past, "Did")]
        )
        if action.past == action.base and helper != "Does":
            continue  # nobody can tell present from past
        sentence = f"{subject} {verb} {action.rest}."
        output = f"{helper} {_inside(subject)} {action.base} {action.rest}?"
        yield Item(sentence, output, {"sentence": sentence}, [output.rstrip("?")], action.group)


@kind(
    "Make the sentence negative.\n{sentence}",
    "Write the opposite with 'not': {sentence}",
    "negate: {sentence}",
    "Put the sentence into the negative.\n{sentence}",
    "How do I say that this is not so? {sentence}",
    "Please negate the following sentence: {sentence}",
    "Add 'not' to the sentence in the right place.\n{sentence}",
    "Deny this: {sentence}",
    "negative form: {sentence}",
    "This is false. Write what is true instead, with 'not'.\n{sentence}",
    "Contradict this sentence with do not, does not or did not.\n{sentence}",
    "Could you make this statement negative for me? {sentence}",
    "What is the negation of this? {sentence}",
    "Rewrite the sentence in the negative form.\n{sentence}",
    "Turn this into a negative sentence.\n{sentence}",
)
def negative(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A sentence with its verb negated, in the long form or the short one."""
    for action in _rounds(generator, ACTIONS):
        subject = pick(generator, [*PERSONS, "They", "We", "I"])
        is_one = subject in PERSONS
        present = (action.third, "does") if is_one else (action.base, "do")
        verb, helper = pick(generator, [present, present, (action.past, "did")])
        if action.past == action.base and helper != "does":
            continue
        sentence = f"{subject} {verb} {action.rest}."
        long, short = (f"{subject} {form} {action.base} {action.rest}." for form in (f"{helper} not", f"{helper}n't"))
        yield Item(sentence, long, {"sentence": sentence}, [short], action.group)


@kind(
    "Put the sentence into the past.\n{sentence}",
    "Write this in the past tense: {sentence}",
    "past tense: {sentence}",
    "Change the sentence to the simple past.\n{sentence}",
    "How do I say this about yesterday? {sentence}",
    "Please rewrite the sentence in the past tense: {sentence}",
    "Tell it as if it had happened last week, without adding words.\n{sentence}",
    "simple past: {sentence}",
    "Shift the verb to the past.\n{sentence}",
    "Change the present tense to the past tense.\n{sentence}",
    "I tell a story in the past tense. How does this sentence go there?\n{sentence}",
    "What is the past form of this sentence? {sentence}",
    "Could you put the verb of this into the past tense? {sentence}",
    "Turn this sentence into simple past.\n{sentence}",
    "Say it in the past.\n{sentence}",
)
def past_sentence(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A sentence about the present, in the past."""
    for action in _rounds(generator, ACTIONS):
        subject = pick(generator, PERSONS)
        sentence = f"{subject} {action.third} {action.rest}."
        yield Item(sentence, f"{subject} {action.past} {action.rest}.", {"sentence": sentence}, group=action.group)


@kind(
    "Put the sentence into the passive.\n{sentence}",
    "Rewrite this in the passive voice: {sentence}",
    "passive: {sentence}",
    "Change the sentence from active to passive.\n{sentence}",
    "How do I say this in the passive? {sentence}",
    "Please turn the active sentence into a passive one: {sentence}",
    "Let the object come first: use the passive.\n{sentence}",
    "Say it in the passive, and name who does it with 'by'.\n{sentence}",
    "active to passive: {sentence}",
    "Begin with the thing that something is done to and use 'by'.\n{sentence}",
    "I need a passive sentence with the same meaning.\n{sentence}",
    "Could you recast this as a passive? {sentence}",
    "Rewrite it with 'is' or 'was' and 'by'.\n{sentence}",
    "Write the passive form of the sentence.\n{sentence}",
    "Transform this into passive voice.\n{sentence}",
)
def passive(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """An active sentence in the passive, with its agent."""
    for action in _rounds(generator, [action for action in ACTIONS if action.is_transitive]):
        agent = pick(generator, AGENTS)
        subject = agent[0].upper() + agent[1:]
        verb, helper = pick(generator, [(action.past, "was"), (action.past, "was"), (action.third, "is")])
        sentence = f"{subject} {verb} {action.rest}."
        output = f"{action.rest[0].upper()}{action.rest[1:]} {helper} {action.participle} by {agent}."
        yield Item(sentence, output, {"sentence": sentence}, group=action.group)


@kind(
    "Use the short form.\n{sentence}",
    "Rewrite with a contraction: {sentence}",
    "contract: {sentence}",
    "Write the sentence with an apostrophe, as people speak.\n{sentence}",
    "How does one say this with a contraction? {sentence}",
    "Please shorten the negative verb in this sentence: {sentence}",
    "Make it shorter with n't: {sentence}",
    "Join the verb and 'not' into one word.\n{sentence}",
    "short form: {sentence}",
    "How would you say this in everyday speech, with an apostrophe? {sentence}",
    "I want this to sound less formal. Use n't.\n{sentence}",
    "Could you contract the verb here? {sentence}",
    "Replace 'not' by n't.\n{sentence}",
    "Put a contraction into the sentence.\n{sentence}",
    "Write this with the contracted form.\n{sentence}",
)
def contraction(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A negative sentence with the short form, such as don't."""
    for action in _rounds(generator, ACTIONS):
        long, short, subject = pick(generator, HELPERS)
        sentence, output = (f"{subject} {form} {action.base} {action.rest}." for form in (long, short))
        yield Item(sentence, output, {"sentence": sentence}, group=action.group)


@kind(
    "Make the request polite.\n{sentence}",
    "Say this politely: {sentence}",
    "polite version: {sentence}",
    "Turn the order into a polite question.\n{sentence}",
    "How can I ask this in a friendly way? {sentence}",
    "Please rewrite this command so that it sounds polite: {sentence}",
    "Add some courtesy to this order: {sentence}",
    "Ask for this nicely.\n{sentence}",
    "rephrase kindly: {sentence}",
    "I do not want to sound rude. How do I ask for this?\n{sentence}",
    "Begin with 'Could you please'.\n{sentence}",
    "What would a well-mannered person say? {sentence}",
    "Could you soften this order? {sentence}",
    "Put this request more politely.\n{sentence}",
    "Change the command into a polite request.\n{sentence}",
)
def polite(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A command as a polite request."""
    impolite = ("lose", "break", "steal", "burn", "forget", "hide", "throw", "catch")
    for action in _rounds(generator, [a for a in ACTIONS if a.is_transitive and a.base not in impolite]):
        ending = pick(generator, ["", "", " today"])
        command = f"{action.base} {action.rest}{ending}"
        also = [f"Please {command}.", f"{command}, please."]
        for helper in ("Could", "Can", "Would", "Will"):
            also += [
                f"{helper} you please {command}?",
                f"{helper} you {command}, please?",
                f"{helper} you {command} please?",
            ]
        also += [
            f"Could you kindly {command}?",
            f"Could you {command}?",
            f"Would you kindly {command}?",
        ]
        sentence = f"{command[0].upper()}{command[1:]}."
        yield Item(sentence, f"Could you please {command}?", {"sentence": sentence}, also, action.group)
