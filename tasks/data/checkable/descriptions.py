"""Facts in a line or two, told in sentences: of a country, a product, two offers."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.countries import read_countries
from tasks.data.checkable.invented import capitalised, cells, noted, rounds
from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled, word_list

COLOURS = word_list("red blue green yellow purple orange pink brown black white grey turquoise")
# What | what it is made of | a verb and what it does | a price in euros.
PRODUCTS = (
    "kettle|steel|holds two litres|35",
    "rucksack|canvas|has six pockets|60",
    "rain jacket|recycled nylon|keeps you dry for hours|80",
    "lunch box|steel|has three compartments|18",
    "teapot|clay|serves four people|28",
    "desk lamp|metal|has a soft and a bright light|45",
    "blanket|wool|keeps two people warm|70",
    "water bottle|glass|comes with a leather strap|22",
    "garden chair|wood|folds flat in a second|55",
    "toy train|wood|has four wagons|30",
    "umbrella|strong silk|opens at the push of a button|40",
    "notebook|recycled paper|has two hundred pages|9",
    "cutting board|hard plastic|has a groove for the juice|25",
    "tent|light cotton|sleeps three people|190",
    "scarf|cashmere|is two metres long|85",
    "bread basket|felt|holds two loaves|20",
    "wallet|soft leather|has room for eight cards|32",
    "flower pot|clay|waters itself for a week|16",
    "hammock|cotton|carries up to 150 kilos|65",
    "alarm clock|plastic|wakes you with birdsong|27",
    "bicycle helmet|foam|has a lamp at the back|75",
    "picnic basket|painted wicker|comes with plates for four|90",
    "shopping bag|hemp|carries twelve kilos|12",
    "frying pan|enamelled iron|works on every stove|49",
    "stool|beech|turns into a small ladder|58",
    "door mat|coconut fibre|says welcome in ten languages|19",
    "dog bed|linen|can be washed at sixty degrees|44",
    "candle|beeswax|burns for forty hours|14",
    "watch|steel|shows the phases of the moon|210",
    "bookshelf|pine|holds a hundred books|120",
    "wall clock|metal|runs without a sound|52",
    "cushion|velvet|has a cover with a zip|24",
    "salad bowl|glazed clay|is big enough for six people|38",
    "kite|ripstop nylon|flies even in a light wind|29",
    "sleeping bag|goose down|keeps you warm at minus ten degrees|160",
    "suitcase|aluminium|rolls on four quiet wheels|140",
    "mirror|glass and painted wood|tilts to both sides|95",
    "apron|denim|has a pocket for the phone|26",
    "puzzle|cardboard|has a thousand pieces|17",
    "bird house|larch wood|has a roof that opens|33",
    "ring binder|cardboard|holds three hundred sheets|6",
    "swimming bag|oilcloth|dries within an hour|31",
)
# What both are called | what is paid for, if not the thing | a step of the price in euros | what else is given |
# what the better one is | least and most of it | which of these is better.
OFFERS = (
    "Hotel {}|a night|10|minutes from the beach|closer to the beach|3 30|less",
    "Flat {}|a month|100|square metres|larger|30 95|more",
    "Guest house {}|a night|5|minutes from the station|closer to the station|2 25|less",
    "Phone {}||20|hours of battery life|longer-lasting|9 40|more",
    "Laptop {}||50|kilos|lighter|2 4|less",
    "Car {}|a day|10|seats|roomier|2 9|more",
    "Gym {}|a month|5|classes a week|richer in classes|5 40|more",
    "Course {}|in all|20|lessons|longer|8 40|more",
    "Fridge {}||40|litres|bigger|90 300|more",
    "Tent {}||10|kilos|lighter|2 9|less",
    "Bus {}|one way|5|hours on the road|faster|3 12|less",
    "Train {}|one way|10|hours|quicker|2 9|less",
    "Office {}|a month|100|minutes from the centre|more central|3 40|less",
    "Boat {}|an hour|10|seats|bigger|3 14|more",
    "Caterer {}|a guest|5|dishes|more varied|3 15|more",
    "Printer {}||30|pages a minute|faster|8 45|more",
    "Cabin {}|a night|10|beds|roomier|2 9|more",
    "Bicycle {}||30|gears|better equipped|3 27|more",
    "Mower {}||50|decibels|quieter|55 95|less",
    "Camera {}||50|megapixels|sharper|12 60|more",
    "Mover {}|in all|40|helpers|better staffed|2 8|more",
    "Tutor {}|an hour|5|years of experience|more experienced|2 25|more",
    "Garden {}|a year|20|square metres|larger|80 400|more",
    "Van {}|a day|10|cubic metres|roomier|5 20|more",
    "Ferry {}|one way|5|hours|quicker|2 8|less",
    "Watch {}||20|days of battery life|longer-lasting|2 30|more",
    "Vacuum cleaner {}||20|decibels|quieter|58 90|less",
    "Campsite {}|a night|5|minutes from the lake|closer to the lake|2 20|less",
    "Sofa {}||100|seats|longer|2 6|more",
    "Hall {}|an evening|50|seats|bigger|60 400|more",
    "Museum {}|a ticket|2|rooms|larger|5 60|more",
    "Tour {}|a person|20|stops|more varied|3 12|more",
    "Projector {}||30|lumens|brighter|200 900|more",
    "Parking place {}|a month|10|minutes on foot|nearer|2 15|less",
    "Language school {}|a week|50|pupils in a class|more personal|3 20|less",
    "Washing machine {}||50|litres of water a load|more economical|35 70|less",
    "Photographer {}|in all|40|pictures|more generous|50 300|more",
    "Internet plan {}|a month|5|megabits a second|faster|20 500|more",
    "Heater {}||20|watts|more powerful|500 2500|more",
    "Drone {}||50|minutes in the air|longer in the air|8 45|more",
    "Band {}|an evening|50|hours of music|longer|2 6|more",
    "Swimming pool {}|a ticket|2|lanes|larger|4 12|more",
)
BRANDS = word_list(
    "Alba Aurora Bellevue Boreal Castor Cedar Cielo Cobalt Comet Delta Dolce Eden Egret Fauna Fjord Gala Haven Helios "
    "Indigo Iris Jade Juno Kestrel Lagoon Linden Lotus Lumen Magnolia Mistral Nimbus Nova Opal Orion Pearl Pluto "
    "Quartz Rialto Saffron Sequoia Sienna Solara Tango Tulip Umbra Vega Vista Willow Zenith"
)


@kind(
    "Write one or two sentences about the country from these facts.\n{facts}",
    "Turn the facts into a short text.\n{facts}",
    "facts -> text\n{facts}",
    "Describe {country} with what you find here.\n{facts}",
    "I need a short portrait of {country} for my poster. Use this:\n{facts}",
    "Put the following data on {country} into plain sentences.\n{facts}",
    "Introduce this country to somebody who has never heard of it.\n{facts}",
    "Please write a few words about {country} from my table.\n{facts}",
    "Make complete sentences out of the notes on {country}.\n{facts}",
    "can you write this out as text?\n{facts}",
    "Tell me about {country} in full sentences, using the list.\n{facts}",
    "Here is some data. Write a mini article about {country}.\n{facts}",
    "For a children's book: say in simple sentences what stands here.\n{facts}",
    "Write up these facts about {country} as a short text.\n{facts}",
    "Describe the country in plain sentences.\n{facts}",
    needs=["world-countries"],
    checkable=False,
)
def country_portrait(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Facts of a country, told in one or two sentences."""
    first = (
        "{country} is a country in {continent}, and its capital is {city}.",
        "{country} lies in {continent}, and its capital is {city}.",
    )
    second = (
        "{article} official language is {language}.",
        "The currency is the {money}.",
        "{article} official language is {language}, and the currency is the {money}.",
        "{article} official language is {language}, and people pay with the {money}.",
    )
    for country in sources.read(read_countries, "world-countries"):
        known = [country.capitals, country.continents, country.languages, country.currencies]
        if not all(known):
            continue
        city, continent, language, money = (right[0] for right in known)
        text = f"{pick(generator, first)} {pick(generator, second)}"
        facts = {"country": country.names[0], "capital": city, "continent": continent}
        if "{language}" in text:
            facts["official_language"] = language
        if "{money}" in text:
            facts["currency"] = money
        parts = {"continent": continent, "city": city.rstrip("."), "language": language, "money": money}
        parts["article"] = "The" if country.has_one_language else "An"
        output = text.format(country=capitalised(country.name), **parts)
        given = {"facts": noted(generator, **facts), "country": country.name}
        yield Item(country.names[0], output, given, group=country.group)


@kind(
    "Write a short product description.\n{facts}",
    "Describe this product for our online shop.\n{facts}",
    "product text please\n{facts}",
    "Turn the data into a text for the catalogue.\n{facts}",
    "This {product} is for sale. Write two sentences with these details.\n{facts}",
    "Please write an ad from the following list.\n{facts}",
    "How would you present this {product} to customers?\n{facts}",
    "make a nice description out of this\n{facts}",
    "Put the facts about the {product} into words for buyers.\n{facts}",
    "Could you write what the label of this product should say?\n{facts}",
    "Here are the features. Write a brief text that makes people want it.\n{facts}",
    "Compose a friendly description for a leaflet.\n{facts}",
    "We need one or two sentences about our new {product}.\n{facts}",
    "Write the text that goes next to the picture of the {product}.\n{facts}",
    "Tell customers about this product in two sentences.\n{facts}",
    checkable=False,
)
def product_description(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A product, described to people who might buy it."""
    forms = (
        "Our {colour} {product} is made of {material} and {feature}. You can have it for {price} euros.",
        "This {colour} {product} is made of {material} and {feature}. It is yours for {price} euros.",
        "This lovely {colour} {product} is made of {material} and {feature}. It costs only {price} euros.",
    )
    for product, material, feature, price in rounds(generator, [cells(row) for row in PRODUCTS]):
        colour, amount = pick(generator, COLOURS), int(price) + int(generator.integers(0, 10))
        facts = {"product": product, "colour": colour, "material": material, "feature": feature}
        output = pick(generator, forms).format(**facts, price=amount)
        facts = noted(generator, **facts, price=f"{amount} euros")
        yield Item(f"{colour} {product}", output, {"facts": facts, "product": product}, group=f"product: {product}")


@kind(
    "Compare the two offers.\n{offers}",
    "Which one should I take? Compare them for me.\n{offers}",
    "compare pls\n{offers}",
    "What is better about each of these?\n{offers}",
    "I can't decide. Tell me the pros of each in a sentence.\n{offers}",
    "Please compare price and {measure}.\n{offers}",
    "Help me choose between these two.\n{offers}",
    "How do they differ?\n{offers}",
    "Summarise the difference between the two offers.\n{offers}",
    "Look at the numbers and say which is cheaper and which is {better}.\n{offers}",
    "I have got two offers. What speaks for which?\n{offers}",
    "Write a sentence that compares these offers.\n{offers}",
    "{first} or {second}?\n{offers}",
    "Say in one sentence what speaks for each offer.\n{offers}",
    "Compare both offers in a sentence.\n{offers}",
    checkable=False,
)
def two_offers(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Two offers, compared by price and by something else."""
    both = (
        "{one} is both cheaper ({price}) and {better} ({best}).",
        "{one} is cheaper ({price}) and also {better} ({best}).",
    )
    each = (
        "{one} is cheaper ({price}), but {two} is {better} ({best}).",
        "{one} costs less ({price}), while {two} is {better} ({best}).",
    )
    for name, unit, step, measure, better, limits, direction in rounds(generator, [cells(row) for row in OFFERS]):
        low, high = map(int, limits.split())
        amounts = sorted(int(n) for n in generator.choice(np.arange(low, high + 1), 2, replace=False))
        best, other = amounts if direction == "less" else amounts[::-1]
        steps = np.cumsum(generator.integers([4, 1], [16, 6]))
        one, two = (name.format(brand) for brand in shuffled(generator, BRANDS)[:2])
        prices = {offer: f"{n * int(step)} euros {unit}".strip() for offer, n in zip((one, two), steps, strict=True)}
        is_both = generator.random() < 0.3
        values = {one: best, two: other} if is_both else {one: other, two: best}
        output = pick(generator, both if is_both else each).format(
            one=one, two=two, price=prices[one], better=better, best=f"{best} {measure.partition(' from ')[0]}"
        )
        shown = shuffled(generator, [one, two])
        lines = [f"{offer}: {prices[offer]}, {values[offer]} {measure}" for offer in shown]
        given = {"offers": "\n".join(lines), "measure": measure, "better": better}
        yield Item(" / ".join(lines), output, given | {"first": shown[0], "second": shown[1]}, group=f"offers: {name}")
