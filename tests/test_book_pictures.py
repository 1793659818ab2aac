"""The book's pictures are those that docs/book/pictures.py draws."""

from pydoc_data.topics import topics

import pandas as pd
import pytest
import torch

from docs.book import pictures
from llm.formats.huggingface import load_pretrained


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load_pretrained(smollm2, context_length=64)


@pytest.mark.parametrize("name", pictures.OF_FILES)
def test_picture_of_a_file_is_the_one_in_git(name, tmp_path):
    path = tmp_path / f"{name}.svg"
    pictures.OF_FILES[name](path)
    assert path.read_bytes() == (pictures.IMAGES / path.name).read_bytes(), f"run `python docs/book/pictures.py {name}`"


@pytest.mark.parametrize(("name", "text"), [("neighbours", "banana"), ("attention", "Anna"), ("temperature", "window")])
def test_picture_of_smollm2_is_small_and_keeps_its_text(name, text, loaded, tmp_path):
    path = tmp_path / f"{name}.svg"
    pictures.OF_SMOLLM2[name](path, loaded)
    assert path.stat().st_size < 60_000
    assert text in path.read_text()
    assert text in (pictures.IMAGES / path.name).read_text()


def test_words_stand_in_groups_and_orange_with_the_colours(loaded):
    points = pictures.word_points(loaded)
    points_N2 = torch.tensor(points[["x", "y"]].to_numpy())
    distances_NN = torch.cdist(points_N2, points_N2).fill_diagonal_(torch.inf)
    groups = points["group"].iloc[distances_NN.argmin(dim=1).numpy()].set_axis(points.index)
    assert groups["banana"] == "fruits"
    assert groups["orange"] == "colours"
    assert (groups == points["group"]).mean() > 0.8


def test_heads_look_at_the_previous_token_and_at_what_followed(loaded):
    tokens = loaded.encoding.encode_ordinary(pictures.REPEATING)
    weights = [pictures.head_weights(loaded.model, tokens, *head) for head in pictures.HEADS.values()]
    previous_TS, induction_TS = weights
    assert previous_TS.diagonal(-1).mean() > 0.8
    repeated = [position for position, token in enumerate(tokens) if token in tokens[:position]]
    successors = [tokens.index(tokens[position]) + 1 for position in repeated]
    assert len(repeated) == 4
    assert induction_TS[repeated, successors].mean() > 0.8


def test_temperature_evens_probabilities_out(loaded):
    table = pictures.next_tokens(loaded)
    assert (table.max() / table.min()).is_monotonic_decreasing
    assert table.sum().round(2).to_list() == pytest.approx([0.90, 0.41, 0.05], abs=0.02)


def test_lora_picture_names_the_rank_of_a_change(make_gpt, tmp_path):
    before_RC = make_gpt(n_embd=64).blocks[0].mlp.expand.weight.detach()
    thin_RC = make_gpt(seed=1, n_embd=64).blocks[0].mlp.expand.weight.detach()[:, :5]
    after_RC = before_RC + thin_RC @ thin_RC[:64].T
    pictures.lora(tmp_path / "lora.svg", before_RC, after_RC=after_RC)
    assert "rank 5" in (tmp_path / "lora.svg").read_text()


def test_losses_are_written_a_row_every_25_steps(tmp_path):
    text = "".join(topics.values())[:12_000]
    pictures.write_losses(text, tmp_path / "loss.csv", steps=1)
    table = pd.read_csv(tmp_path / "loss.csv")
    assert table.columns.to_list() == ["step", "train", "held_out", "unigram"]
    assert table["step"].to_list() == [1]
    assert table["held_out"][0] == pytest.approx(7.6, abs=0.2)
    assert 4 < table["unigram"][0] < 7
