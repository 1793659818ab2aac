"""Short mails, and whether they are spam: written here, so that nobody would argue about a verdict."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.extraction import CITIES, NAMES, THINGS
from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled

SPAM = (
    "Congratulations! You have won {amount}. Click here now to claim your prize!",
    "URGENT: your account will be closed today. Confirm your password at this link.",
    "Make {amount} a week from home, no experience needed! Reply NOW!",
    "Cheap pills without prescription, up to 80% off, order today!!!",
    "Dear friend, I am a prince and need your help to move {amount}. Send me your bank details.",
    "You are our lucky visitor! Take your free phone before midnight: click here.",
    "Lose ten kilos in a week with this secret tea. Buy now, limited offer!",
    "Your parcel is waiting. Pay {amount} in gift cards to release it.",
    "Hot singles in {city} want to meet you tonight. Click to see photos!",
    "Double your money in 24 hours! Guaranteed profit with our crypto robot.",
    "FREE casino bonus of {amount}! No deposit, win big tonight!",
    "Final notice: you have inherited {amount}. Send your passport and a small fee.",
    "Get a university degree in two weeks, no exams! Call now.",
    "Your computer has 37 viruses! Download our cleaner immediately.",
    "We offer loans of {amount} to everybody, no questions asked. Apply now!!!",
    "Replica watches at 90% off, looks like real! Buy today.",
    "You have been chosen for a free cruise. Just give us your credit card number.",
    "Act now! This miracle cream makes you look 20 years younger.",
    "Verify your bank login within one hour or lose access. Click the link below.",
    "Earn {amount} per day by clicking on ads. Join millions of winners!",
    "Buy 10,000 followers for only {amount}! Instant delivery, act fast!",
    "Dear winner, your email address won our lottery in {city}. Claim {amount} now.",
    "Work from your sofa and become rich! The trick that banks hate.",
    "Last chance!!! Free gift card of {amount}, only for the first 100 clicks.",
    "Your tax refund of {amount} is ready. Enter your card number here to get it.",
    "Stop going bald! Our magic oil works overnight, money back guaranteed!!!",
    "Increase your sales with 5 million email addresses, now for {amount} only!",
    "Dear customer, we noticed strange logins. Send us your PIN to stay safe.",
    "Meet rich widows in {city}! Register for free, click here!",
    "This stock will rise 500% tomorrow! Buy before it is too late!",
)
HAM = (
    "Hi {name}, are we still on for lunch tomorrow? I can be there at noon.",
    "The meeting has moved to 3 pm in room 204. See you there, {name}",
    "Dear {name}, please find the minutes of Monday's meeting attached.",
    "Mum, I will be home late, the train from {city} is delayed.",
    "Thanks for the photos, {name}! The one on the beach is my favourite.",
    "Could you send me the report by Thursday? Best wishes, {name}",
    "Happy birthday, {name}! I hope you have a lovely day in {city}.",
    "I left my {thing} at your place, can I pick it up tonight? {name}",
    "Hello {name}, the plumber comes on Tuesday morning between eight and ten.",
    "Reminder: your dentist appointment is on Wednesday at 9:30.",
    "Dear parents, the school trip to {city} starts at seven on Friday.",
    "{name}, thank you for your help with the {thing} yesterday.",
    "The library wants its books back by the end of the week. Love, {name}",
    "We have arrived in {city} and the flat is fine. More tomorrow, {name}",
    "Hi all, the coffee machine on the second floor works again.",
    "Can you feed the cat while we are in {city}? The key is with {name}.",
    "Dear {name}, your application has arrived and we will answer within two weeks.",
    "I have read your draft, {name}, and put my comments in the margin.",
    "Choir practice is cancelled this week because {name} is ill.",
    "Shall we take the early train to {city}? I will buy the tickets. {name}",
    "Your order of one {thing} was sent today. Thank you for shopping with us, {name}.",
    "Good morning {name}, here are the slides for this afternoon's talk.",
    "Dinner at ours on Saturday? {name} is bringing dessert.",
    "The test on the server passed, so I will merge the change today. {name}",
    "Hello {name}, the room you asked about is free from the first of May.",
    "Grandma is out of hospital and sends her love. Call her when you can. {name}",
    "I am off sick today, please ask {name} about the {thing}.",
    "The football team meets at the bus stop at ten. Bring your boots, {name}.",
    "Dear {name}, thank you for the interview last week. I enjoyed our talk.",
    "Here is the recipe for the soup you liked. Greetings from {city}, {name}",
)


@kind(
    "Is this mail spam or not spam?\n{mail}",
    "Classify the email as spam or not spam.\n{mail}",
    "spam or not spam? {mail}",
    "Would you put this message into the spam folder? Say spam or not spam.\n{mail}",
    "Decide if the message is spam or not spam: {mail}",
    "Please check this email. Is it spam or not spam?\n{mail}",
    "spam filter, spam or not spam: {mail}",
    "I got this mail. Is it spam or not spam?\n{mail}",
    "Should I trust this message? Answer spam or not spam.\n{mail}",
    "Label as spam or not spam: {mail}",
    "Is somebody trying to trick me? Say spam or not spam.\n{mail}",
    "Not spam or spam? {mail}",
    "Could you say if this is spam or not spam? {mail}",
    "Tell me whether this email is spam or not spam.\n{mail}",
    "Judge the mail below: spam or not spam?\n{mail}",
    told=["This email is {lower}.", "The email is {lower}."],
)
def spam(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Whether a short mail is spam."""
    mails = shuffled(generator, [*(("Spam", text) for text in SPAM), *(("Not spam", text) for text in HAM)])
    also = {"Spam": ["It is spam", "This is spam", "Yes", "Yes, it is spam"]}
    also["Not spam"] = ["It is not spam", "This is not spam", "No", "No, it is not spam", "Ham"]
    varied = [mail for mail in mails if "{" in mail[1]]
    spams, hams = ([mail for mail in varied if mail[0] == label] for label in ("Spam", "Not spam"))
    while True:
        for label, frame in mails:
            things = {"name": pick(generator, NAMES), "city": pick(generator, CITIES), "thing": pick(generator, THINGS)}
            mail = frame.format(amount=f"${pick(generator, [250, 500, 1000, 5000, 20000]):,}", **things)
            yield Item(mail, label, {"mail": mail}, also[label], f"mail: {frame}")
        mails = shuffled(generator, [*spams, *shuffled(generator, hams)[: len(spams)]])
