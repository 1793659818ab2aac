"""The book's pictures are those that docs/book/pictures.py draws."""

import pytest

from docs.book import pictures
from llm.formats.huggingface import load_pretrained


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load_pretrained(smollm2, context_length=64)


@pytest.mark.parametrize("name", pictures.OF_FILES)
def test_picture_of_a_file_is_the_one_in_git(name, tmp_path):
    path = tmp_path / f"{name}.svg"
    pictures.OF_FILES[name](path)
    assert path.read_bytes() == (pictures.IMAGES / path.name).read_bytes(), f"run `python -m docs.book.pictures {name}`"


@pytest.mark.parametrize(("name", "text"), [("neighbours", "banana"), ("attention", "Anna"), ("temperature", "window")])
def test_picture_of_smollm2_is_small_and_keeps_its_text(name, text, loaded, tmp_path):
    path = tmp_path / f"{name}.svg"
    pictures.OF_SMOLLM2[name](path, loaded)
    assert path.stat().st_size < 60_000
    assert text in path.read_text()
    assert text in (pictures.IMAGES / path.name).read_text()


def test_heads_look_at_the_previous_token_and_at_what_followed(loaded):
    tokens = loaded.encoding.encode_ordinary(pictures.REPEATING)
    weights = [pictures.head_weights(loaded.model, tokens, *head) for head in pictures.HEADS.values()]
    previous_TS, induction_TS = weights
    assert previous_TS.diagonal(-1).mean() > 0.8
    repeated = [position for position, token in enumerate(tokens) if token in tokens[:position]]
    successors = [tokens.index(tokens[position]) + 1 for position in repeated]
    assert len(repeated) == 4
    assert induction_TS[repeated, successors].mean() > 0.8
