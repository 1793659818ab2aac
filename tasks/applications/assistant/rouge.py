"""ROUGE-L of answers in any script."""

import unicodedata
from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # how the names of their letters begin


class Words(Tokenizer):
    """Words of letters, marks and digits; of scripts without spaces each sign by itself.

    Words in ASCII come out as rouge_score's own tokenizer, which knows no others, has them: in lower case, stemmed.
    """

    def __init__(self) -> None:
        self.english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        words = "".join(map(_spaced, unicodedata.normalize("NFC", text.lower()))).split()
        tokens: list[str] = []
        for word in words:
            tokens += self.english.tokenize(word) if word.isascii() else [word]
        return tokens


@cache
def _spaced(sign: str) -> str:
    if unicodedata.category(sign)[0] not in "LMN":
        return " "
    return f" {sign} " if unicodedata.name(sign, "").startswith(SPACELESS) else sign


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=Words())


def rouge_l(expected: str, answer: str) -> float:
    """The F-measure of the longest common subsequence of words (Lin 2004), 0 to 1; 1 for the same text."""
    if expected.strip() == answer.strip():  # which may have no words, as "+" has none
        return 1.0
    return _scorer().score(expected, answer)["rougeL"].fmeasure
