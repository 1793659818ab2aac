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

CLOSINGS = ("Best wishes", "Kind regards", "Best regards", "Warm regards")
# What for | what came of it.
FAVOURS = (
    "helping me move|everything was in the new flat by noon",
    "lending me your ladder|the gutter is clean again",
    "the lovely flowers|the whole room smells of spring",
    "looking after our dog|we had a holiday without worries",
    "the lift to the airport|I caught my plane with time to spare",
    "proofreading my thesis|I handed it in without a single typo",
    "the birthday cake|there was not one crumb left",
    "fixing my bicycle|it runs like new",
    "the advice about the job interview|I got the job",
    "watering my tomatoes|I picked the first ripe ones today",
    "babysitting on Saturday|we saw the film we had been waiting for",
    "the book about the stars|I finished it in two evenings",
    "showing me around the city|I already feel at home here",
    "explaining the new software|I can now do the reports on my own",
    "bringing back my lost wallet|nothing was missing",
    "the homemade jam|the children ask for it every morning",
    "covering my shift|I could be at my son's school play",
    "translating the letter|I finally understand what the office wants",
    "the concert tickets|we had the best seats in the house",
    "painting the fence with me|it looks wonderful",
    "the donation to the animal shelter|we could buy food for a whole month",
    "the warm welcome in the team|my first week flew by",
    "recommending the dentist|my toothache is gone",
    "lending us the tent|we stayed dry in the rain",
    "helping with the tax form|I get some money back this year",
    "the recipe for the fish curry|my guests loved it",
    "repairing the heating so quickly|the flat is warm again",
    "the help at the school fair|we raised more than ever before",
    "the photos of the wedding|I have put one on my desk",
    "teaching me to knit|my first scarf is almost ready",
    "picking up the parcel for me|the gift arrived in time",
    "the invitation to dinner|I have not laughed so much in months",
    "visiting me in hospital|I felt much better afterwards",
    "the piano lessons|I can play a whole song by heart",
    "finding my cat|she is asleep on the sofa now",
    "helping me practise my English|I passed the exam",
    "the gardening gloves|my hands have no scratches any more",
    "shovelling the snow|I got to work on time",
    "lending me your drill|the shelves are up at last",
    "the quick delivery|the chairs were here before the party",
    "the patience during the driving lessons|I passed the test at the first try",
    "setting up my new computer|everything works perfectly",
)
HOURS = {
    "morning": ("9 am", "9:30 am", "10 am", "10:30 am", "11 am"),
    "noon": ("noon", "12:30 pm", "1 pm"),
    "afternoon": ("2 pm", "2:30 pm", "3 pm", "3:30 pm", "4 pm"),
    "evening": ("6 pm", "6:30 pm", "7 pm", "7:30 pm", "8 pm"),
}
# What | where | when, as in HOURS.
EVENTS = (
    "our housewarming party|in our new flat at 12 Mill Lane|evening",
    "a barbecue|in our garden|afternoon",
    "the opening of my shop|at 5 Market Street|morning",
    "my birthday dinner|at the Golden Lotus|evening",
    "a film night|at my place|evening",
    "our summer fair|on the school playground|afternoon",
    "the spring concert of our choir|in St Mary's Church|evening",
    "a picnic|by the lake in the park|afternoon",
    "a farewell lunch for Ruth|in the canteen|noon",
    "the first reading from my book|at the town library|evening",
    "a game evening|in the common room|evening",
    "our wedding|at Rosewood Farm|afternoon",
    "the opening of my exhibition|at the Gallery on the Hill|evening",
    "a workshop on bread baking|in the kitchen of the community centre|afternoon",
    "our street party|between numbers 10 and 30 of Oak Road|afternoon",
    "a tea party|in my grandmother's garden|afternoon",
    "the school play|in the main hall|evening",
    "a walk through the old town|in front of the museum|morning",
    "our annual meeting|in room 204|evening",
    "a tour of our farm|at Hillside Farm|morning",
    "my graduation party|on the roof of the student house|evening",
    "the football final of our youth team|at the stadium by the river|afternoon",
    "a cooking evening|at our house|evening",
    "a swap of plants and seeds|in the yard of the old mill|morning",
    "our open day|at the fire station|morning",
    "the dance show of our group|at the City Theatre|evening",
    "a talk about bees|in the village hall|evening",
    "a boat trip|at pier 3|afternoon",
    "a pancake breakfast|in our kitchen|morning",
    "the baby shower for Noor|at Café Jasmine|afternoon",
    "our team breakfast|in the meeting room on the second floor|morning",
    "a lantern walk|at the gate of the kindergarten|evening",
    "a chess tournament|in the reading room|afternoon",
    "a campfire|on the beach below the lighthouse|evening",
    "our clothes swap|in the cellar of the youth club|afternoon",
    "a repair café|in the bicycle workshop|afternoon",
    "the retirement party of our headmaster|in the staff room|afternoon",
    "an evening of songs|at the Blue Door|evening",
    "a pottery class|in my studio|afternoon",
    "our harvest dinner|in the barn|evening",
    "the first training of the rowing club|at the boathouse|morning",
    "a tour of the new office|at the main entrance|morning",
)
MEETINGS = (
    "our piano lesson|the budget meeting|the dentist appointment|the viewing of the flat|our talk|the guitar lesson|"
    "the job interview|our video call|the delivery of the sofa|the chess training|our tennis match|the staff meeting|"
    "our driving lesson|the guided tour|the choir rehearsal|our coffee morning|the project review|"
    "the repair of the boiler|"
    "the book club|the workshop on first aid|the garden meeting|the eye test|the kick-off meeting|the photo session|"
    "our walk|the visit to the vet|the signing of the contract|the yoga class|the haircut|the sales talk|"
    "the tour of the factory|our study group|the swimming lesson|the handover of the keys|the cooking class|"
    "the committee meeting|the test drive|the fitting at the tailor's|the language exchange|our planning session|"
    "the check of the fire alarms|the interview for the school newspaper"
)
# Of these, what others can begin without me.
GROUP_MEETINGS = (
    "the budget meeting|our video call|the chess training|the staff meeting|the guided tour|the choir rehearsal|"
    "our coffee morning|the project review|the book club|the workshop on first aid|the garden meeting|"
    "the kick-off meeting|the yoga class|the tour of the factory|our study group|the cooking class|"
    "the committee meeting|the language exchange|our planning session"
)
REASONS = (
    "I have to travel for work|we have visitors from abroad|my train connection was cancelled|I have a bad cold|"
    "I am moving house that day|my daughter is ill|that day is a public holiday|I have an exam on that day|"
    "my car has broken down|I am needed at another office|I have to see a doctor|my flight leaves that morning|"
    "I have to look after my grandson|we are short of staff|my back is hurting|it is my son's first day at school|"
    "I am expected in court|I have to pick up my mother from hospital|my passport has to be renewed that day|"
    "I booked two things at once"
)
# What is asked for | what it is needed for; what is more than one thing stands below.
DOCUMENTS = (
    "the signed contract|show it to the landlord",
    "the floor plan|order the carpets",
    "the new address|send the parcel",
    "the invoice for May|finish the accounts",
    "a copy of my certificate|apply for a course",
    "the programme of the conference|book my train",
    "the recipe for the lentil soup|cook it for my parents",
    "the guest list|plan the tables",
    "the bill for the dinner|split the costs",
    "the latest version of the report|prepare my talk",
    "the timetable|plan my week",
    "a proof of my insurance|rent a car",
    "the key code for the side door|let the painters in",
    "a letter of recommendation|apply for a scholarship",
    "the menu|choose the wine",
    "a list of the spare parts|repair the washing machine",
    "the seating plan|print the name cards",
    "the number of the bus line|find the house",
    "the translation of the leaflet|send it to the printer",
    "a receipt for the donation|fill in my tax form",
    "the map of the campsite|choose a good place",
    "the access code|log in from home",
)
SEVERAL_DOCUMENTS = (
    "the photos of the trip|make an album",
    "the minutes of the last meeting|write the summary",
    "the measurements of the window|sew the curtains",
    "the comments on my draft|hand in the final text",
    "the slides of the talk|share them with the class",
    "the test results|talk to my doctor",
    "the exam questions from last year|practise",
    "the sizes of the shirts|place the order",
    "the names of the new pupils|prepare the badges",
    "the sales figures for June|draw the chart",
    "the opening hours of the pool|plan the school trip",
    "the notes of the first lesson|catch up",
    "the papers for the car|sell it",
    "the plans of the kitchen|order the cupboards",
    "the rules of the competition|register my team",
    "the contact details of the electrician|have the lamp repaired",
    "the forms for the library card|register my children",
    "the prices for twenty chairs|compare the offers",
    "the dates of the next courses|plan my holiday",
    "the words of the song|practise at home",
)
REQUESTED = [(*cells(row), "it") for row in DOCUMENTS] + [(*cells(row), "them") for row in SEVERAL_DOCUMENTS]


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
    "I am {sender}. What could I write to {to} to say thanks for {favour} ({result})?",
    "Draft a thank-you note to be sent by mail.\n{notes}",
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
    "What could I write to invite {to} to {event}? It is on {day} at {time} {place}. My name is {sender}.",
    "Put these facts into a warm invitation by email.\n{notes}",
    "Help me with an invitation, please.\n{notes}",
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
    "How do I tell {to} that {meeting} on {old} has to wait until {new} because {reason}? My name is {sender}.",
    "Make an email out of this change of plan.\n{notes}",
    "The date has changed. Please let the other person know by mail.\n{notes}",
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
    "How can I ask {to} for {thing}? I want to {purpose} and need {it} by {day}. My name is {sender}.",
    "Make a courteous email out of this request.\n{notes}",
    "Help me write to somebody who should send me something.\n{notes}",
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
