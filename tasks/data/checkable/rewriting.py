"""Messages put in another way: blunt ones politely, and what somebody says of himself in the third person."""

import re
from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.extraction import CITIES
from tasks.data.checkable.invented import Person, capitalised, cells, people, rounds
from tasks.data.checkable.kind import Item, Sources, framed, kind, pick

# What is wrong | what the other one should do.
COMPLAINTS = (
    "your music is too loud|turn it down",
    "your dog barks all night|keep it inside",
    "the soup is cold|warm it up",
    "you are standing on my foot|step back",
    "your car blocks the gate|move it",
    "I have waited for an hour|tell me when it is my turn",
    "the bill is wrong|check it again",
    "you took my seat|sit somewhere else",
    "I can't hear you|speak up",
    "the window is open and I am freezing|close it",
    "your report is full of mistakes|correct it by tomorrow",
    "the bin smells|take it out",
    "I need the money back|pay me this week",
    "your children run up and down the stairs|ask them to be quieter",
    "you have not answered my email|write back today",
    "this is the wrong size|send me a larger one",
    "the kitchen is a mess|wash the dishes",
    "the parcel is damaged|give me a refund",
    "you talk too fast|slow down",
    "the form is not complete|fill in the second page",
    "I am trying to work|call me later",
    "you borrowed my drill in May|bring it back",
    "the room is too dark|switch on the light",
    "your tree drops its leaves on my car|cut the branches",
    "I do not understand a word|explain it again",
    "you were late twice this week|be on time tomorrow",
    "the tap drips|send somebody to repair it",
    "the coffee is gone|buy a new packet",
    "your bicycle stands in the way|put it in the cellar",
    "there is a hair in my salad|bring me another one",
    "I ordered tea and not coffee|change it",
    "the printer has no paper|refill it",
    "your bag is on my chair|take it away",
    "the photos are blurred|take them again",
    "the address on the letter is wrong|change it in your files",
    "the shower has no hot water|give us another room",
    "you forgot the attachment|send it again",
    "my name is spelled wrongly|correct it on the list",
    "this queue starts behind me|go to the end",
    "the floor is wet|put up a sign",
    "your phone rings all the time|mute it",
    "the key does not fit|give me the right one",
    "the translation is missing|add it to the file",
    "your smoke comes into our bedroom|smoke on the other side",
)
BLUNT = (
    "{Problem}! {Demand}!",
    "{Problem}. {Demand}, for heaven's sake.",
    "{Demand}! {Problem}.",
    "hey, {problem}. {demand}.",
    "{Problem}, so {demand}!",
    "{Problem}. Just {demand}, will you?",
    "How often do I have to say it? {Problem}. {Demand}.",
    "Listen, {problem}. {Demand}, I mean it.",
    "{Problem} and I am fed up. {Demand}!",
    "{Demand}. Can't you see that {problem}?",
)
# What is marked with * stands in the third person, too.
LIVES = (
    "I work* as a nurse in {city}. My shift starts early, so I go* to bed at nine.",
    "I am* a retired sailor. In my garden I grow* beans and tell* the cat about the sea.",
    "I live* in {city} with my two sons. On Sundays I bake* bread for the whole street.",
    "I drive* a night bus. My passengers are mostly quiet, and I like* the empty streets.",
    "I study* law in {city}. My parents call me every evening, and I miss* them.",
    "I teach* maths at a school for girls. At weekends I climb* mountains with my sister.",
    "I have* a small shop for buttons in {city}. My grandmother opened it, and I love* every drawer.",
    "I am* learning to sing. My neighbours are patient, but I practise* in the cellar.",
    "I paint* signs for shops. I use* my father's brushes and never work* on Mondays.",
    "I moved to {city} in spring. I do* not know many people yet, but I enjoy* my new job.",
    "I repair* bicycles in a yard near the station. My customers pay me with cake if they have no money.",
    "I play* the trumpet in a brass band. My lips hurt after concerts, but I do* not mind.",
    "I cook* in a hotel in {city}. At home I eat* only soup, because I want* my evenings free.",
    "I am* training for a marathon. My coach says that I run* like a horse.",
    "I have* three goats and a donkey. I sell* my cheese at the market in {city}.",
    "I write* crime stories. My best ideas come to me when I wash* the dishes.",
    "I work* at the airport in {city}. I speak* four languages, and my favourite word is a Finnish one.",
    "I collect* old radios. My wife calls me crazy, but she listens with me every night.",
    "I am* the youngest of six children. I share* a room with my brother and dream* of a door with a lock.",
    "I look* after my grandmother. She tells me stories, and I write* them down in my notebook.",
    "I coach* a team of wheelchair dancers in {city}. One of them gave me a medal, and I keep* it on my desk.",
    "I fell off my bicycle last week. My arm hurts, so I type* with one hand.",
    "I make* furniture from old doors. I found my first one at a market near {city}.",
    "I am* afraid of heights, but I want* to see the world. So I travel* by train and send* my friends postcards.",
    "I sell* umbrellas in {city}. When it rains, I sing* with joy at my stall.",
    "I wash* windows of tall buildings. I wave* to people at their desks, and some of them wave back to me.",
    "I was a pilot for thirty years. Now I build* model planes in my garage and fly* them on Sundays.",
    "I keep* a diary. I write* in it before I brush* my teeth, even when I am* tired.",
    "I run* a kindergarten in {city}. The children call me Captain, because I have* a ship on my jumper.",
    "I grow* orchids in my bathroom. My flat is small, but I have* more than forty of them.",
    "I am* studying for my last exam. I carry* my books everywhere and read* them even on the bus.",
    "I deliver* letters in a mountain village. I know* every dog on my way and carry* biscuits for them.",
    "I work* from home for a bank in {city}. At noon I take* my lunch to the park.",
    "I stopped smoking a year ago. I saved a lot of money and bought my first canoe.",
    "I restore* paintings for a museum in {city}. My hands must be calm, so I drink* no coffee.",
    "I sew* costumes for the theatre. My favourite one is a bear, and I wear* it at parties.",
    "I am* a dentist, but I love* sweets. I hide* them from my patients in a drawer.",
    "I live* on a boat in {city}. My cat fell into the water twice, and I jumped in after her.",
    "I translate* films. I hear* voices in three languages and sometimes answer* my wife in the wrong one.",
    "I have* a twin brother in {city}. When I visit* him, his neighbours greet me with the wrong name.",
    "I plant* trees along the roads near {city}. My shovel is older than me.",
    "I get* up at five to swim. The lake is cold, but I feel* great when I sit* at my desk at eight.",
)
THIRD = {"am": "is", "have": "has", "do": "does", "go": "goes"}


@kind(
    "Make this message polite.\n{message}",
    "How can I say this in a friendly way?\n{message}",
    "nicer please: {message}",
    "Rewrite this so that nobody is offended.\n{message}",
    "I wrote this when I was angry. Please put it politely.\n{message}",
    "Turn these rude words into a polite request.\n{message}",
    "Could you soften the tone of my message?\n{message}",
    "make it sound nice: {message}",
    "Please help me say this more kindly.\n{message}",
    "What would a polite person say instead?\n{message}",
    "That sounds harsh. Reword it as a friendly request.\n{message}",
    "Change the text below so that it is courteous.\n{message}",
    "I do not want to be rude. How should I phrase this?\n{message}",
    "Express this with more respect.\n{message}",
    "Say this in a more polite way.\n{message}",
    checkable=False,
)
def polite_message(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A blunt complaint as a polite request."""
    forms = (
        "I am sorry to bother you, but {problem}. Could you please {demand}?",
        "I am sorry to say so, but {problem}. Would you please {demand}?",
        "Excuse me, I am afraid that {problem}. Could you please {demand}?",
    )
    for problem, demand in rounds(generator, [cells(row) for row in COMPLAINTS]):
        parts = {"problem": problem, "demand": demand}
        whole = {capitalised(name): capitalised(text) for name, text in parts.items()}
        message = framed(generator, BLUNT, **parts, **whole)
        output = pick(generator, forms).format(**parts)
        yield Item(message[0], output, {"message": message}, group=f"complaint: {problem}")


def _third(verb: str) -> str:
    """A verb as it goes with he or she."""
    ending = "es" if re.search(r"(s|sh|ch|x)$", verb) else "s"
    return THIRD.get(verb) or re.sub(r"(?<=[^aeiou])y$", "ie", verb) + ending


def third_person(text: str, person: Person) -> str:
    """What somebody says of himself, its verbs marked with *, as it is said of him."""
    text = re.sub(r"(\w+)\*", lambda verb: _third(verb[1]), text)
    for mine, theirs in (("my", person.his), ("me", person.him)):
        text = re.sub(rf"\b{mine}\b", theirs, text)
        text = re.sub(rf"\b{mine.capitalize()}\b", theirs.capitalize(), text)
    text = re.sub(r"\bI\b", person.name, text, count=1)
    text = re.sub(r"(?<=[.!?] )I\b", capitalised(person.he), text)
    return re.sub(r"\bI\b", person.he, text)


@kind(
    "Rewrite this in the third person. It is about {name} ({he}/{him}).\n{text}",
    "{name} wrote this. Tell it with {name} and {he} instead of I.\n{text}",
    "third person please ({name}, {he}): {text}",
    "This is what {name} says. Say it as a reporter would, with '{he}'.\n{text}",
    "Change I to {name} or {he}, and everything that goes with it.\n{text}",
    "For our newsletter: turn {name}'s words into a text about {him}.\n{text}",
    "Introduce {name} to the others. Use {he}.\n{text}",
    "How would I tell a friend about {name}? {capital_he} told me this:\n{text}",
    "Put the text into the third person, please. The speaker is {name}, {he}.\n{text}",
    "1st person -> 3rd person, {name} = {he}\n{text}",
    "Write about {name} ({he}) what is said here in the first person.\n{text}",
    "Make a short portrait of {name} from {his} own words.\n{text}",
    "I need {name}'s statement in the third person, using {he}.\n{text}",
    "Retell this so that it is about {name} and uses {he} and {his}.\n{text}",
    "Convert the text from the first to the third person: {name}, {he}.\n{text}",
    checkable=False,
)
def about_somebody(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """What somebody says of himself, in the third person."""
    for number, life in rounds(generator, list(enumerate(LIVES))):
        person, city = people(generator, 1)[0], pick(generator, CITIES)
        text = life.format(city=city)
        given = {**person._asdict(), "capital_he": capitalised(person.he), "text": text.replace("*", "")}
        yield Item(f"{person.name}: {given['text']}", third_person(text, person), given, group=f"life: {number}")
