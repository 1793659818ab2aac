"""Letters and the order of words: case, first letters, spelling, counting, sorting, acronyms."""

from collections.abc import Iterator

import numpy as np

from tasks.data.checkable.kind import Item, Sources, kind, pick, shuffled, word_list
from tasks.data.checkable.wordnet import wordnet

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
THINGS = word_list(
    "apple banana bottle bread bridge brother butter button camera candle carpet castle chair cheese cherry circle "
    "clock cloud coffee corner cousin curtain desk doctor dragon engine farmer feather finger flower forest friend "
    "garden guitar hammer harbour hill honey horse island jacket kettle kitchen ladder lamp lemon letter lion magnet "
    "market melon mirror monkey mountain needle nurse office onion orange oven paint paper pencil pepper piano "
    "pillow planet pocket potato queen rabbit radio river rocket sailor school shadow shirt shoulder silver soldier "
    "spider spoon station summer table teacher ticket tiger tomato tower tractor tunnel uncle valley village violin "
    "wagon water window winter yard yellow zebra"
)
MISSPELT = (
    "absence absense, accident accidant, address adress, almost allmost, always allways, answer anser, appear apear, "
    "argument arguement, balloon baloon, basically basicly, because becuase, beautiful beautifull, beginning "
    "begining, believe beleive, bicycle bycicle, breakfast brekfast, build biuld, business buisness, calendar "
    "calender, careful carefull, ceiling cieling, certain certan, changeable changable, chocolate choclate, clothes "
    "cloths, coming comming, committee comittee, completely completly, cousin cousen, daily dayly, daughter "
    "daugther, decide deside, definitely definately, different diffrent, difficult dificult, disappear dissapear, "
    "disappoint dissapoint, doctor docter, eight eigth, embarrass embarass, enough enuogh, environment enviroment, "
    "especially especialy, everything everthing, excellent excelent, exercise excercise, experience experiance, "
    "familiar familar, family famly, favourite favorit, February Febuary, finally finaly, foreign foriegn, forty "
    "fourty, forward foward, friend freind, garden gardin, government goverment, grammar grammer, grateful greatful, "
    "guarantee garantee, guess gess, happened happend, happiness hapiness, height hieght, holiday holliday, hospital "
    "hospitle, hungry hungery, immediately immediatly, important importent, independent independant, interesting "
    "intresting, island iland, jewellery jewelery, kitchen kichen, knowledge knowlege, language langauge, laugh "
    "laff, leather lether, library libary, lightning lightening, listen lissen, lovely lovly, making makeing, minute "
    "minuit, money mony, morning mornning, mountain mountian, necessary neccessary, neighbour nieghbour, nineteen "
    "ninteen, ninety ninty, occasion ocasion, occurred occured, often offen, opposite oposite, original orignal, "
    "parallel paralel, people poeple, perhaps perhapse, picture pitcher, piece peice, planned planed, please plese, "
    "possible posible, potatoes potatos, prefer preffer, probably probaly, promise promiss, pronunciation "
    "pronounciation, question qestion, quiet qiuet, realise realize, really realy, receive recieve, recipe recepie, "
    "recommend recomend, remember rember, restaurant restaraunt, rhythm rythm, running runing, safety safty, "
    "sandwich sandwhich, scissors sissors, school shcool, secretary secratary, sentence sentance, separate seperate, "
    "several sevral, similar similer, sincerely sincerly, soldier solider, special speciel, stomach stomack, "
    "straight strait, strength strenght, succeed suceed, success sucess, suddenly suddenley, sugar suger, suppose "
    "supose, surprise suprise, swimming swiming, teacher teecher, temperature temprature, their thier, thought "
    "thougt, tomato tomatoe, tomorrow tommorow, tongue tounge, travelled travled, trouble truble, truly truely, "
    "twelfth twelth, until untill, usually usualy, vegetable vegtable, village villege, visitor visiter, weather "
    "wether, Wednesday Wensday, weird wierd, welcome wellcome, which wich, whole hwole, woman womman, writing "
    "writting, yellow yelow, young yuong"
)
SPELT_TWO_WAYS = frozenset(word_list("realise favourite jewellery neighbour travelled"))
OTHER_WORDS = frozenset(
    word_list("calendar clothes lightning picture planned soldier straight quiet weather guess build")
)
FIRST = word_list(
    "National Royal Global Northern Central United European Open Modern Free International Western Young Digital Public"
)
SECOND = [
    "Garden",
    "River",
    "Music",
    "Science",
    "Energy",
    "History",
    "Bird",
    "Chess",
    "Travel",
    "Health",
    "Language",
    "Ocean",
    "Robot",
    "Sports",
    "Weather",
]
THIRD = word_list("Society Club Institute Union Agency League Network Office Museum Research Project Academy Board")
PHRASES = (
    "the train is late",
    "see you at noon",
    "we won the game",
    "keep the door closed",
    "my new phone number",
    "fresh bread every day",
    "open on Sunday",
    "no dogs allowed",
    "happy birthday to you",
    "mind the step",
    "turn left at the church",
    "hello world",
    "the red car",
    "water the plants",
    "back in five minutes",
    "read this first",
    "today is market day",
    "please wait here",
    "lunch is ready",
    "handle with care",
    "wet paint",
    "bring a warm coat",
    "the shop is closed",
    "call me tomorrow",
    "thank you very much",
    "meet me at the station",
    "do not feed the birds",
    "free tea and cake",
    "two seats left",
    "good night",
)


@kind(
    "Write the text in capital letters.\n{text}",
    "Put this in upper case: {text}",
    "upper case: {text}",
    "Can you write this in capitals?\n{text}",
    "Please capitalise every letter.\n{text}",
    "Turn the text into capital letters: {text}",
    "Rewrite in big letters only: {text}",
    "Write this as if caps lock were on.\n{text}",
    "in capitals: {text}",
    "I need a sign with this text in capitals: {text}",
    "How does this look in capital letters? {text}",
    "Make every letter big.\n{text}",
    "Convert to uppercase.\n{text}",
    "Change all letters to upper case.\n{text}",
    "I want this in all caps: {text}",
)
def capital_letters(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A short phrase in capital letters."""
    while True:
        words = shuffled(generator, THINGS)[:2]
        thing = pick(generator, [pick(generator, PHRASES), f"the {words[0]} and the {words[1]}", f"my {words[0]}"])
        yield Item(thing, thing.upper(), {"text": thing})


@kind(
    "What is the first letter of the word?\n{word}",
    "With which letter does {word} begin?",
    "first letter of {word}",
    "Which letter does the word {word} start with?",
    "Give me the first letter of {word}.",
    "Please tell me the letter at the beginning of this word: {word}",
    "How does {word} begin? One letter, please.",
    "{word}: initial letter?",
    "Write down just the opening letter.\n{word}",
    "I need the initial of the word {word}.",
    "If you spell {word}, which letter do you say first?",
    "Under which letter do I find this in the dictionary? {word}",
    "Take the first letter from this word: {word}",
    "Name the letter that {word} begins with.",
    "What letter is at the start of '{word}'?",
    needs=["wordnet"],
    told=["The first letter of '{word}' is {answer}."],
)
def first_letter(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The letter that a common word begins with."""
    for word in shuffled(generator, wordnet(sources).common(15, longest=9)):
        yield Item(word, word[0].upper(), {"word": word})


@kind(
    "Correct the spelling of the word.\n{word}",
    "How is {word} spelled correctly?",
    "fix the spelling: {word}",
    "This word is misspelled. Write it correctly.\n{word}",
    "What is the right spelling of {word}?",
    "I wrote '{word}'. How should it be spelled?",
    "Is {word} spelled right? Write it as it should be.",
    "There is a typo here. Fix it.\n{word}",
    "correct: {word}",
    "How do you really write {word}?",
    "Proofread this word.\n{word}",
    "My spell checker underlines {word}. What should I write instead?",
    "Could you put the letters of this word right? {word}",
    "Please mend the spelling mistake: {word}",
    "Give me the correct spelling of this word.\n{word}",
    told=["The correct spelling is '{answer}'.", "The correct spelling of '{word}' is '{answer}'."],
)
def spelling(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A word that people often get wrong."""
    pairs = [tuple(pair.split()) for pair in MISSPELT.split(", ")]
    for right, wrong in shuffled(generator, pairs):
        if right not in SPELT_TWO_WAYS | OTHER_WORDS:
            yield Item(right, right, {"word": wrong})


@kind(
    "How many words are in the text?\n{text}",
    "Count the words: {text}",
    "number of words in '{text}'",
    "How many words does this have?\n{text}",
    "Please count how many words there are here: {text}",
    "Of how many words is this made?\n{text}",
    "What is the word count?\n{text}",
    "word count: {text}",
    "I need to know how long this is in words.\n{text}",
    "Count each word of the phrase and give the total.\n{text}",
    "'{text}' has how many words?",
    "If I pay by the word, how many do I pay for? {text}",
    "Could you add up the words here? {text}",
    "Tell me the number of words.\n{text}",
    "How many words do you count in this? {text}",
)
def word_count(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The number of words of a phrase of two to five."""
    while True:
        number = int(generator.integers(2, 6))
        text = " ".join(shuffled(generator, THINGS)[:number])
        if generator.random() < 0.5:
            text, number = pick(generator, [(phrase, len(phrase.split())) for phrase in PHRASES])
        yield Item(text, str(number), {"text": text}, [NUMBERS[number], f"{number} words", f"{NUMBERS[number]} words"])


@kind(
    "Sort the words alphabetically.\n{words}",
    "Put these words in alphabetical order: {words}",
    "alphabetical order: {words}",
    "Arrange the words from A to Z.\n{words}",
    "Please sort this list by the alphabet: {words}",
    "Order these words alphabetically, please.\n{words}",
    "Rank these words as a dictionary would.\n{words}",
    "How would these stand in a dictionary? {words}",
    "A to Z: {words}",
    "I need this list in the order of the alphabet: {words}",
    "List these again, sorted by their first letters.\n{words}",
    "Could you put these in ABC order? {words}",
    "Rearrange them so that the first letters go from A to Z.\n{words}",
    "Which is the alphabetical order of these words?\n{words}",
    "Bring the following words into alphabetical order.\n{words}",
)
def alphabetical(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """Three words, or four, of different first letters."""
    while True:
        words: list[str] = []
        size = 3 if generator.random() < 0.75 else 4
        for word in shuffled(generator, THINGS):
            if len(words) < size and word[0] not in {other[0] for other in words}:
                words.append(word)
        right = sorted(words)
        if right != words:
            key = " ".join(right)
            yield Item(key, ", ".join(right), {"words": ", ".join(words)}, [" ".join(right), "\n".join(right)])


@kind(
    "What is the acronym of {name}?",
    "Make an acronym from the first letters.\n{name}",
    "abbreviate {name}",
    "Give the initials of the name.\n{name}",
    "How do you shorten {name} to its first letters?",
    "Please write only the first letter of each word: {name}",
    "Shorten the name to its initials: {name}",
    "initials of {name}",
    "{name}: short form in letters?",
    "Take the first letter of every word and put them together.\n{name}",
    "I need a short name made of the first letters: {name}",
    "Reduce this name to three letters.\n{name}",
    "Which three letters could stand on the door of the {name}?",
    "Build the abbreviation of {name}.",
    "Which initials stand for this?\n{name}",
    told=["The abbreviation of '{name}' is {answer}.", "The acronym for '{name}' is {answer}."],
)
def acronym(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The first letters of a name of three words, none of them small."""
    while True:
        name = " ".join([pick(generator, FIRST), pick(generator, SECOND), pick(generator, THIRD)])
        letters = [word[0] for word in name.split()]
        yield Item(
            name, "".join(letters), {"name": name}, [".".join(letters) + ".", ".".join(letters), " ".join(letters)]
        )


@kind(
    "Which is the {place} item of the list?\n{words}",
    "Name the {place} word: {words}",
    "{place} of these: {words}",
    "What comes {place} in this list?\n{words}",
    "Give me only the {place} item.\n{words}",
    "Please tell me which word is {place} in the list: {words}",
    "Here are some words: {words}. Which is {place}?",
    "{place} word in: {words}",
    "I need the {place} word of this row.\n{words}",
    "Which word stands in {place} place? {words}",
    "Pick out the {place} one.\n{words}",
    "Repeat just the {place} of these words: {words}",
    "Could you look at this and tell me which one is the {place}? {words}",
    "What is the {place} entry of this list?\n{words}",
    "Read the list and say its {place} word.\n{words}",
)
def list_item(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The first, second, third or last of a list."""
    while True:
        words = shuffled(generator, THINGS)[: int(generator.integers(3, 6))]
        place, answer = pick(generator, [("first", words[0]), ("second", words[1]), ("last", words[-1])])
        yield Item(f"{place}: {', '.join(words)}", answer, {"place": place, "words": ", ".join(words)})
