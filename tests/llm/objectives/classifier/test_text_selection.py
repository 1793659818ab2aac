import pytest
import torch

from llm.objectives.classifier import text_selection
from llm.objectives.classifier.text_selection import COVERED, LabelledTexts, covered, to_be_read


def test_the_gpt_learns_from_what_a_linear_model_would_leave_to_it(monkeypatch):
    clear = [[*start, n] for n in range(20, 80) for start in ([1, 2, 3, 4], [9, 8, 7, 6])]
    unclear = [[11, 12, n] for n in range(100, 140)]
    rows = LabelledTexts(clear + unclear, torch.tensor([0, 1] * 60 + [0] * 20 + [1] * 20))
    how = {"buckets": 4096, "certain": 0.95, "balanced": False}
    assert to_be_read(rows, 2, **how) is rows  # they are few
    monkeypatch.setattr(text_selection, "FEW", 100)
    alike = LabelledTexts([[1], [2]] * 60, torch.tensor([0, 1] * 60))
    assert to_be_read(alike, 2, **how) is alike  # there are no three parts
    read = to_be_read(rows, 2, **how)
    assert read.tokens == unclear
    assert torch.equal(read.labels, rows.labels[120:])
    odd = [201, 202, 203]  # which stands there five times, as what a person said does, and in no other text
    fed_back = LabelledTexts([*rows.tokens, *[odd] * 5], torch.cat([rows.labels, torch.ones(5).long()]))
    assert to_be_read(fed_back, 2, **how).tokens.count(odd) == 5


@pytest.mark.parametrize("balanced", [True, False])
def test_of_each_label_the_gpt_learns_from_a_quarter_however_certain_a_linear_model_is(balanced, monkeypatch):
    monkeypatch.setattr(text_selection, "FEW", 40)
    texts = [[1] * n + [2] for n in range(1, 41)] + [[9] * n + [8] for n in range(1, 9)]
    rows = LabelledTexts(texts, torch.tensor([0] * 40 + [1] * 8))
    read = to_be_read(rows, 2, buckets=4096, certain=0.51, balanced=balanced)
    assert 10 <= (read.labels == 0).sum() < 40
    assert 2 <= (read.labels == 1).sum() < 8
    assert len(read.tokens) == len(read.labels)


def test_a_text_counts_as_any_other_or_by_its_labels_share():
    rows = LabelledTexts([[1], [2], [3], [4]], torch.tensor([0, 0, 0, 1]))
    assert rows.class_weights(2, balanced=True).tolist() == pytest.approx([4 / 6, 2])
    assert rows.class_weights(2, balanced=False).tolist() == [1, 1]


def test_texts_that_are_looked_for_are_hidden_amidst_others():
    texts = [[1, 2], [3, 4, 5], *([10 + n, 20 + n] for n in range(7))]
    rows = LabelledTexts(texts, torch.tensor([0, 0] + [1] * 7))
    hidden = covered(rows, 1)
    assert hidden.labels.tolist() == [1] * len(hidden.tokens)
    assert len(hidden.tokens) == -(-7 // COVERED)
    for text, found in zip(texts[2::COVERED], hidden.tokens, strict=True):
        place = found.index(text[0])
        assert found[place : place + 2] == text
        assert [*found[:place], *found[place + 2 :]] in texts[:2]
    assert covered(rows, 1).tokens == hidden.tokens
    assert covered(LabelledTexts([[1]], torch.tensor([1])), 1).tokens == []  # there is nothing to hide in
    together = rows + hidden
    assert (together.tokens, together.labels.tolist()) == (
        texts + hidden.tokens,
        [0, 0] + [1] * (7 + len(hidden.tokens)),
    )
