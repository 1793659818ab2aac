import pandas as pd
import pytest
import torch
from instruction_tables import write

from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.generation.packed import pack_for_inference
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import build
from tasks.applications.assistant.answers import MARGIN
from tasks.applications.assistant.measure import EVALUATION, Evaluate
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
WHO = ("", "baseline_", "nearest_")
SAME = {"template": "{% for each in messages %}{{ each.content }}{{ eos_token }}{% endfor %}"}


@pytest.fixture(scope="module")
def parrot(make_gpt, encoding):
    """Make an assistant that says one word of the vocabulary, whatever it reads."""

    def make(word: str, template: dict[str, str] | None = None):
        gpt, (token,) = make_gpt(context_length=128), encoding.encode(word)
        with torch.no_grad():
            gpt.embedding.token.weight[token] *= 5
            gpt.norm.weight.zero_()
            gpt.norm.bias.copy_(gpt.embedding.token.weight[token])
        model = build(gpt, {"chat": template or {}})
        model.load_state_dict(gpt.state_dict())
        return model.eval()

    return make


@pytest.fixture
def base(tmp_path, parrot, encoding):
    """The model folder of an assistant with a template of its own, which says "hat"."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_model(folder, LoadedModel(parrot(" hat", SAME), encoding), "language_model")
    return folder


def measured(model, *, encoding, base, params) -> dict[str, float]:
    """The metrics of an assistant, whose rows and evidence are in the folder around its base."""
    subject = Subject(
        loaded=LoadedModel(model, encoding),
        data=base.parent,
        base=base,
        params=params,
        compute=CPU,
        evidence=base.parent,
    )
    return measure_and_write(EVALUATION, subject)


def expected_loss(model, encoding, outputs) -> float:
    """Nats a token of a model that gives each token the same probability everywhere, as it is when it answers.

    It reads two tokens, as expected answers are read: with AMX torch reads these in bfloat16, and decode.c reads one.
    """
    packed = pack_for_inference(model)
    logits = packed.logits(packed.hidden_states(torch.zeros(1, 2, dtype=torch.int64)))[0, -1].log_softmax(dim=0)
    losses = [-logits[[*encoding.encode_ordinary(text), encoding.eot_token]] for text in outputs]
    return torch.cat(losses).mean().item()


def word_count(text: str) -> int:
    return len(text.split())


def test_assistant_is_measured_beside_its_base_and_the_nearest_training_row(parrot, encoding, base, tmp_path):
    model = parrot(" cat")
    train = {"instruction": ["the cat sat", "the dog ate"], "input": ["", "a hat"]}
    write(tmp_path, "train", **train, output=["on the mat", "the dog"])
    outputs = ["Cat  cat cat cat.", "the dog", "cat and cat or"]
    write(
        tmp_path,
        "test",
        kind=["count", "count", "own"],
        instruction=["a cat sat", "a dog ate", "the moon"],
        input=["", "a hat", ""],
        output=outputs,
        answers=[["no", outputs[0]], ["the dog", "The dog…"], []],
        history=[[], [], ["hi", "hello"]],
    )
    params = Evaluate(batch_size=2, max_new_tokens=4, samples=2)
    turns = [*outputs, "hello"]  # the earlier turn counts, too
    losses = [expected_loss(parrot(word), encoding, turns) for word in (" cat", " hat")]
    metrics = measured(model, encoding=encoding, base=base, params=params)
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert answers["answer"].tolist() == ["cat cat cat cat"] * 3
    assert answers["baseline_answer"].tolist() == ["hat hat hat hat"] * 3
    assert answers["nearest_answer"].tolist()[:2] == ["on the mat", "the dog"]
    marks = [f"{who}{mark}" for who in WHO for mark in ("correct", "contains")]
    assert answers["correct"].tolist()[:2] == [True, False]
    assert answers["nearest_correct"].tolist()[:2] == [False, True]
    assert answers[marks].isna().all(axis=1).tolist() == [False, False, True]  # no rule checks the last row
    assert answers[marks].iloc[:2].notna().all(axis=None)
    assert answers["rouge_l"].tolist() == [1.0, 0.0, 0.5]
    nearest = answers["nearest_rouge_l"].iloc[2]
    assert metrics == pytest.approx(
        {"response_loss": losses[0], "exact_match": 0.5, "rouge_l": 0.5}
        | {"baseline_response_loss": losses[1], "baseline_exact_match": 0.0, "baseline_rouge_l": 0.0}
        | {"nearest_exact_match": 0.5, "nearest_rouge_l": nearest}
        | {"exact_match_gain": 0.5, "rouge_l_gain": 0.5}
        | {"contains_answer": 0.5, "baseline_contains_answer": 0.0, "contains_answer_gain": 0.5}
        | {"nearest_contains_answer": 0.5, "loops": 0.0, "baseline_loops": 0.0},
        rel=1e-4,
    )
    kinds = pd.read_csv(tmp_path / "by_kind.csv").set_index("kind")
    assert kinds["rows"].to_dict() == {"count": 2, "own": 1}
    assert kinds.loc["count", "exact_match"] == 0.5
    assert pd.isna(kinds.loc["own", "exact_match"])
    assert kinds["rouge_l"].to_dict() == {"count": 0.5, "own": 0.5}
    parts = [f"{who}{name}" for name in ("exact_match", "contains_answer", "rouge_l") for who in WHO]
    gains = [f"{name}_gain" for name in ("exact_match", "contains_answer", "rouge_l")]
    assert kinds.columns.tolist() == ["rows", *parts, *gains]
    assert kinds[parts].loc["count"].notna().all()
    columns_of_own_rows = ["rows", "rouge_l", "baseline_rouge_l", "nearest_rouge_l", "rouge_l_gain"]
    assert kinds.loc["own"].dropna().index.tolist() == columns_of_own_rows
    assert kinds["rouge_l_gain"].to_dict() == {"count": 0.5, "own": 0.5}
    assert pd.read_csv(tmp_path / "not_ahead.csv").empty
    assert answers["wording"].tolist() == ["a cat sat", "a dog ate", "the moon"]
    text = (tmp_path / "samples.md").read_text()
    assert text.count("- expected: ") == text.count("- its base says: hat hat hat hat") == 2


def test_answer_that_contains_a_right_one_counts_in_contains_answer_alone(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat", "a bird"], output=["it says hat , twice", "sat"])
    write(tmp_path, "test", instruction=["the cat", "the dog"], output=["cat", "hat"], answers=[["cat"], ["hat"]])
    params = Evaluate(batch_size=2, max_new_tokens=3)
    metrics = measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    names = [f"{who}{name}" for name in ("exact_match", "contains_answer") for who in WHO]
    assert [metrics[name] for name in names] == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table["contains"].tolist() == [True, False]
    assert table["baseline_contains"].tolist() == [False, True]
    assert pd.read_csv(tmp_path / "not_ahead.csv")["kind"].tolist() == ["k"]


def test_history_and_system_count_for_the_nearest_row_and_stand_in_answers_csv(parrot, encoding, base, tmp_path):
    histories = [[], ["the dog", "ate"], ["a bird", "sang"]]
    systems = ["", "", "=the moon"]
    write(
        tmp_path,
        "train",
        instruction=["and the cat"] * 3,
        output=["sat", "the hat", "on the mat"],
        history=histories,
        system=systems,
    )
    write(
        tmp_path,
        "test",
        instruction=["and the cat"] * 3,
        output=["hat"] * 3,
        history=histories[::-1],
        system=systems[::-1],
    )
    params = Evaluate(batch_size=2, max_new_tokens=1, samples=2)
    measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert answers["nearest_answer"].tolist() == ["on the mat", "the hat", "sat"]
    assert answers["system"].tolist() == ["'=the moon", "", ""]  # no formula where it is opened
    assert answers["history"].tolist() == ['["a bird", "sang"]', '["the dog", "ate"]', ""]


def test_test_split_of_rows_that_are_all_too_long_is_an_error(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the moon " * 90], output=["the dog"])
    params = Evaluate(batch_size=2, max_new_tokens=1)
    with pytest.raises(
        UserError, match=r"test\.parquet: none of its 1 rows fits 128 tokens, and the longest has \d+; "
    ):
        measured(parrot(" cat"), encoding=encoding, base=base, params=params)


def test_rows_without_right_answers_report_no_exact_match(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog", "a bird"], output=["cat", "the hat"])
    params = Evaluate(batch_size=2, max_new_tokens=1, samples=2)
    metrics = measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    assert metrics.keys() == {
        *("response_loss", "baseline_response_loss"),
        *("rouge_l", "baseline_rouge_l", "nearest_rouge_l", "rouge_l_gain"),
        *("loops", "baseline_loops"),
    }
    assert (metrics["rouge_l"], metrics["nearest_rouge_l"]) == (0.5, 0.0)
    assert metrics["baseline_rouge_l"] == pytest.approx(1 / 3)  # "hat" of "the hat"


def test_answer_that_can_not_be_right_any_more_is_cut_and_a_free_one_is_not(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat sat"], output=["on the mat"])
    right_answers = ["cat", "the cat sat"]
    write(
        tmp_path,
        "test",
        instruction=["a cat sat", "a dog ate"],
        output=["cat", "the dog"],
        answers=[right_answers, []],
    )
    params = Evaluate(batch_size=2, max_new_tokens=40)
    measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    answers = pd.read_csv(tmp_path / "answers.csv")[["answer", "baseline_answer"]]
    lengths = answers.map(word_count)
    longest = max(len(encoding.encode_ordinary(text)) for text in right_answers)
    assert lengths.to_numpy().tolist() == [[longest + MARGIN] * 2, [40] * 2]


def test_rows_that_are_all_checkable_report_no_rouge(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog"], output=["cat"], answers=[["cat"]])
    params = Evaluate(batch_size=2, max_new_tokens=1, samples=2)
    metrics = measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    assert {name for name in metrics if "rouge" in name} == set()
    assert (metrics["exact_match"], metrics["baseline_exact_match"], metrics["nearest_exact_match"]) == (1.0, 0.0, 0.0)


def test_row_too_long_for_the_context_has_an_empty_answer(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    long = {"instruction": ["sat", "the moon " * 90], "output": ["the cat", "the dog"], "answers": [["a"], ["b"]]}
    write(tmp_path, "test", **long)
    params = Evaluate(batch_size=2, max_new_tokens=6, samples=2)
    measured(parrot(" cat"), encoding=encoding, base=base, params=params)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert answers["id"].tolist() == ["test0", "test1"]
    assert answers["answer"].tolist() == ["cat cat cat cat cat cat", ""]


def test_rows_without_room_for_an_answer_count_in_the_loss_and_long_answers_are_asked(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    words = " the moon"
    length = len(encoding.encode_ordinary(words))
    # of 128 tokens, an answer may have 20
    full = words * (90 // length)
    long = words * (130 // length)
    write(tmp_path, "test", instruction=["a bird" + full, "a dog", "a cat"], output=["cat", long, "cat"])
    model = parrot(" cat")
    params = Evaluate(batch_size=2, max_new_tokens=20)
    metrics = measured(model, encoding=encoding, base=base, params=params)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)["answer"]
    assert [word_count(text) for text in answers] == [0, 20, 20]
    assert metrics["unanswered"] == 1
    assert "baseline_unanswered" not in metrics  # whose template takes less room
    assert metrics["response_loss"] == pytest.approx(expected_loss(parrot(" cat"), encoding, ["cat", "cat"]), rel=1e-4)


def test_questions_without_room_for_any_answer_are_an_error_with_the_way_out(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog", "a bird"], output=["cat", "hat"])
    params = Evaluate(batch_size=2, max_new_tokens=126)
    with pytest.raises(UserError, match=r"test\.parquet: no question of its 2 leaves 126 of 128 tokens .* lower"):
        measured(parrot(" cat"), encoding=encoding, base=base, params=params)


def test_template_that_writes_nothing_before_an_answer_is_an_error(encoding, parrot, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=[""], output=["cat"])
    bare = SAME["template"].replace("{{ eos_token }}", "")
    model = parrot(" cat", {"template": bare})
    params = Evaluate(batch_size=2, max_new_tokens=1)
    with pytest.raises(UserError, match="the prompt is empty"):
        measured(model, encoding=encoding, base=base, params=params)
