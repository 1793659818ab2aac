"""Characters: bytes decoded as mail programs do, broken characters mended, and letters read as they look."""

import codecs
import re
import unicodedata

import ftfy

LOST = "\N{REPLACEMENT CHARACTER}"
# Characters that show nothing: soft hyphens, joiners, marks of direction, fillers, selectors of variants, tags.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U000e0000-\U000e01ef]"
)
# Letters of other scripts that look like Latin ones; they are replaced in words that mix scripts.
LOOKALIKES = str.maketrans(
    "асԁеһіјӏорԛѕԝхуАВСЕНІЈКМОРЅТХУαγικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "acdehijlopqswxyABCEHIJKMOPSTXYayiknoptuxABEZHIKMNOPTYX",
)
WORD = re.compile(r"[^\W\d_]+")
LATIN = re.compile("[A-Za-z]")
GREEK_OR_CYRILLIC = re.compile("[\u0370-\u052f]")
# A word that is written letter by letter, with the same sign or space between each two.
SPELLED = re.compile(r"(?<![^\W_])[^\W\d_]([^\w\s]|[ _])[^\W\d_](?:\1[^\W\d_]){2,}(?![^\W_])")
LAYERS = re.compile(r"&(?:(?:amp|#0*38|#x0*26);?){8,}", re.IGNORECASE)  # more than anybody writes
WIDER = {  # as browsers read them: https://encoding.spec.whatwg.org/#names-and-labels
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "euc_kr": "cp949",
    "iso2022_jp": "iso2022_jp_ext",
    "shift_jis": "cp932",
}
SHIFTED = re.compile(r"utf[_-](?:7|16|32)|hz|iso2022_")  # charsets in which bytes of ASCII can be other characters
MULTIBYTE = re.compile(r"big5|cp9[345]\d|euc_|gb|hz|iso2022_|johab|shift_")


def without_lost(text: str) -> str:
    """The text without replacement characters (U+FFFD) and halves of surrogate pairs.

    The archive of mails was decoded with losses: U+FFFD would only tell a model which mails use an old charset.
    """
    return _without_halves(text).replace(LOST, "")


def _without_halves(text: str) -> str:
    return text.encode(errors="ignore").decode()


def wider_charset(charset: str) -> str:
    """The charset that programs mean by a name: most write more characters than its standard has."""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):  # a header may name anything
        return charset
    return WIDER.get(name, name)


def decode(content: bytes, charset: str | None) -> str:
    """Decode bytes in the charset that their header declares; valid UTF-8 is read as UTF-8, whatever it declares."""
    declared = wider_charset(charset or "ascii")
    if content.isascii() and not SHIFTED.match(declared):  # EBCDIC, for example: no mail program shows it
        return content.decode()
    attempts = [(declared, "strict")] if content.isascii() else [("utf-8", "strict"), (declared, "strict")]
    if MULTIBYTE.match(declared):  # losing one character is better than reading all of the text as Latin-1
        attempts.append((declared, "replace"))
    for name, errors in attempts:
        try:
            return _without_halves(content.decode(name, errors))
        except (LookupError, ValueError):
            continue
    return content.decode("latin-1")


def flat_entities(text: str) -> str:
    """The text with `&amp;amp;amp;…` as `&amp;`: each pass of ftfy removes one layer only."""
    return LAYERS.sub("&amp;", text)


def mend(text: str) -> str:
    """Mend mojibake, entities and control characters, and replace letters that only look like others."""
    text = flat_entities(text)
    # fix_text looks at each line by itself, which is half of the time of all cleaning and gains nothing on ASCII.
    text = ftfy.fix_text_segment(text) if text.isascii() else ftfy.fix_text(text)
    text = text.replace(LOST, "")
    return text if text.isascii() else _plain_letters(text)


def _plain_letters(text: str) -> str:
    """Compatible letters as plain ones, no invisible characters, no word in two scripts."""
    text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    text = re.sub(r"(?<=[a-zA-Z\u00c0-\u024f])[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+", "", text)
    return WORD.sub(_in_one_script, text) if GREEK_OR_CYRILLIC.search(text) else text


def _in_one_script(word: re.Match[str]) -> str:
    is_mixed = LATIN.search(word[0]) and GREEK_OR_CYRILLIC.search(word[0])
    return word[0].translate(LOOKALIKES) if is_mixed else word[0]


def join_spelled(text: str) -> str:
    """The text with words that are written letter by letter put together: `v i a g r a` is `viagra`."""
    return SPELLED.sub(lambda word: word[0].replace(word[1], ""), text)
