"""How a review asks two foundations that were evaluated on other tokens: the bits of the same pieces of test text.

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
from tasks.measures.scores import TEST

PIECE = 1500  # characters of a document that are read as one
PIECES = "pieces"
"""Their part of the score table."""


def split_pieces(text: str) -> list[str]:
    """A text cut between words into pieces of at most PIECE characters, or within one that is longer."""
    pieces = re.findall(rf"\S.{{0,{PIECE - 1}}}(?!\S)|\S{{1,{PIECE}}}", text, re.DOTALL)
    return [piece.rstrip() for piece in pieces]


def piece_rows(data: Path) -> pd.DataFrame:
    """The documents of the test split, in pieces."""
    encoding = load_tokenizer(data / "tokenizer.json")
    meta = json.loads((data / "meta.json").read_text())
    tokens = open_tokens(meta, TEST, data.joinpath)[:]
    end = end_of_text(encoding)
    rows = []
    documents = 0
    for part in np.split(tokens, np.flatnonzero(tokens == end)):
        document = decode(encoding, part[part != end].tolist())
        documents += bool(document.strip())
        for number, piece in enumerate(split_pieces(document), 1):
            rows.append({"id": f"text {documents}, piece {number}", "text": piece})
    table = pd.DataFrame(rows, columns=["id", "text"])
    sizes = [float(len(text.encode())) for text in table["text"]]
    return table.assign(part=PIECES, question=table["text"], expected="", bytes=sizes)


def score_bits(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The bits and bytes of each text, and the bits a byte of those that have bytes."""
    ratio = (answers["bits"] / rows["bytes"]).where(rows["bytes"] > 0)
    scored = pd.DataFrame({"bits": answers["bits"], "bytes": rows["bytes"], "bits_per_byte": ratio})
    return scored.assign(answer=ratio.map("{:.3f} bits a byte".format))
