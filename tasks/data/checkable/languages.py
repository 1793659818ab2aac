"""In which language a sentence is."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, shuffled

# The same sentences in each language.
SENTENCES = {
    "French": (
        "Bonjour, comment allez-vous?",
        "Je voudrais un café, s'il vous plaît.",
        "Où est la gare?",
        "Il fait beau aujourd'hui.",
        "Merci beaucoup pour votre aide.",
        "Nous habitons dans une petite maison.",
        "Elle aime les fleurs rouges.",
        "Le chat dort sur la chaise.",
        "Je ne comprends pas.",
        "Quelle heure est-il?",
        "Mon frère travaille à l'hôpital.",
        "Nous mangeons du pain avec du fromage.",
    ),
    "German": (
        "Guten Morgen, wie geht es Ihnen?",
        "Ich möchte einen Kaffee, bitte.",
        "Wo ist der Bahnhof?",
        "Heute ist das Wetter schön.",
        "Vielen Dank für Ihre Hilfe.",
        "Wir wohnen in einem kleinen Haus.",
        "Sie mag rote Blumen.",
        "Die Katze schläft auf dem Stuhl.",
        "Ich verstehe das nicht.",
        "Wie spät ist es?",
        "Mein Bruder arbeitet im Krankenhaus.",
        "Wir essen Brot mit Käse.",
    ),
    "Spanish": (
        "Buenos días, ¿cómo está usted?",
        "Quisiera un café, por favor.",
        "¿Dónde está la estación?",
        "Hoy hace buen tiempo.",
        "Muchas gracias por su ayuda.",
        "Vivimos en una casa pequeña.",
        "A ella le gustan las flores rojas.",
        "El gato duerme en la silla.",
        "No entiendo nada.",
        "¿Qué hora es?",
        "Mi hermano trabaja en el hospital.",
        "Comemos pan con queso.",
    ),
    "Italian": (
        "Buongiorno, come sta?",
        "Vorrei un caffè, per favore.",
        "Dov'è la stazione?",
        "Oggi fa bel tempo.",
        "Grazie mille per il Suo aiuto.",
        "Abitiamo in una piccola casa.",
        "Le piacciono i fiori rossi.",
        "Il gatto dorme sulla sedia.",
        "Non capisco niente.",
        "Che ore sono?",
        "Mio fratello lavora all'ospedale.",
        "Mangiamo pane con formaggio.",
    ),
    "Dutch": (
        "Goedemorgen, hoe gaat het met u?",
        "Ik wil graag een kopje koffie.",
        "Waar is het station?",
        "Het is vandaag mooi weer.",
        "Hartelijk dank voor uw hulp.",
        "Wij wonen in een klein huis.",
        "Zij houdt van rode bloemen.",
        "De kat slaapt op de stoel.",
        "Ik begrijp het niet.",
        "Hoe laat is het?",
        "Mijn broer werkt in het ziekenhuis.",
        "Wij eten brood met kaas.",
    ),
    "Polish": (
        "Dzień dobry, jak się pan ma?",
        "Poproszę kawę.",
        "Gdzie jest dworzec?",
        "Dzisiaj jest ładna pogoda.",
        "Dziękuję bardzo za pomoc.",
        "Mieszkamy w małym domu.",
        "Ona lubi czerwone kwiaty.",
        "Kot śpi na krześle.",
        "Nie rozumiem tego.",
        "Która jest godzina?",
        "Mój brat pracuje w szpitalu.",
        "Jemy chleb z serem.",
    ),
    "English": (
        "Good morning, how are you?",
        "I would like a coffee, please.",
        "Where is the station?",
        "The weather is nice today.",
        "Thank you very much for your help.",
        "We live in a small house.",
        "She likes red flowers.",
        "The cat sleeps on the chair.",
        "I do not understand this.",
        "What time is it?",
        "My brother works in the hospital.",
        "We eat bread with cheese.",
    ),
}


@kind(
    "In which language is this sentence?\n{sentence}",
    "What language is this? {sentence}",
    "language of: {sentence}",
    "Name the language of the text.\n{sentence}",
    "Which language do people speak who say this? {sentence}",
    "Please tell me what language this is written in: {sentence}",
    "Can you identify the language? {sentence}",
    "I found this note. What language is it in?\n{sentence}",
    "Which language does this come from?\n{sentence}",
    "which language: {sentence}",
    "Detect the language: {sentence}",
    "Somebody said this to me. What language did they speak? {sentence}",
    "Look at these words and tell me the name of the language.\n{sentence}",
    "Recognise the language of this sentence.\n{sentence}",
    "Say in which language this is written.\n{sentence}",
    told=["This sentence is in {answer}.", "The language of this text is {answer}."],
)
def language_of_text(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The language of a short sentence."""
    items = [(name, text, place) for name, texts in SENTENCES.items() for place, text in enumerate(texts)]
    for name, text, place in shuffled(generator, items):
        yield Item(text, name, {"sentence": text}, [f"It is {name}", f"This is {name}"], f"said: {place}")
