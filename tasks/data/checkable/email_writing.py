"""Short mails written from notes: thanks, invitations, appointments that are moved, requests."""

import re
from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.invented import (
    DAYS,
    TIMES,
    WORKDAYS,
    addressed,
    capitalised,
    cells,
    letter,
    noted,
    people,
    rounds,
)
from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled
from tasks.data.checkable.occasions import EVENTS, FAVOURS, GROUP_MEETINGS, HOURS, MEETINGS, REASONS, REQUESTED

CLOSINGS = ("Best wishes", "Kind regards", "Best regards", "Warm regards")


@kind(
    "Write a short thank-you email from these notes.\n{notes}",
    "Can you turn my notes into an email that says thank you?\n{notes}",
    "thank-you mail please\n{notes}",
    "I want to thank {to} for {favour}. The result: {result}. Write the email for me, signed {sender}.",
    "Please draft a friendly email to say thanks.\n{notes}",
    "Help me thank somebody. Here is what I have so far:\n{notes}",
    "Write an email to {to}: thanks for {favour}, {result}. Sign it {sender}.",
    "Compose a warm thank-you message based on the points below.\n{notes}",
    "need a quick email saying thanks, notes below\n{notes}",
    "I never know how to say thank you. Could you write it for me?\n{notes}",
    "Make a polite email of thanks out of this.\n{notes}",
    "Draft a thank-you note to be sent by mail.\n{notes}",
    "I am {sender}. What could I write to {to} to say thanks for {favour} ({result})?",
    "Put this into an email of thanks.\n{notes}",
    "Please write a brief email in which I say thank you.\n{notes}",
    checkable=False,
)
def thank_you_email(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A mail that thanks somebody for something and says what came of it."""
    forms = (
        "Thank you very much for {favour}. {result}, and I am really grateful.",
        "Thank you so much for {favour}. {result}, and that means a lot to me.",
        "I would like to thank you for {favour}. {result}, and I am very happy about that.",
    )
    for favour, result in rounds(generator, [cells(row) for row in FAVOURS]):
        sender, receiver = people(generator, 2)
        to = addressed(generator, receiver)
        notes = noted(generator, to=to, thanks_for=favour, result=result, sign=sender.name)
        text = pick(generator, forms).format(favour=favour, result=capitalised(result))
        given = {"notes": notes, "to": to, "favour": favour, "result": result, "sender": sender.name}
        output = letter(to, text, pick(generator, CLOSINGS), sender.name)
        yield Item(f"{favour}, {to}", output, given, group=f"favour: {favour}")


@kind(
    "Write a short invitation email from these notes.\n{notes}",
    "Can you write an email inviting somebody?\n{notes}",
    "invitation mail, details:\n{notes}",
    "Invite {to} to {event} on {day} at {time}, {place}. I am {sender}. Please write the email.",
    "Please draft an invitation with these details.\n{notes}",
    "Here is what I know about the event. Turn it into an invitation.\n{notes}",
    "I'd like {to} to come to {event} ({day}, {time}, {place}). Write an email, signed {sender}.",
    "Make a friendly invitation out of the points below.\n{notes}",
    "can u write the invite for this?\n{notes}",
    "Compose an email to invite my guest.\n{notes}",
    "Help me with an invitation, please.\n{notes}",
    "Put these facts into a warm invitation by email.\n{notes}",
    "What could I write to invite {to} to {event}? It is on {day} at {time} {place}. My name is {sender}.",
    "I need an email of invitation that contains all of this.\n{notes}",
    "Please write an email in which I invite somebody.\n{notes}",
    checkable=False,
)
def invitation_email(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A mail that invites somebody to an event: what, when, where."""
    forms = (
        "I would like to invite you to {event}. It is on {day} at {time} {place}. I hope you can come!",
        "I would be happy to see you at {event}. It is on {day} at {time} {place}. I hope you can come!",
        "You are warmly invited to {event} on {day} at {time} {place}. I hope to see you there!",
    )
    for event, place, part_of_day in rounds(generator, [cells(row) for row in EVENTS]):
        sender, receiver = people(generator, 2)
        to, day, time = addressed(generator, receiver), pick(generator, DAYS), pick(generator, HOURS[part_of_day])
        notes = noted(generator, to=to, what=event, when=f"{day}, {time}", where=place, sign=sender.name)
        text = pick(generator, forms).format(event=event, day=day, time=time, place=place)
        given = {"notes": notes, "to": to, "event": event, "place": place, "day": day, "time": time}
        output = letter(to, text, pick(generator, CLOSINGS), sender.name)
        yield Item(f"{event}, {to}", output, given | {"sender": sender.name}, group=f"event: {event}")


@kind(
    "Write an email to say that an appointment has to be moved.\n{notes}",
    "Can you tell {to} by mail that {meeting} moves from {old} to {new}? The reason: {reason}. I am {sender}.",
    "mail: new date, see notes\n{notes}",
    "Please draft a polite email about a change of date.\n{notes}",
    "I have to reschedule something. Write the email for me.\n{notes}",
    "Write to {to} that {meeting} will be on {new}, not on {old}, because {reason}. Sign as {sender}.",
    "Something came up and I need another time. Turn my notes into an email.\n{notes}",
    "Compose a short message about the new date.\n{notes}",
    "pls write an email, meeting is moved\n{notes}",
    "Help me to postpone this politely by email.\n{notes}",
    "The date has changed. Please let the other person know by mail.\n{notes}",
    "Make an email out of this change of plan.\n{notes}",
    "How do I tell {to} that {meeting} on {old} has to wait until {new} because {reason}? My name is {sender}.",
    "Inform the person below about the new time, in a short email.\n{notes}",
    "Please write an email in which I move an appointment.\n{notes}",
    checkable=False,
)
def moved_appointment_email(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A mail that moves an appointment to another day, and says why."""
    forms = (
        "Unfortunately, {meeting} on {old} has to be moved to {new} because {reason}. "
        "Please let me know if that suits you.",
        "I am sorry, but {meeting} on {old} has to be moved because {reason}. Would {new} suit you instead?",
        "I am sorry, but {meeting} can't take place on {old} because {reason}. "
        "Please let me know if {new} suits you instead.",
    )
    for meeting in rounds(generator, cells(MEETINGS)):
        sender, receiver = people(generator, 2)
        to, reason = addressed(generator, receiver), pick(generator, cells(REASONS))
        old, new = (f"{day} at {pick(generator, TIMES)}" for day in shuffled(generator, WORKDAYS)[:2])
        notes = noted(generator, to=to, what=meeting, old_date=old, new_date=new, reason=reason, sign=sender.name)
        text = pick(generator, forms).format(meeting=meeting, old=old, new=new, reason=reason)
        given = {"notes": notes, "to": to, "meeting": meeting, "old": old, "new": new, "reason": reason}
        output = letter(to, text, pick(generator, CLOSINGS), sender.name)
        yield Item(f"{meeting}, {to}", output, given | {"sender": sender.name}, group=f"meeting: {meeting}")


@kind(
    "Write a polite email that asks for something.\n{notes}",
    "Ask {to} by email for {thing}. I need {it} by {day} to {purpose}. Sign it {sender}.",
    "request mail from these notes pls\n{notes}",
    "Can you write an email to ask for this?\n{notes}",
    "Please draft a short request.\n{notes}",
    "I am missing something. Write an email that asks for it politely.\n{notes}",
    "Write to {to}: please send {thing} by {day}, I need {it} to {purpose}. From {sender}.",
    "Turn the notes into a friendly request by mail.\n{notes}",
    "Compose an email in which I ask for what I need.\n{notes}",
    "need to ask someone for something, write it nicely\n{notes}",
    "Help me write to somebody who should send me something.\n{notes}",
    "Make a courteous email out of this request.\n{notes}",
    "How can I ask {to} for {thing}? I want to {purpose} and need {it} by {day}. My name is {sender}.",
    "Formulate a kind request as an email.\n{notes}",
    "Please write an email in which I ask somebody to send me something.\n{notes}",
    checkable=False,
)
def request_email(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A mail that asks for something by a day, and says what it is for."""
    forms = (
        "Could you please send me {thing} by {day}? I need {it} to {purpose}.",
        "Could you send me {thing}, please? I need {it} by {day} to {purpose}.",
        "Would you be so kind as to send me {thing} by {day}? I need {it} to {purpose}.",
    )
    for thing, purpose, it in rounds(generator, REQUESTED):
        sender, receiver = people(generator, 2)
        to, day = addressed(generator, receiver), pick(generator, DAYS)
        notes = noted(generator, to=to, please_send=thing, by=day, needed_to=purpose, sign=sender.name)
        text = pick(generator, forms).format(thing=thing, day=day, it=it, purpose=purpose)
        given = {"notes": notes, "to": to, "thing": thing, "purpose": purpose, "it": it, "day": day}
        closing = pick(generator, ["Many thanks", "Many thanks and best wishes", "Thank you and kind regards"])
        output = letter(to, text, closing, sender.name)
        yield Item(f"{thing}, {to}", output, given | {"sender": sender.name}, group=f"request: {thing}")


# A wish in a sentence | the mail.
WISHES = (
    "moves {meeting} from {old} to {new}|Unfortunately, {meeting} on {old} has to be moved to {new}. "
    "Please let me know if that suits you.",
    "moves {old}'s meeting to {new}|Unfortunately, our meeting on {old} has to be moved to {new}. "
    "Please let me know if that suits you.",
    "cancels {meeting} on {old}|I am sorry, but I have to cancel {meeting} on {old}. "
    "I will get in touch about a new date.",
    "reminds of {meeting} on {old}|This is a friendly reminder of {meeting} on {old}. See you then!",
    "confirms {meeting} on {old}|I am happy to confirm {meeting} on {old}. See you then!",
    "says that I will be late for {group} on {old}|I am sorry, but I will be a little late for {group} on {old}. "
    "Please begin without me.",
    "says that I am ill and can't come on {old}|I am sorry, but I am ill and can't come on {old}. "
    "I hope to be back soon.",
    "says sorry that I missed {meeting} on {old}|I am very sorry that I missed {meeting} on {old}. "
    "It will not happen again.",
    "says thank you for {favour}|Thank you very much for {favour}. I am very grateful.",
    "invites to {event} on {old}|I would like to invite you to {event} on {old}. I hope you can come!",
    "declines the invitation to {their} on {old}|Thank you very much for the invitation to {their} on {old}. "
    "Unfortunately, I can't come. I hope you have a wonderful time!",
    "accepts the invitation to {their} on {old}|Thank you very much for the invitation to {their} on {old}. "
    "I am happy to come!",
    "asks for {request} by {old}|Could you please send me {request} by {old}? Thank you very much for your help.",
)


@kind(
    "Write {mail}.",
    "Please write {mail}.",
    "Can you write {mail}?",
    "I need {mail}.",
    "write {mail}",
    "Draft {mail}, please.",
    "Help me with {mail}.",
    "Could you draft {mail}?",
    "Compose {mail}.",
    "I would like to send {mail}. What do I write?",
    "Give me the text of {mail}.",
    "Make me {mail}.",
    checkable=False,
)
def brief_email(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A mail that somebody wants in a sentence: what it does not say stays open, in brackets."""
    for wish, text in rounds(generator, [cells(row) for row in WISHES]):
        old, new = shuffled(generator, WORKDAYS)[:2]
        given = {
            "meeting": pick(generator, cells(MEETINGS)),
            "favour": cells(pick(generator, FAVOURS))[0],
            "event": cells(pick(generator, EVENTS))[0],
            "request": pick(generator, REQUESTED)[0],
            "group": pick(generator, cells(GROUP_MEETINGS)),
        }
        given["their"] = re.sub(r"\b(my|our)\b", "your", given["event"])
        asked, to = wish.format(old=old, new=new, **given), pick(generator, people(generator, 1)).name
        named, mail = generator.random() < 0.5, pick(generator, ["a mail", "an email", "a short mail"])
        output = letter(
            to if named else "[name]", text.format(old=old, new=new, **given), pick(generator, CLOSINGS), "[your name]"
        )
        # Groups of other kinds, too.
        known = given | {"meeting": given["group"] if "{group}" in wish else given["meeting"]}
        kinds = {"group": "meeting", "their": "event"}
        uses = [kinds.get(what, what) for what in given if f"{{{what}}}" in wish]
        about = [f"{what}: {known[what]}" for what in uses]
        wanted = f"{mail} to {to} that {asked}" if named else f"{mail} that {asked}"
        yield Item(asked, output, {"mail": wanted}, group=about[0] if about else f"wish: {asked}")
