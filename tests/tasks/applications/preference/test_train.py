from pathlib import Path

import pandas as pd
import pytest
import torch

from llm.config import LoRAConfig
from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.objectives import load
from llm.objectives.assistant import answer_all, build
from llm.objectives.assistant.rows import is_right, questions_of
from llm.training.loop import train
from llm.training.workers import ALONE
from tasks.applications.preference import train as preference
from tasks.applications.preference.train import right_and_wrong
from tasks.training.setup import TrainingFiles

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
WORDS = ["the cat", "the dog", "a bird", "the moon", "the hat", "the mat"]


def write(folder: Path, split: str, **columns: list) -> None:
    """A split of the dataset; columns that are not given are empty."""
    size = len(columns["instruction"])
    empty = {"input": [""] * size, "answers": [[]] * size, "history": [[]] * size, "system": [""] * size}
    pd.DataFrame(empty | columns).to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def folder(make_gpt, encoding, tmp_path, monkeypatch):
    """A dataset, and an assistant as base that says one of three words, drawn, and ends."""
    monkeypatch.setattr(preference, "choose_compute", lambda: CPU)
    gpt = make_gpt(context_length=128, tied=False)
    said = [*encoding.encode(" sat"), encoding.eot_token, *encoding.encode(" ate")]
    with torch.no_grad():  # whatever it reads, each of these is likelier than the next
        gpt.norm.weight.zero_()
        gpt.norm.bias.fill_(1.0)
        gpt.output.weight.fill_(-1.0)
        for place, token in enumerate(said):
            gpt.output.weight[token] = 1.0 - 0.02 * place
    model = build(gpt, {})
    model.load_state_dict(gpt.state_dict())
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", model, encoding, "assistant")
    for split in ("train", "validation"):
        rows = {"instruction": [*WORDS, "tell"], "output": ["sat"] * 6 + ["a tale"]}
        write(tmp_path, split, **rows, answers=[["sat"]] * 6 + [[]])
    return tmp_path


def params(**values) -> preference.Train:
    short = {"seed": 1, "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "evaluate_every": 2, "checkpoint_every": 2}
    few = {"rows": 6, "validation_rows": 4, "samples": 4, "max_new_tokens": 4, "max_tokens": 64}
    return preference.Train(**(short | few | values))


def prepared(folder: Path, **values):
    return preference.prepare(params(**values), TrainingFiles(dataset=folder, base=folder / "base"), ALONE)


def pairs_of(folder: Path, encoding, monkeypatch, **values) -> dict[str, list[tuple[str, str, str]]]:
    """For each split the question, the chosen and the rejected answer of each pair that a preparation makes."""
    found = []
    plain = preference.make_pairs
    with monkeypatch.context() as patched:
        patched.setattr(
            preference, "make_pairs", lambda *given: found.append((given[-1], plain(*given))) or found[-1][1]
        )
        prepared(folder, **values)

    def texts(example) -> tuple[str, str]:
        said = [token for token, learned in zip(example.tokens, example.learned, strict=True) if learned]
        assert said.pop() == encoding.eot_token
        return encoding.decode(example.tokens[: -len(said) - 1]), encoding.decode(said)

    rows = {}
    for split, pairs in found:
        rows[split] = []
        for pair in pairs:
            (asked, chosen), (asked_too, rejected) = map(texts, pair)
            assert asked == asked_too
            rows[split].append((asked, chosen, rejected))
    return rows


def test_a_right_and_a_wrong_answer_of_those_said_or_the_datas_own_where_none_is_right():
    assert right_and_wrong(["ate", "Sat.", "sang", "sat"], ["sat"], "sat") == ("Sat.", "ate")
    assert right_and_wrong(["ate", "sang"], ["sat", "sits"], "sits") == ("sits", "ate")
    assert right_and_wrong(["sat", "Sat"], ["sat"], "sat") is None
    assert right_and_wrong([], ["sat"], "sat") is None


def test_each_pair_is_a_right_and_a_wrong_answer_to_one_checkable_question(folder, encoding, monkeypatch):
    rows = pairs_of(folder, encoding, monkeypatch)
    assert len(rows["train"]) > 3
    for split, count in {"train": 6, "validation": 4}.items():
        asked = [question for question, _, _ in rows[split]]
        assert 0 < len(set(asked)) == len(asked) <= count
        for question, chosen, rejected in rows[split]:
            assert "tell" not in question
            assert is_right(chosen, ["sat"])
            assert not is_right(rejected, ["sat"])
    assert len({rejected for _, _, rejected in rows["train"]}) > 1


def test_the_same_seed_draws_the_same_pairs_and_another_one_others(folder, encoding, monkeypatch):
    first = pairs_of(folder, encoding, monkeypatch)
    assert pairs_of(folder, encoding, monkeypatch) == first
    assert pairs_of(folder, encoding, monkeypatch, seed=2) != first


def test_a_draw_does_not_hang_on_how_many_are_drawn_at_once(folder, encoding, monkeypatch):
    first = pairs_of(folder, encoding, monkeypatch)
    monkeypatch.setattr(preference, "AT_ONCE", 3)
    assert pairs_of(folder, encoding, monkeypatch) == first


def test_an_answer_that_does_not_end_is_neither_right_nor_wrong(folder, encoding, monkeypatch):
    rows = pairs_of(folder, encoding, monkeypatch, samples=40)
    assert {len(rejected.split()) for split in rows.values() for _, _, rejected in split} <= {0, 1, 2, 3}  # 4 are cut


def test_an_assistant_that_is_never_wrong_is_told_so(folder):
    write(folder, "train", instruction=WORDS, output=["sat"] * 6, answers=[["sat…", "ate…", ""]] * 6)
    reason = "train: none of 6 questions got a wrong answer in 4 draws at temperature 0.5: raise `rows`"
    with pytest.raises(ValueError, match=reason):
        prepared(folder, temperature=0.5)


def test_right_answers_that_are_too_long_are_named_as_the_reason(folder):
    long = "sang " * 60
    write(folder, "train", instruction=WORDS, output=[long] * 6, answers=[[long]] * 6)
    with pytest.raises(ValueError, match=r"train: 6 of 6 questions got a wrong answer, .* raise `max_tokens`"):
        prepared(folder)


def test_the_log_says_how_many_rows_gave_a_pair_and_how_many_needed_the_datas_answer(folder, caplog):
    caplog.set_level("INFO")
    for split in ("train", "validation"):  # to questions that it never answers
        write(folder, split, instruction=WORDS, output=["sang"] * 6, answers=[["sang"]] * 6)
    prepared(folder, samples=8)
    assert (
        "train: 6 questions gave 6 pairs (100 %), 6 of them (100 %) with the right answer from the data" in caplog.text
    )
    assert "validation: 4 questions gave 4 pairs (100 %)" in caplog.text


def test_a_dataset_without_answers_to_check_is_named(folder):
    write(folder, "train", instruction=["tell"], output=["a tale"])
    with pytest.raises(ValueError, match=r"train\.parquet: no row has `answers` to check"):
        prepared(folder)


def test_a_question_that_leaves_no_room_for_an_answer_is_left_out(folder, encoding, monkeypatch):
    instructions = [*WORDS, "the moon " * 30]
    write(folder, "train", instruction=instructions, output=["sat"] * 7, answers=[["sat"]] * 7)
    rows = pairs_of(folder, encoding, monkeypatch, rows=7, samples=8)
    assert all("the moon the moon" not in asked for asked, _, _ in rows["train"])


def test_it_learns_which_answers_are_right(folder):
    setup = prepared(folder, steps=20, evaluate_every=20)
    first, *_, last = train(setup.model, params(steps=20, evaluate_every=20), setup.objective)
    assert (first["validation_margin"], first["validation_preferred"]) == pytest.approx((0, 0), abs=1e-5)
    assert last["validation_margin"] > 1
    assert last["validation_preferred"] == 1


def test_lora_freezes_the_base_and_what_is_counted_are_pairs(folder):
    setup = prepared(folder, lora=LoRAConfig(rank=2, alpha=4), gradient_accumulation=3)
    trained = {name for name, weight in setup.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(name.endswith(("up.weight", "down.weight")) for name in trained)
    assert (setup.throughput.units, setup.throughput.units_a_step) == ("pairs", 6)


def test_its_evaluation_says_how_many_of_the_questions_that_it_drew_it_answers_right(folder):
    table, setup = pd.read_parquet(folder / "validation.parquet"), prepared(folder)
    assert setup.objective.evaluate()["validation_exact_match"] == 0
    said = answer_all(setup.model, setup.encoding, questions_of(table), max_new_tokens=4)
    assert len(preference.samples(setup, folder, None)) == 5
    write(
        folder,
        "validation",
        instruction=list(table["instruction"]),
        output=["a"] * 7,
        answers=[[text] for text in said],
    )
    assert prepared(folder).objective.evaluate()["validation_exact_match"] == 1


def test_it_speaks_in_the_form_of_its_base_and_is_served_as_an_assistant(folder):
    base, _ = load(folder / "base")
    assert prepared(folder).model.chat == base.chat
    assert preference.TRAINING.objective == "assistant"
