"""Two versions of the foundation on the same pieces of test text: the bits in which each writes a byte.

A piece is read alone, so that versions with other tokenizers and contexts write the same bytes; the evaluation's own
number is of tokens that have at least half a context before them, and a little lower.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from llm.formats.tokenizer_json import load_tokenizer
from llm.tokenizer import decode, end_of_text
from llm.tokens import open_tokens
from tasks.measures.description import Review, Sample

PIECE = 1500  # characters of a document that are read as one


def bits_per_byte(bits: np.ndarray, sizes: np.ndarray, axis: int) -> np.ndarray:
    """Over all pieces."""
    return bits.sum(axis) / np.maximum(1, sizes.sum(axis))


def pieces(text: str) -> list[str]:
    """A text cut between words into pieces of at most PIECE characters, or within one that is longer."""
    parts = re.findall(rf"\S.{{0,{PIECE - 1}}}(?!\S)|\S{{1,{PIECE}}}", text, re.DOTALL)
    return [piece.rstrip() for piece in parts]


def rows(data: Path) -> pd.DataFrame:
    """The documents of the test split, in pieces."""
    encoding, meta = load_tokenizer(data / "tokenizer.json"), json.loads((data / "meta.json").read_text())
    tokens = open_tokens(meta, "test", data.joinpath)[:]
    end = end_of_text(encoding)
    parts = np.split(tokens, np.flatnonzero(tokens == end))
    documents = [decode(encoding, part[part != end].tolist()) for part in parts]
    texts = [
        (f"text {number}, piece {place}", piece)
        for number, document in enumerate(filter(str.strip, documents), 1)
        for place, piece in enumerate(pieces(document), 1)
    ]
    table = pd.DataFrame(texts, columns=["id", "text"])
    return table.assign(expected="", bytes=[float(len(text.encode())) for text in table["text"]])


def score(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Bits a byte of each piece, negative, so that more is better."""
    ratio = answers["bits"] / rows["bytes"]
    return pd.DataFrame({"score": -ratio, "answer": ratio.map("{:.3f} bits a byte".format), "confidence": 0.0})


def measure(rows: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Sample]:
    """Bits a byte of them all."""
    return {"bits_per_byte": Sample(bits_per_byte, (answers["bits"].to_numpy(float), rows["bytes"].to_numpy()))}


REVIEW = Review(
    main="bits_per_byte",
    unit="pieces of text",
    columns=("text",),
    rows=rows,
    score=score,
    measure=measure,
    baseline="the best of PPMd, a compressor, and of n-grams (modified Kneser-Ney) without and with a cache",
    step=0.25,
    ask="bits",
)
