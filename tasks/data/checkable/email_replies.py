"""Replies to short mails that ask somebody to come along: yes, or no with a reason."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.invented import DAYS, people, rounds
from tasks.data.checkable.kind import Item, Sources, framed, kind, pick

ACTIVITIES = (
    "go for a walk by the lake",
    "help at the school fair",
    "have dinner together",
    "go to the flea market",
    "play tennis",
    "see the new exhibition",
    "bake bread together",
    "sing in the choir",
    "go fishing",
    "have lunch at the Thai place",
    "watch the match on a big screen",
    "go climbing",
    "visit the botanical garden",
    "have a game night",
    "go on a bicycle tour",
    "try the new noodle bar",
    "plant trees in the park",
    "go to the farmers' market",
    "go to the puppet theatre",
    "practise Spanish",
    "go for a swim",
    "go to a jazz concert",
    "pick apples at a farm",
    "go to the planetarium",
    "take part in the pub quiz",
    "have breakfast in the park",
    "go to a yoga class",
    "go skating",
    "look at old photos",
    "go to the street festival",
    "make dumplings",
    "take the boat to the island",
    "go to a poetry evening",
    "paint the clubhouse",
    "go bird watching",
    "meet for coffee",
    "visit the science fair",
    "clean up the beach",
    "go to the opera",
    "walk the dogs",
    "go to a pottery class",
    "see a film at the open-air cinema",
    "go sledging",
    "play chess in the library",
)
REASONS = (
    "I have to work",
    "my sister is visiting",
    "I have a bad cold",
    "my car is at the garage",
    "I have a dentist appointment",
    "I promised to babysit",
    "I will be out of town",
    "I have an exam the next day",
    "we have guests",
    "my knee still hurts",
    "I have to finish a report",
    "my parents are moving house",
    "it is my son's birthday",
    "I am on call at the hospital",
    "I have tickets for a play",
    "I am saving money this month",
    "the plumber is coming",
    "I have a driving lesson",
    "my flight leaves that day",
    "I need some rest",
    "it is my wedding anniversary",
    "my dog has to see the vet",
)
MAILS = (
    "Hi {to}, would you like to {do} on {day}? Let me know! {sender}",
    "Hello {to},\n\nare you free on {day}? We could {do}.\n\nBest wishes,\n{sender}",
    "Dear {to},\n\nI was wondering if you would like to {do} on {day}.\n\nYours,\n{sender}",
    "{to}, do you want to {do} on {day}? It would be fun. Cheers, {sender}",
    "Hi {to}! Long time no see. How about this: we {do} on {day}? {sender}",
    "Hello {to}, the weather looks fine for {day}. Would you like to {do}? {sender}",
    "Good morning {to},\n\ndo you feel like joining me on {day}? My plan is to {do}.\n\n{sender}",
    "Dear {to}, any plans for {day}? I would be glad if we could {do}. Regards, {sender}",
    "Hi {to}, what are you doing on {day}? Do you want to {do}? {sender}",
    "Hello {to},\n\nI have an idea for {day}: would you like to {do}?\n\nSee you,\n{sender}",
)


@kind(
    "Reply to this email and {told}.\n{mail}",
    "Please answer this mail for me and {told}.\n{mail}",
    "write back and {told}\n{mail}",
    "I got this email. Write a friendly reply in which you {told}.\n{mail}",
    "How could I answer this? I want to {told}.\n{mail}",
    "Draft a short reply. It should {told}.\n{mail}",
    "Answer {sender} in a few kind sentences and {told}.\n{mail}",
    "can u reply for me? just {told}\n{mail}",
    "Help me with an answer to the message below: {told}.\n{mail}",
    "Write my reply to {sender}. Please {told}.\n{mail}",
    "Compose a polite answer to this email. I would like to {told}.\n{mail}",
    "{sender} has written to me. Write back politely and {told}.\n{mail}",
    "What do I write back if I want to {told}?\n{mail}",
    "Respond to the message in a nice way and {told}.\n{mail}",
    "Write an answer to this email in which I {told}.\n{mail}",
    checkable=False,
)
def email_reply(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A reply that accepts, or declines with a reason, as told."""
    forms = {
        True: (
            "Thank you for asking! I would love to {do} on {day}. I am looking forward to it!",
            "Thank you for your message! Yes, I would love to {do} on {day}. See you then!",
            "What a nice idea! Yes, I would love to {do} on {day}. I am looking forward to it!",
        ),
        False: (
            "Thank you for asking! Unfortunately, I can't {do} on {day} because {reason}. Maybe another time!",
            "Thank you for your message! I am sorry, but I can't {do} on {day} because {reason}. Maybe another time!",
            "What a nice idea! Unfortunately, I can't {do} on {day} because {reason}. Maybe another time!",
        ),
    }
    for do in rounds(generator, ACTIVITIES):
        writer, reader = people(generator, 2)
        day, reason, accepts = pick(generator, DAYS), pick(generator, REASONS), generator.random() < 0.5
        asked = {"to": reader.name, "sender": writer.name, "do": do, "day": day}
        if accepts:
            told = pick(generator, ["accept", "say yes", "agree", "accept with pleasure"])
        else:
            told = pick(generator, ["decline because {}", "say no because {}", "refuse politely because {}"])
        text = pick(generator, forms[bool(accepts)]).format(do=do, day=day, reason=reason)
        output = f"Hi {writer.name},\n\n{text}\n\nBest wishes,\n{reader.name}"
        given = {"told": told.format(reason), "mail": framed(generator, MAILS, **asked), "sender": writer.name}
        yield Item(f"{do}, {writer.name}", output, given, group=f"activity: {do}")
