"""Questions about a short text, answered in a sentence."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.extraction import CITIES
from tasks.data.checkable.invented import capitalised, cells, people, rounds
from tasks.data.checkable.kind import Item, Sources, kind, pick

# A text | a question | its answer | another question | its answer.
TEXTS = (
    "{name} opened a bakery in {city} three years ago. {He} bakes {n} loaves every morning and sells them before noon.|"
    "How many loaves does {name} bake every morning?|{name} bakes {n} loaves every morning.|"
    "Where did {name} open a bakery?|{name} opened a bakery in {city}.",
    "The museum in {city} is closed on Mondays. On all other days it opens at ten, and children pay nothing.|"
    "When is the museum closed?|The museum is closed on Mondays.|"
    "How much do children pay at the museum?|Children pay nothing at the museum.",
    "{name} missed the bus because {his} alarm clock was broken. {He} took a taxi to the office and paid {n} euros.|"
    "Why did {name} miss the bus?|{name} missed the bus because {his} alarm clock was broken.|"
    "How did {name} get to the office?|{name} took a taxi to the office.",
    "The hikers reached the hut shortly before the storm. They made soup, dried their socks and stayed for two nights.|"
    "How long did the hikers stay in the hut?|The hikers stayed in the hut for two nights.|"
    "When did the hikers reach the hut?|The hikers reached the hut shortly before the storm.",
    "Every winter {name} feeds the birds in the yard. Last week {he} counted {n} sparrows and one owl.|"
    "How many sparrows did {name} count last week?|{name} counted {n} sparrows last week.|"
    "What does {name} do every winter?|{name} feeds the birds in the yard every winter.",
    "The old bridge was built of wood and burned down in a dry summer. The new one is made of stone and has {n} lamps.|"
    "What is the new bridge made of?|The new bridge is made of stone.|"
    "What happened to the old bridge?|The old bridge burned down in a dry summer.",
    "{name} is learning Portuguese because {his} grandparents live in Brazil. {He} practises for {n} minutes a day.|"
    "Why is {name} learning Portuguese?|{name} is learning Portuguese because {his} grandparents live in Brazil.|"
    "How long does {name} practise every day?|{name} practises for {n} minutes every day.",
    "Our school has a garden with {n} apple trees. Its pupils make juice in autumn and sell it for a class trip.|"
    "What do the pupils do with the juice?|The pupils sell the juice for a class trip.|"
    "How many apple trees does the school garden have?|The school garden has {n} apple trees.",
    "The ferry to the island leaves at nine and comes back at five. On stormy days it stays in the harbour.|"
    "When does the ferry leave for the island?|The ferry leaves for the island at nine.|"
    "What does the ferry do on stormy days?|The ferry stays in the harbour on stormy days.",
    "{name} found a violin in {his} aunt's attic. A shop in {city} repaired it, and now {he} plays it every evening.|"
    "Where did {name} find the violin?|{name} found the violin in {his} aunt's attic.|"
    "Who repaired the violin?|A shop in {city} repaired the violin.",
    "The town has bought {n} electric buses. They are quieter than the old ones, and the drivers like them.|"
    "What has the town bought?|The town has bought {n} electric buses.|"
    "Why are the electric buses better than the old ones?|The electric buses are quieter than the old ones.",
    "{name} keeps bees on the roof of a hotel in {city}. Guests can taste the honey at breakfast.|"
    "Where does {name} keep bees?|{name} keeps bees on the roof of a hotel in {city}.|"
    "When can guests taste the honey?|Guests can taste the honey at breakfast.",
    "The lighthouse has {n} steps. In the past a keeper lit the lamp by hand, but today a computer does it.|"
    "How many steps does the lighthouse have?|The lighthouse has {n} steps.|"
    "Who lit the lamp in the past?|In the past a keeper lit the lamp by hand.",
    "{name} sold {his} car and bought a cargo bike. Now {he} takes the children to school in it, even in the rain.|"
    "What did {name} buy?|{name} bought a cargo bike.|"
    "How does {name} take the children to school?|{name} takes the children to school in a cargo bike.",
    "The library lends not only books but also tools. A drill can be kept for {n} days, and it costs nothing.|"
    "How long can you keep a drill?|You can keep a drill for {n} days.|"
    "What does the library lend apart from books?|The library also lends tools.",
    "{name} and {his} brother run a small cinema. They show old films on Fridays and sell popcorn with cinnamon.|"
    "What do {name} and {his} brother run?|{name} and {his} brother run a small cinema.|"
    "When do they show old films?|They show old films on Fridays.",
    "The zoo has a new elephant from {city}. She is {n} years old and loves melons.|"
    "What does the new elephant love?|The new elephant loves melons.|"
    "How old is the new elephant?|The new elephant is {n} years old.",
    "After the flood the neighbours cleaned the street together. {name} cooked rice for {n} helpers.|"
    "What did {name} do for the helpers?|{name} cooked rice for {n} helpers.|"
    "When did the neighbours clean the street?|The neighbours cleaned the street after the flood.",
    "{name} writes the weather report for a radio station in {city}. {He} gets up at four and goes to bed at eight.|"
    "When does {name} get up?|{name} gets up at four.|"
    "What does {name} write for the radio station?|{name} writes the weather report for the radio station.",
    "The market moved from the square to the old station, because the square is being paved. It is open until two.|"
    "Why did the market move?|The market moved because the square is being paved.|"
    "Where is the market now?|The market is now at the old station.",
    "{name} runs in the forest before work. {His} dog comes along, but it never manages the last hill.|"
    "Where does {name} run before work?|{name} runs in the forest before work.|"
    "Who comes along when {name} runs?|{name}'s dog comes along.",
    "A whale was seen near the harbour on Sunday. About {n} people watched it from the pier until it swam away.|"
    "When was the whale seen?|The whale was seen on Sunday.|"
    "From where did people watch the whale?|People watched the whale from the pier.",
    "{name} repairs clocks. The oldest one in {his} shop is from a church in {city} and still strikes every hour.|"
    "How often does the oldest clock strike?|The oldest clock strikes every hour.|"
    "Where is the oldest clock from?|The oldest clock is from a church in {city}.",
    "The team lost the first three games. Then {name} became the coach, and in the end they won the cup.|"
    "Who became the coach of the team?|{name} became the coach of the team.|"
    "How many games did the team lose at first?|The team lost the first three games.",
    "In {name}'s village there is no shop. A van comes on Tuesdays and brings bread, milk and newspapers.|"
    "When does the van come?|The van comes on Tuesdays.|"
    "What does the van bring?|The van brings bread, milk and newspapers.",
    "{name} painted the kitchen yellow, but it was too bright. So {he} chose a soft green instead.|"
    "Why did {name} not keep the yellow?|{name} did not keep the yellow because it was too bright.|"
    "Which colour did {name} choose in the end?|In the end {name} chose a soft green.",
    "The train from {city} was full, so {name} stood the whole way. A boy offered {him} his seat near the end.|"
    "Why did {name} stand the whole way?|{name} stood the whole way because the train was full.|"
    "Who offered {name} a seat?|A boy offered {name} his seat.",
    "The café gives a discount of {n} cents to people who bring their own cup. Half of the guests do so now.|"
    "Who gets a discount at the café?|People who bring their own cup get a discount at the café.|"
    "How many of the guests bring their own cup?|Half of the guests bring their own cup.",
    "{name} planted garlic in October and picked it in July. {He} hung it in the shed, where it dried for {n} days.|"
    "When did {name} plant the garlic?|{name} planted the garlic in October.|"
    "Where did the garlic dry?|The garlic dried in the shed.",
    "Two foxes live behind the hospital in {city}. The nurses have given them names, but nobody feeds them.|"
    "Where do the two foxes live?|The two foxes live behind the hospital in {city}.|"
    "Who has given names to the foxes?|The nurses have given names to the foxes.",
    "{name} studies medicine in {city}. At weekends {he} works in a flower shop to pay the rent.|"
    "Where does {name} study medicine?|{name} studies medicine in {city}.|"
    "Why does {name} work in a flower shop?|{name} works in a flower shop to pay the rent.",
    "The pool is heated by the sun. In June the water is 22 degrees warm, and in August it is 26.|"
    "How is the pool heated?|The pool is heated by the sun.|"
    "How warm is the water in August?|In August the water is 26 degrees warm.",
    "{name} lost {his} ring on the beach. A girl with a metal detector found it after {n} minutes.|"
    "Where did {name} lose the ring?|{name} lost the ring on the beach.|"
    "Who found the ring?|A girl with a metal detector found the ring.",
    "The choir has {n} members and meets in the old chapel. Anybody may join, even without reading music.|"
    "Where does the choir meet?|The choir meets in the old chapel.|"
    "How many members does the choir have?|The choir has {n} members.",
    "{name} builds kites from silk. {His} biggest one looks like a dragon and needs two people to hold it.|"
    "What does {name}'s biggest kite look like?|{name}'s biggest kite looks like a dragon.|"
    "What does {name} build kites from?|{name} builds kites from silk.",
    "Because of the heat the marathon in {city} began at six in the morning. {n} runners gave up on the way.|"
    "Why did the marathon begin at six in the morning?|The marathon began at six in the morning because of the heat.|"
    "How many runners gave up?|{n} runners gave up on the way.",
    "{name} teaches chess to prisoners. {He} says that they lose with better manners than most people.|"
    "To whom does {name} teach chess?|{name} teaches chess to prisoners.|"
    "What does {name} say about the prisoners?|{name} says that they lose with better manners than most people.",
    "The farm sells milk from a machine at the gate. You put in a coin, place your bottle below and wait a little.|"
    "Where is the milk machine?|The milk machine is at the gate of the farm.|"
    "What do you put into the machine?|You put a coin into the machine.",
    "{name} wrote a letter to {his} future self in school. {He} opened it {n} years later and laughed a lot.|"
    "When did {name} open the letter?|{name} opened the letter {n} years later.|"
    "To whom did {name} write a letter?|{name} wrote a letter to {his} future self.",
    "The night market in {city} starts when it gets dark. {name} sells fried bananas there, {n} portions a night.|"
    "When does the night market start?|The night market starts when it gets dark.|"
    "What does {name} sell at the night market?|{name} sells fried bananas at the night market.",
    "A tree fell on the power line, so the village had no light for {n} hours. People met in the church with candles.|"
    "Why did the village have no light?|The village had no light because a tree fell on the power line.|"
    "Where did people meet?|People met in the church.",
    "{name} collects stamps with ships on them. {He} has {n} of them, and the rarest came in a letter from Peru.|"
    "What does {name} collect?|{name} collects stamps with ships on them.|"
    "How did the rarest stamp come to {name}?|The rarest stamp came in a letter from Peru.",
)


@kind(
    "{question}\n{text}",
    "Read the text and answer in a full sentence: {question}\n{text}",
    "{question} Answer in a sentence.\n{text}",
    "Here is a short text. {question}\n{text}",
    "Use the text below to answer my question. {question}\n{text}",
    "{question} You find it in this text.\n{text}",
    "pls answer from the text, whole sentence: {question}\n{text}",
    "I have read this but forgot: {question}\n{text}",
    "Reading exercise. {question} Write a complete sentence.\n{text}",
    "Answer with the help of the text. {question}\n{text}",
    "My homework says: {question} Please answer with a sentence.\n{text}",
    "{question} Look at the paragraph and reply with a sentence.\n{text}",
    "Could you look this up in the text for me? {question}\n{text}",
    "Tell me in a whole sentence: {question}\n{text}",
    "Answer the question about the text in one sentence. {question}\n{text}",
    checkable=False,
)
def answer_from_text(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """What a short text says of something, as a sentence."""
    for number, row in rounds(generator, list(enumerate(TEXTS))):
        person = people(generator, 1)[0]
        things = {**person._asdict(), "He": capitalised(person.he), "His": capitalised(person.his)}
        things |= {"city": pick(generator, CITIES), "n": str(generator.integers(12, 60))}
        text, *asked = (part.format(**things) for part in cells(row))
        question, answer = pick(generator, [asked[:2], asked[2:]])
        form = pick(generator, ["{}", "{}", "According to the text, {}"])
        if form[0] == "A" and not answer.startswith(person.name):
            answer = answer[0].lower() + answer[1:]
        given = {"question": question, "text": text}
        yield Item(f"{question} {text}", form.format(answer), given, group=f"text: {number}")
