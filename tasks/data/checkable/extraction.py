"""What a short message says: address, telephone number, date, amount, person, city."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.kind import Item, Sources, framed, kind, pick, word_list
from tasks.data.checkable.numbers import ONES

NAMES = word_list(
    "Anna Ben Clara David Ella Felix Grace Henry Ida Jack Karen Leo Maria Nina Oscar Paula Robert Sarah Tom Ursula "
    "Victor Wendy Adam Bella Carl Diana Emil Fiona George Hannah Ivan Julia Kevin Laura Martin Nora Oliver Petra "
    "Ruth Simon Tina Walter Alice Brian Chloe Daniel Emma Frank Helen Jonas Kate Lucas Mia Noah Olga Peter Rosa Sam "
    "Vera"
)
SURNAMES = word_list(
    "Miller Baker Brown Clark Cooper Fisher Green Hill Hunter Jensen King Lane Marsh Moore Novak Owen Parker Reed "
    "Rossi Schmidt Stone Taylor Turner Walker Ward Weber White Wood Young Berg Silva Costa Dubois Kowalski Larsen "
    "Tanaka"
)
CITIES = word_list(
    "Paris London Rome Berlin Madrid Vienna Lisbon Oslo Dublin Prague Warsaw Athens Boston Chicago Denver Seattle "
    "Toronto Montreal Sydney Melbourne Tokyo Osaka Delhi Mumbai Cairo Nairobi Lima Bogota Milan Naples Munich "
    "Hamburg Lyon Zurich Geneva Bristol Glasgow Leeds Liverpool Porto Seville Valencia Krakow Bergen Helsinki "
    "Stockholm Brussels Antwerp Amsterdam Rotterdam Istanbul Ankara Dallas Houston Miami Atlanta Portland Ottawa "
    "Kyoto Havana"
)
MONTHS = word_list("January February March April May June July August September October November December")
THINGS = word_list("bicycle lamp table coat camera chair phone guitar clock sofa watch printer bag tent kettle mirror")
SHOPS = word_list("orders info office sales contact support hello team shop booking")
HOSTS = word_list("example.com example.org example.net mail.example.com post.example.org shop.example.net")

EMAIL_FRAMES = (
    "You can reach {name} at {email} until Friday.",
    "Please send the form to {email} by Monday.",
    "My new address is {email}, the old one no longer works.",
    "For questions write to {email} or call us.",
    "Hi, this is {name}. Mail me at {email} when you know more.",
    "Tickets are sold by {name} ({email}).",
    "If the parcel is late, contact {email}.",
    "{name} asked me to forward the photos to {email}.",
    "The invoice came from {email} this morning.",
    "Write to {email} if you want to cancel.",
    "Send your ideas to {email} before the meeting with {name}.",
    "We have moved, so use {email} from now on.",
)
PHONE_FRAMES = (
    "Call {name} on {phone} before noon.",
    "My number is {phone}, please ring after five.",
    "The office can be reached at {phone} on weekdays.",
    "{name} has a new phone: {phone}.",
    "For a table, call {phone} or come by.",
    "If the lift is broken, dial {phone}.",
    "Hello, {name} here, you can text me at {phone}.",
    "Our hotline is {phone}, day and night.",
    "Please phone {phone} and ask for {name}.",
    "In case of trouble the number to call is {phone}.",
    "The plumber's number is {phone}, says {name}.",
    "You will find us under {phone} during the holidays.",
)
DATE_FRAMES = (
    "The meeting with {name} is on {date} in room 4.",
    "Please pay the bill before {date}.",
    "{name} was born on {date} in {city}.",
    "The concert takes place on {date} at eight.",
    "We will be on holiday until {date}.",
    "Your order was sent on {date}.",
    "The new school opens on {date} in {city}.",
    "My appointment was moved to {date}.",
    "The train to {city} does not run on {date}.",
    "{name} starts her new job on {date}.",
    "Registration closes on {date}, so hurry.",
    "On {date} the library in {city} stays shut.",
)
AMOUNT_FRAMES = (
    "The {thing} costs {amount} in the shop on the corner.",
    "{name} paid {amount} for the {thing}.",
    "Please transfer {amount} by Friday.",
    "The repair of the {thing} came to {amount}.",
    "A ticket to {city} is {amount} today.",
    "We spent {amount} on dinner in {city}.",
    "I sold my old {thing} for {amount}.",
    "Your invoice over {amount} is attached.",
    "The rent for the room in {city} is {amount} a month.",
    "{name} still owes me {amount} for the {thing}.",
    "They want {amount} for this {thing}, can you believe it?",
    "For {amount} you get the {thing} and free delivery.",
)
PERSON_FRAMES = (
    "Yesterday {person} gave a talk in {city}.",
    "The letter was signed by {person}.",
    "{person} will show you the office on Monday.",
    "We bought the {thing} from {person}.",
    "Please hand the keys to {person} before you leave.",
    "The winner of the race is {person}.",
    "According to {person}, the shop opens at nine.",
    "My neighbour {person} moved to {city}.",
    "The door was opened by {person}, the new manager.",
    "{person} has found a {thing} in the park.",
    "A package for {person} arrived this morning.",
    "Last week {person} flew back to {city}.",
)
CITY_FRAMES = (
    "{name} has lived in {city} for ten years.",
    "The train to {city} leaves at noon.",
    "We are spending our holiday in {city}.",
    "The conference will be held in {city} this May.",
    "My sister studies music in {city}.",
    "{name} drove from the sea to {city} in a day.",
    "The firm has opened an office in {city}.",
    "Snow fell in {city} last night.",
    "The best soup I ever had was in {city}, {name} says.",
    "Flights to {city} are cheap this week.",
    "{name} is moving to {city} in spring.",
    "A new bridge was built in {city}.",
)


def _message(generator: np.random.Generator, frames: tuple[str, ...], answer: str, **asked: str) -> Item:
    """A message for each split that says the same, with other things in it that are not asked for."""
    others = {"name": pick(generator, NAMES), "city": pick(generator, CITIES), "thing": pick(generator, THINGS)}
    return Item(answer, answer, {"message": framed(generator, frames, **(others | asked))})


@kind(
    "Find the email address in the text.\n{message}",
    "Which email address is mentioned here?\n{message}",
    "email address? {message}",
    "Extract the email address from this message: {message}",
    "Give me only the email address.\n{message}",
    "Please pick out the email address: {message}",
    "To which address can I send an email?\n{message}",
    "Read this and tell me the email: {message}",
    "I need the mail address that stands in here.\n{message}",
    "email: {message}",
    "Return just the e-mail address, nothing else.\n{message}",
    "Could you look up the email contact in this note? {message}",
    "Somebody's email is hidden in this text. Which is it?\n{message}",
    "What is the email address in the message?\n{message}",
    "Copy the email address from the text below.\n{message}",
)
def email_address(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The email address in a message."""
    while True:
        name, surname = pick(generator, NAMES), pick(generator, SURNAMES)
        user = pick(
            generator, [name, f"{name}.{surname}", f"{name[0]}.{surname}", f"{surname}{generator.integers(2, 99)}"]
        )
        user = pick(generator, [user, user, pick(generator, SHOPS)]).lower()
        email = f"{user}@{pick(generator, HOSTS)}"
        yield _message(generator, EMAIL_FRAMES, email, email=email, name=name)


@kind(
    "Find the phone number in the text.\n{message}",
    "Which phone number is mentioned here?\n{message}",
    "phone number? {message}",
    "Extract the telephone number from this message: {message}",
    "Give me only the phone number.\n{message}",
    "Please pick out the phone number: {message}",
    "What number can I call?\n{message}",
    "tel: {message}",
    "I need a phone number out of this note: {message}",
    "Which number do I have to dial? {message}",
    "Return just the telephone number, nothing else.\n{message}",
    "Could you look for a phone number in here?\n{message}",
    "Under which number can somebody be reached?\n{message}",
    "What is the phone number in the message?\n{message}",
    "Copy the telephone number from the text below.\n{message}",
)
def phone_number(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The telephone number in a message."""
    while True:
        phone = f"555-{generator.integers(0, 10_000):04d}"  # 555 is kept free for made-up numbers
        if generator.random() < 0.4:
            phone = f"555 {generator.integers(100, 1000)} {generator.integers(100, 1000)}"
        yield _message(generator, PHONE_FRAMES, phone, phone=phone)


@kind(
    "Find the date in the text.\n{message}",
    "Which date is mentioned here?\n{message}",
    "date? {message}",
    "Extract the date from this message: {message}",
    "Give me only the date.\n{message}",
    "Please pick out the date: {message}",
    "Which calendar date does this note give?\n{message}",
    "I need the date for my calendar: {message}",
    "date in this sentence: {message}",
    "Could you find out which date this is about? {message}",
    "Look for a date here and repeat it.\n{message}",
    "Return just the date, nothing else.\n{message}",
    "Take the date out of this note: {message}",
    "What is the date in the message?\n{message}",
    "Copy the date from the text below.\n{message}",
)
def date(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The date in a message."""
    while True:
        day, month = generator.integers(1, 29), pick(generator, MONTHS)
        year = f" {generator.integers(1990, 2030)}" if generator.random() < 0.4 else ""
        text = pick(generator, [f"{day} {month}{year}", f"{month} {day}" + (f",{year}" if year else "")])
        item = _message(generator, DATE_FRAMES, text, date=text)
        yield item._replace(group=f"date: {day} {month}")


@kind(
    "Find the amount of money in the text.\n{message}",
    "How much money is mentioned here?\n{message}",
    "amount? {message}",
    "Extract the amount of money from this message: {message}",
    "Give me only the amount.\n{message}",
    "Please pick out the amount of money: {message}",
    "What sum of money does this speak of? {message}",
    "I need the sum of money from this note: {message}",
    "sum of money: {message}",
    "Return just the sum, nothing else.\n{message}",
    "Look for an amount of money here and repeat it.\n{message}",
    "Could you find the sum that is named in here? {message}",
    "How much money is it about?\n{message}",
    "What is the amount of money in the message?\n{message}",
    "Copy the amount from the text below.\n{message}",
)
def amount(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The amount of money in a message."""
    while True:
        number = pick(
            generator, [f"{generator.integers(3, 400)}", f"{generator.integers(3, 90)}.{generator.integers(1, 10)}0"]
        )
        text = pick(generator, [f"${number}", f"{number} euros", f"{number} dollars", f"£{number}", f"€{number}"])
        yield _message(generator, AMOUNT_FRAMES, text, amount=text)


@kind(
    "Find the name of the person in the text.\n{message}",
    "Which person is mentioned here?\n{message}",
    "name of the person? {message}",
    "Extract the person's name from this message: {message}",
    "Give me only the name of the person.\n{message}",
    "Please pick out the person's name: {message}",
    "Who is mentioned? Write first name and surname.\n{message}",
    "Whose name stands in this note? {message}",
    "I need to know who this speaks of, with the surname.\n{message}",
    "person: {message}",
    "Return just the person's name, nothing else.\n{message}",
    "Look for somebody's name here and repeat it: {message}",
    "Could you tell me which man or woman appears in this sentence?\n{message}",
    "Who is the text about? Give the full name.\n{message}",
    "Copy the name of the person from the text below.\n{message}",
)
def person(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The full name of the person in a message."""
    while True:
        name = f"{pick(generator, NAMES)} {pick(generator, SURNAMES)}"
        yield _message(generator, PERSON_FRAMES, name, person=name)


@kind(
    "Find the city in the text.\n{message}",
    "Which city is mentioned here?\n{message}",
    "city? {message}",
    "Extract the name of the city from this message: {message}",
    "Give me only the city.\n{message}",
    "Please pick out the city: {message}",
    "Which town does this speak of? {message}",
    "I need the city that stands in here.\n{message}",
    "town: {message}",
    "Return just the city, nothing else.\n{message}",
    "Where? Answer with a city.\n{message}",
    "Could you find the city that this note names? {message}",
    "Look for a city here and repeat it.\n{message}",
    "What is the city in the message?\n{message}",
    "Copy the name of the city from the text below.\n{message}",
)
def city(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The city in a message."""
    while True:
        place = pick(generator, CITIES)
        item = _message(generator, CITY_FRAMES, place, city=place)
        train = item.fields["message"][0]
        yield item._replace(asked=train, group=f"city: {place}")


@kind(
    "How many {things} are there?\n{message}",
    "Read the text and say how many {things} there are.\n{message}",
    "number of {things}? {message}",
    "Answer with a number: how many {things} are in the text?\n{message}",
    "What number of {things} does the text mention? {message}",
    "Please tell me how many {things} the text speaks of: {message}",
    "Count the {things} in this text.\n{message}",
    "{things}: how many? {message}",
    "{message} So how many {things}?",
    "Look at the note and report the quantity of {things}.\n{message}",
    "Only the {things} matter to me. How many is that?\n{message}",
    "Could you say how many {things} we have here? {message}",
    "I need a figure for the {things}: {message}",
    "How many {things} does the message mention?\n{message}",
    "Give the number of {things}.\n{message}",
    told=["There are {answer} {things}."],
)
def quantity(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """How many of one thing a message speaks of, where it speaks of two."""
    frames = (
        "{name} bought {a} and {b}.",
        "There are {a} and {b} in the basket.",
        "We need {b} and {a} for the party.",
        "On the table lie {a} and {b}.",
        "The box holds {b} and {a}.",
        "{name} sold {a} and {b} at the market.",
        "I packed {b}, {a} and a map.",
        "{name} found {a} and {b} in the kitchen.",
        "Please bring {b} and {a} tomorrow.",
        "In the cupboard {name} counted {a} and {b}.",
    )
    things = word_list("apples pears eggs cups books pens plates lemons onions candles spoons oranges forks bottles")
    while True:
        one, two = pick(generator, things), pick(generator, things)
        n, m = (int(number) for number in generator.integers(2, 13, size=2))
        if one == two or n == m:
            continue
        shown = pick(generator, [(str(n), str(m)), (ONES[n], ONES[m])])
        item = _message(generator, frames, str(n), a=f"{shown[0]} {one}", b=f"{shown[1]} {two}")
        fields = {**item.fields, "things": one}
        yield Item(f"{n} {one}, {m} {two}", shown[0], fields, [str(n), ONES[n], f"{n} {one}", f"{ONES[n]} {one}"])
