import pandas as pd
import pytest
import torch

from llm.device import Compute
from tasks.applications import assistant
from tasks.applications.assistant import _same

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("A feline mammal.", "a  feline\nmammal", True),
        ("large", "Large.", True),
        ("large", "larger", False),
        ("", ".", True),
        ("a.b", "ab", False),
        ("Why?", "why", False),
    ],
)
def test_answers_are_the_same_but_for_case_spaces_and_a_final_full_stop(answer, expected, same):
    assert _same(answer, expected) is same


def test_the_assistant_is_measured_on_checkable_rows_and_on_all(make_gpt, encoding, tmp_path):
    gpt, (cat,) = make_gpt(context_length=64), encoding.encode(" cat")
    with torch.no_grad():  # whatever it reads, it says "cat"
        gpt.embedding.token.weight[cat] *= 5
        gpt.norm.weight.zero_()
        gpt.norm.bias.copy_(gpt.embedding.token.weight[cat])
    rows = {"id": list("abc"), "kind": ["k"] * 3, "instruction": ["sat", "cat", "hat"], "input": ["", "mat", ""]}
    outputs = ["Cat  cat cat cat.", "the dog", "cat and cat or"]
    table = pd.DataFrame(rows | {"output": outputs, "checkable": [True, True, False]})
    table.to_parquet(tmp_path / "test.parquet")
    params = assistant.Evaluate(batch_size=2, max_new_tokens=4, samples=2)
    found = assistant.measure(gpt, encoding, tmp_path, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert answers["answer"].tolist() == ["cat cat cat cat"] * 3
    assert answers["correct"].tolist() == [True, False, False]
    assert answers["rouge_l"].tolist() == [1.0, 0.0, 0.5]
    logits = gpt(torch.zeros(1, 1, dtype=torch.int64))[0, 0].log_softmax(dim=0)
    losses = [-logits[[*encoding.encode_ordinary(text), encoding.eot_token]] for text in outputs]
    assert found == pytest.approx(
        {"response_loss": torch.cat(losses).mean().item(), "exact_match": 0.5, "rouge_l": 0.5}, rel=1e-5
    )
    assert (tmp_path / "samples.md").read_text().count("- expected: ") == 2


def test_a_row_too_long_for_the_context_is_answered_with_nothing_and_does_not_stop_the_evaluation(
    make_gpt, encoding, tmp_path
):
    rows = {"id": ["a", "b"], "kind": ["k"] * 2, "instruction": ["sat", "the moon " * 90], "input": ["", ""]}
    table = pd.DataFrame(rows | {"output": ["the cat", "the dog"], "checkable": [True, True]})
    table.to_parquet(tmp_path / "test.parquet")
    params = assistant.Evaluate(batch_size=2, max_new_tokens=6, samples=2)
    assistant.measure(make_gpt(context_length=64), encoding, tmp_path, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert answers["id"].tolist() == ["a", "b"]
    assert answers["answer"][1] == ""
