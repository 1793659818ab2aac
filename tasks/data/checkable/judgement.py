"""Judgements: whether somebody liked something, and yes or no with a reason."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from tasks.data.checkable.categories import with_article
from tasks.data.checkable.extraction import NAMES
from tasks.data.checkable.kind import Item, Sources, framed, kind, pick, shuffled, word_list

SIZES = word_list("ant bee mouse frog rabbit cat goat donkey horse elephant")
SIZES_OF_THINGS = word_list("coin cup bucket chair car bus house church mountain")
FACTS = (
    ("Can penguins fly?", "No, because their wings are made for swimming."),
    ("Can eagles fly?", "Yes, because they have strong wings."),
    ("Is ice cold?", "Yes, because it is frozen water."),
    ("Is fire cold?", "No, because fire is very hot."),
    ("Is the sun a star?", "Yes, because it makes its own light and heat."),
    ("Is the moon a star?", "No, because it only reflects sunlight."),
    ("Do fish live in water?", "Yes, because they breathe with gills."),
    ("Do cows eat meat?", "No, because they are plant eaters."),
    ("Is snow white?", "Yes, because its crystals scatter all colours of light."),
    ("Is a whale a fish?", "No, because it is a mammal and breathes air."),
    ("Can dogs bark?", "Yes, because that is how they make themselves heard."),
    ("Can cats read books?", "No, because animals can't read."),
    ("Do plants need light?", "Yes, because they make food from it."),
    ("Do stones need food?", "No, because they are not alive."),
    ("Does wood float on water?", "Yes, because it is lighter than water."),
    ("Does iron float on water?", "No, because it is heavier than water."),
    ("Is honey made by bees?", "Yes, because bees make it from nectar."),
    ("Is milk made by bees?", "No, because milk comes from cows and other mammals."),
    ("Is a triangle round?", "No, because it has three corners."),
    ("Is a ball round?", "Yes, because it has no corners."),
    ("Does a spider have six legs?", "No, because it has eight."),
    ("Does an insect have six legs?", "Yes, because that is what makes it an insect."),
    ("Is water wet?", "Yes, because it is a liquid."),
    ("Is sand a liquid?", "No, because it is made of tiny stones."),
    ("Can people breathe under water without help?", "No, because they have lungs and no gills."),
    ("Can ducks swim?", "Yes, because they have webbed feet."),
    ("Is sugar sweet?", "Yes, because that is how it tastes."),
    ("Is a lemon sweet?", "No, because it tastes sour."),
    ("Is glass easy to break?", "Yes, because it is brittle."),
    ("Is steel soft?", "No, because it is a hard metal."),
    ("Does the sun rise in the west?", "No, because it rises in the east."),
    ("Does the sun set in the west?", "Yes, because the Earth turns to the east."),
    ("Is bread made from flour?", "Yes, because dough is flour and water."),
    ("Is paper made from iron?", "No, because it is made from wood."),
    ("Is a year longer than a month?", "Yes, because it has twelve months."),
    ("Is a minute longer than an hour?", "No, because an hour has sixty minutes."),
    ("Can a snail outrun a horse?", "No, because a snail is very slow."),
    ("Is a desert dry?", "Yes, because it hardly ever rains there."),
    ("Do birds lay eggs?", "Yes, because their young hatch from eggs."),
    ("Do dogs lay eggs?", "No, because they give birth to puppies."),
    ("Is night darker than day?", "Yes, because the sun is below the horizon."),
    ("Is winter warmer than summer?", "No, because winter is the cold season."),
    ("Can you see through a brick wall?", "No, because bricks let no light through."),
    ("Can you see through a clean window?", "Yes, because glass lets light through."),
    ("Is a baby older than its mother?", "No, because the mother was born first."),
    ("Is gold a metal?", "Yes, because it is shiny and conducts electricity."),
    ("Do trees have roots?", "Yes, because roots bring them water."),
    ("Do cars have roots?", "No, because cars are machines."),
    ("Is the Earth flat?", "No, because it is a globe."),
    ("Is oxygen a gas?", "Yes, because it is part of the air."),
)
GOOD = (
    "wonderful|excellent|a real pleasure|better than I had hoped|fantastic|delightful|great fun|brilliant|"
    "worth every penny|lovely|perfect|the best in years|a joy|superb|amazing|charming|impressive|"
    "a great success|marvellous|simply beautiful|outstanding|terrific|a pleasant surprise"
)
BAD = (
    "terrible|awful|a waste of money|worse than I had feared|horrible|boring|a big disappointment|dreadful|"
    "not worth the price|the worst in years|a nightmare|useless|disgusting|annoying|of no help at all|poor|"
    "a complete failure|painfully slow|far too noisy|a bad joke|unbearable|an unpleasant surprise"
)
REVIEWED = word_list("film meal hotel concert book service trip show party course restaurant game")
REVIEW_FRAMES = (
    "The {thing} was {verdict}.",
    "I must say the {thing} was {verdict}.",
    "Our {thing} turned out to be {verdict}.",
    "We all found that the {thing} was {verdict}.",
    "{name} says the {thing} was {verdict}.",
    "To be honest, the {thing} was {verdict}.",
    "My wife and I think the {thing} was {verdict}.",
    "That {thing} last week was {verdict}.",
    "In my opinion the {thing} was {verdict}.",
    "Everybody agreed: the {thing} was {verdict}.",
)


@kind(
    "Is the sentiment of the sentence positive or negative?\n{review}",
    "Positive or negative? {review}",
    "sentiment: {review}",
    "Say whether this opinion is positive or negative.\n{review}",
    "Does this sound positive or negative?\n{review}",
    "Please classify the review as positive or negative: {review}",
    "What is the tone, positive or negative? {review}",
    "Did the writer like it? Answer positive or negative.\n{review}",
    "negative or positive: {review}",
    "Label this text as positive or negative.\n{review}",
    "I got this feedback. Is it positive or negative?\n{review}",
    "Could you tell me if this comment is negative or positive? {review}",
    "Say positive for praise and negative for a complaint.\n{review}",
    "Judge the mood of this sentence: positive or negative?\n{review}",
    "Would you call this review positive or negative?\n{review}",
    told=["The sentiment is {lower}.", "This review is {lower}."],
)
def sentiment(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Whether somebody liked something."""
    while True:
        label, verdicts = pick(generator, [("Positive", GOOD), ("Negative", BAD)])
        verdict, thing = pick(generator, verdicts.split("|")), pick(generator, REVIEWED)
        review = framed(generator, REVIEW_FRAMES, thing=thing, verdict=verdict, name=pick(generator, NAMES))
        also = [f"It is {label.lower()}", f"The sentiment is {label.lower()}"]
        yield Item(f"{thing} {verdict}", label, {"review": review}, also, f"verdict: {verdict}")


@kind(
    "Answer yes or no and say why.\n{question}",
    "{question} Give a reason.",
    "{question} Why?",
    "Say yes or no, with a short reason: {question}",
    "{question} Answer in one sentence with a reason.",
    "I would like to know this, with the reason: {question}",
    "{question} Yes or no, and what makes you say so?",
    "yes/no + reason: {question}",
    "Answer the question and back it up.\n{question}",
    "{question} Say why you think so.",
    "My son asks: {question} What should I tell him, and why?",
    "Could you answer with yes or no and say because of what? {question}",
    "Begin with yes or no and go on with because.\n{question}",
    "{question} Please explain in a few words.",
    "Tell me yes or no and the reason.\n{question}",
)
def yes_or_no(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Yes or no with a reason; only the yes or no is checked."""
    items = list(FACTS)
    for sizes, measured in ((SIZES, "weighs {}"), (SIZES_OF_THINGS, "takes up {} room")):
        for small, large in combinations(map(with_article, sizes), 2):
            first, second = pick(generator, [(small, large), (large, small)])
            compared = pick(generator, ["bigger", "smaller"])
            verdict = "Yes" if (first == small) == (compared == "smaller") else "No"
            than = measured.format("less" if first == small else "more")
            reason = f"{verdict}, because {first} {than} than {second}."
            items.append((f"Is {first} {compared} than {second}?", reason))
    for asked, answer in shuffled(generator, items, [3.0] * len(FACTS) + [1.0] * (len(items) - len(FACTS))):
        yield Item(asked, answer, {"question": asked}, [f"{answer.partition(',')[0]}…"])
