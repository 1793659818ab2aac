"""What a mail says in short: a sentence that sums it up, and its subject line."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tasks.data.checkable.extraction import CITIES
from tasks.data.checkable.invented import TIMES, WORKDAYS, cells, people, rounds
from tasks.data.checkable.kind import Item, Sources, Wording, framed, kind, pick

# What the mail says | what its writer does, in short | its subject.
GISTS = (
    "Could you water my plants while I am in {city} next week? The key is under the blue pot, and twice is enough.|"
    "asks {to} to water {his} plants while {he} is in {city} next week|Watering my plants next week",
    "The lift will be out of order from {day} on, because the cables are being replaced. Please use the stairs.|"
    "says that the lift will be out of order from {day} on|Lift out of order from {day}",
    "I have to move our meeting to {day} at {time}, as I will be at a conference on the old date.|"
    "has to move the meeting to {day} at {time}|Meeting moved to {day} at {time}",
    "I found a grey cat in my garden this morning. It has a red collar but no name on it. Do you know whose it is?|"
    "has found a grey cat and wants to know whose it is|Found: grey cat with a red collar",
    "The report is almost done, only the charts are missing. I will send it to you on {day}.|"
    "will send the report to {to} on {day}|Report ready on {day}",
    "I got the job in {city}! I start next month and am already looking for a flat.|"
    "has got the job in {city} and starts next month|I got the job in {city}",
    "The printer on our floor is broken again. A technician comes on {day}; until then use the one downstairs.|"
    "says that the printer is broken and that a technician comes on {day}|Printer broken until {day}",
    "My train to {city} was cancelled, so I won't be there before {time}. Please start without me.|"
    "will be late because {his} train was cancelled, and asks {to} to start without {him}|"
    "Late because of a cancelled train",
    "I am selling my old bicycle because I have bought a new one. Would you like to have a look on {day}?|"
    "is selling {his} old bicycle and asks if {to} wants to see it on {day}|Old bicycle for sale",
    "The caretaker will read the water meters on {day}. Somebody should be at home between eight and ten.|"
    "says that the water meters will be read on {day}|Reading of the water meters on {day}",
    "I left my umbrella at your office yesterday. Could you keep it for me? I will fetch it on {day}.|"
    "left {his} umbrella at {to}'s office and will fetch it on {day}|My umbrella at your office",
    "Our team won the final! We are celebrating on {day} at {time} in the clubhouse, and everybody is welcome.|"
    "says that the team won the final and celebrates on {day} at {time}|We won: party on {day} at {time}",
    "I can't find the invoice for the new chairs. Could you send it to me again before {day}?|"
    "asks {to} to send the invoice for the new chairs again before {day}|Please send the invoice for the chairs again",
    "I will be on holiday from {day} and back in two weeks. In urgent cases please write to {other}.|"
    "will be on holiday from {day} and names {other} for urgent cases|On holiday from {day}",
    "The swimming course is full, but we have put your daughter on the waiting list. We will call if a place is free.|"
    "says that the swimming course is full and that {to}'s daughter is on the waiting list|"
    "Swimming course full, waiting list",
    "I have read your story twice and love the ending. Only the first page is a little long, so I would cut it.|"
    "loves the story but would cut the first page|Comments on your story",
    "Your car is ready. We have changed the oil and the brakes, and you can pick it up until {time}.|"
    "says that {to}'s car is ready and can be picked up until {time}|Your car is ready",
    "We need three more people for the bake sale on {day}. Can you bring a cake or help at the stall?|"
    "asks {to} to bring a cake or help at the bake sale on {day}|Help wanted for the bake sale on {day}",
    "I have been ill since yesterday, so I can't teach my class on {day}. Could you take it over?|"
    "is ill and asks {to} to take over {his} class on {day}|Can you take over my class on {day}?",
    "My flight from {city} lands at {time}. Could you pick me up? I have four heavy suitcases.|"
    "asks {to} to pick {him} up at the airport at {time}|Picking me up at the airport at {time}",
    "Somebody has parked in front of my garage again. If the white van is yours, please move it before {time}.|"
    "wants the white van in front of {his} garage to be moved before {time}|White van in front of my garage",
    "I have booked a table for six at the Olive Tree on {day} at {time}. It is the one next to the post office.|"
    "has booked a table at the Olive Tree on {day} at {time}|Table booked for {day} at {time}",
    "The library will be closed from {day}, because the floor is being renewed. Please return books at the town hall.|"
    "says that the library will be closed from {day}|Library closed from {day}",
    "I have lost the password for the shared folder. Could you reset it today? I need the files for my talk.|"
    "has lost the password for the shared folder and asks {to} to reset it|Password for the shared folder",
    "{other} is retiring next month after thirty years. I am collecting money for a present until {day}.|"
    "is collecting money for a present because {other} is retiring|Present for {other}",
    "The offer from the painter has come. It is cheaper than we thought, so I suggest that we accept it by {day}.|"
    "suggests accepting the offer from the painter by {day}|Offer from the painter",
    "We had to cancel the concert on {day} because the singer has lost her voice. You will get your money back.|"
    "says that the concert on {day} is cancelled and that {to} will get the money back|Concert on {day} cancelled",
    "Our baby was born this morning! We have chosen the name {other}, and mother and child are well.|"
    "is happy to say that the baby was born this morning|Our baby was born this morning",
    "I am writing an article about {city} and have heard that you lived there. May I call you on {day}?|"
    "is writing an article about {city} and would like to call {to} on {day}|Call about {city} on {day}",
    "The sofa that you ordered has arrived. We can deliver it on {day} at {time}. Is that all right?|"
    "can deliver {to}'s sofa on {day} at {time}|Delivery of your sofa on {day}",
    "Our neighbours complained about the noise on the roof. Please don't use the terrace after ten at night.|"
    "asks {to} not to use the terrace after ten at night|No noise on the terrace after ten",
    "The exam has been moved to {day} at {time}, in the big hall. Please tell the others.|"
    "says that the exam has been moved to {day} at {time}|Exam moved to {day} at {time}",
    "I have too many tomatoes this year. If you want some, come by on {day} and bring a basket.|"
    "has too many tomatoes and offers some to {to}|Tomatoes to give away",
    "I have checked the figures that you sent, and two are wrong. Please correct rows four and nine by {day}.|"
    "asks {to} to correct two wrong figures by {day}|Two wrong figures to correct by {day}",
    "From {day} the bus to {city} leaves ten minutes earlier. Please don't miss it!|"
    "says that the bus to {city} leaves ten minutes earlier from {day}|Bus to {city} leaves earlier from {day}",
    "I can't come to the rehearsal on {day} because my violin is being repaired.|"
    "can't come to the rehearsal on {day} because {his} violin is being repaired|"
    "I can't come to the rehearsal on {day}",
    "We have looked at your application and would like to meet you on {day} at {time}. Please bring your certificates.|"
    "invites {to} to an interview on {day} at {time}|Your interview on {day} at {time}",
    "The washing machine in the cellar leaks. I have called the plumber, but please don't use it until {day}.|"
    "asks {to} not to use the washing machine until {day}, because it leaks|Washing machine leaks",
    "I am moving to {city} in spring and my flat will be free. Do you know anybody who is looking for one?|"
    "is moving to {city} and asks if {to} knows anybody who needs {his} flat|My flat will be free in spring",
    "The school trip to {city} is on {day}. The children need a packed lunch and good shoes.|"
    "says that the school trip to {city} is on {day}|School trip to {city} on {day}",
    "Your book has been lying on my desk for a year, and I feel bad about it. I will bring it back on {day}.|"
    "will bring back {to}'s book on {day}|Your book comes back on {day}",
    "Our website has been down since {time}. I have told the provider, and they hope to mend it by {day}.|"
    "says that the website is down and should be mended by {day}|Website down since {time}",
)
OPENERS = (
    "I hope you are well.",
    "How was your weekend?",
    "It was nice to see you the other day.",
    "I hope the week has started well for you.",
    "Sorry for writing so late.",
    "Thank you for your last message.",
    "I hope you had a good rest.",
    "Just a quick note from me.",
    "I hope all is fine at home.",
    "What a rainy week this is!",
    "Greetings from all of us.",
    "It has been a while since we talked.",
    "I hope you are enjoying the sunshine.",
    "Finally I find time to write to you.",
)
CLOSERS = (
    "Have a lovely day!",
    "Say hello to the family.",
    "See you soon!",
    "Call me if you have any questions.",
    "Thank you for everything!",
    "All the best to you.",
    "I hope to hear from you.",
    "Take care!",
    "Enjoy the rest of the week.",
    "Thanks a lot in advance!",
    "Give my love to the children.",
    "Many greetings to everybody.",
    "Stay healthy!",
    "Let's talk again soon.",
)
MAILS = (
    "Hi {to},\n\n{opener} {says} {closer}\n\n{sender}",
    "Dear {to},\n\n{opener} {says}\n\n{closer}\n\nBest wishes,\n{sender}",
    "Hello {to}! {says} {closer} {sender}",
    "Hey {to}! {opener} {says} {sender}",
    "Dear {to},\n\n{says}\n\nKind regards,\n{sender}",
    "Hi {to}! {opener} {says} Bye, {sender}",
    "Good morning {to},\n\n{opener} {says} {closer}\n\nYours,\n{sender}",
    "Hello {to},\n\n{opener} {says}\n\n{closer}\n{sender}",
)


class Mail(NamedTuple):
    """A mail in a dress for each split, and what it says in short."""

    texts: tuple[str, str, str]
    sender: str
    gist: str
    subject: str
    group: str

    @property
    def fields(self) -> dict[str, Wording]:
        """What phrasings are filled in with."""
        return {"mail": self.texts, "sender": self.sender}


def _mails(generator: np.random.Generator) -> Iterator[Mail]:
    """Mails about everything in GISTS, again and again."""
    for number, row in rounds(generator, list(enumerate(GISTS))):
        writer, reader, other = people(generator, 3)
        things = {"to": reader.name, "other": other.name, "day": pick(generator, WORKDAYS)}
        things |= {"city": pick(generator, CITIES), "time": pick(generator, TIMES[1:])}
        says, gist, subject = (text.format(**things, **writer._asdict()) for text in cells(row))
        # Braces stay for what differs between the splits.
        frames = framed(generator, MAILS, **things, says=says, sender=writer.name, opener="{opener}", closer="{closer}")
        greetings = zip(framed(generator, OPENERS), framed(generator, CLOSERS), strict=True)
        train, validation, test = (
            frame.format(opener=opener, closer=closer)
            for frame, (opener, closer) in zip(frames, greetings, strict=True)
        )
        yield Mail((train, validation, test), writer.name, gist, subject, f"mail: {number}")


@kind(
    "Summarise this email in one sentence.\n{mail}",
    "What does {sender} want to say? One sentence, please.\n{mail}",
    "tl;dr\n{mail}",
    "Give me the gist of the message below in a single sentence.\n{mail}",
    "I have no time to read this. What is it about, in short?\n{mail}",
    "Sum up the mail for me in a sentence.\n{mail}",
    "Please tell me in one sentence why {sender} is writing.\n{mail}",
    "Boil this email down to its main point.\n{mail}",
    "short summary of this mail pls\n{mail}",
    "What is the main message of this email?\n{mail}",
    "Write a summary of one sentence.\n{mail}",
    "Could you condense what {sender} writes to one line?\n{mail}",
    "My boss wants to know what this mail says. Tell her in one sentence.\n{mail}",
    "Shorten the following message to one sentence in the third person.\n{mail}",
    "In one sentence, what is this email about?\n{mail}",
    checkable=False,
)
def email_summary(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A sentence that says what a mail says, without what is only polite."""
    forms = ("{sender} {gist}.", "In short, {sender} {gist}.", "To sum up, {sender} {gist}.")
    for mail in _mails(generator):
        output = pick(generator, forms).format(sender=mail.sender, gist=mail.gist)
        yield Item(f"{mail.sender} {mail.gist}", output, mail.fields, group=mail.group)


@kind(
    "Write a subject line for this email.\n{mail}",
    "What could the subject of this mail be?\n{mail}",
    "subject line?\n{mail}",
    "The email below has no subject yet. Suggest one.\n{mail}",
    "Please find a short subject for the message.\n{mail}",
    "I forgot the subject line. What should I write there?\n{mail}",
    "Give this email a subject that says what it is about.\n{mail}",
    "Come up with a clear subject line for what {sender} wrote.\n{mail}",
    "need a subject for this\n{mail}",
    "Which subject fits this message?\n{mail}",
    "Propose a brief and helpful subject for the following mail.\n{mail}",
    "Suggest a heading under which {sender} could send this email.\n{mail}",
    "What would you put into the subject field?\n{mail}",
    "Name a suitable subject line.\n{mail}",
    "Think of a subject for this email.\n{mail}",
    checkable=False,
)
def subject_line(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A subject line, of few words, that says what a mail is about."""
    for mail in _mails(generator):
        yield Item(f"{mail.sender}: {mail.subject}", mail.subject, mail.fields, group=mail.group)
