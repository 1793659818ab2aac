import json

import pandas as pd
import pytest
import torch
from instruction_tables import write
from rouge_score.rouge_scorer import RougeScorer

from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.generation.packed import pack_for_inference
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import build
from tasks.applications.assistant.answers import MARGIN
from tasks.applications.assistant.measure import EVALUATION, Evaluate, rouge_l
from tasks.measures.description import Subject
from tasks.measures.evaluate import measure_and_write

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
WHO = ("", "baseline_", "nearest_")
REFUSAL = "I can't help with that."
SAME = {"template": "{% for each in messages %}{{ each.content }}{{ eos_token }}{% endfor %}"}


@pytest.fixture(scope="module")
def parrot(make_gpt, encoding):
    """Make an assistant that says one word of the vocabulary, whatever it reads."""

    def make(word, template=None):
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


@pytest.fixture
def measured(parrot, encoding, base):
    """Measure an assistant that says "cat", whose rows and evidence are in the folder around its base."""

    def measure(**params):
        subject = Subject(
            loaded=LoadedModel(parrot(" cat"), encoding),
            data=base.parent,
            base=base,
            params=Evaluate(**params),
            compute=CPU,
            evidence=base.parent,
        )
        return measure_and_write(EVALUATION, subject)

    return measure


def expected_loss(model, encoding, outputs):
    """Nats a token of a model that gives each token the same probability everywhere, as it is when it answers.

    It reads two tokens, as expected answers are read: with AMX torch reads these in bfloat16, and decode.c reads one.
    """
    packed = pack_for_inference(model)
    logits = packed.logits(packed.hidden_states(torch.zeros(1, 2, dtype=torch.int64)))[0, -1].log_softmax(dim=0)
    losses = [-logits[[*encoding.encode_ordinary(text), encoding.eot_token]] for text in outputs]
    return torch.cat(losses).mean().item()


def word_count(text):
    return len(text.split())


def test_assistant_is_measured_beside_its_base_and_the_nearest_training_row(parrot, encoding, measured, tmp_path):
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
    metrics = measured(batch_size=2, max_new_tokens=4, samples=2)
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert answers["answer"].tolist() == ["cat cat cat cat"] * 3
    assert answers["baseline_answer"].tolist() == ["hat hat hat hat"] * 3
    assert answers["nearest_answer"].tolist()[:2] == ["on the mat", "the dog"]
    assert answers["exact"].tolist()[:2] == [1, 0]
    assert answers["nearest_exact"].tolist()[:2] == [0, 1]
    assert answers["question"].tolist()[2] == "hi hello the moon"
    assert answers["rouge_l"].tolist() == [1.0, 0.0, 0.5]
    for who, word in (("", " cat"), ("baseline_", " hat")):
        loss = expected_loss(parrot(word), encoding, [*outputs, "hello"])  # the earlier turn counts, too
        assert metrics[f"{who}response_loss"] == pytest.approx(loss, rel=1e-4)
    for name in ("exact_match", "contains_answer"):
        values = [metrics[f"{who}{name}"] for who in WHO]
        assert [*values, metrics[f"{name}_gain"]] == [0.5, 0.0, 0.5, 0.5]
    assert (metrics["rouge_l"], metrics["rouge_l_gain"], metrics["loops"]) == (0.5, 0.5, 0.0)
    kinds = pd.read_csv(tmp_path / "by_kind.csv")
    assert kinds[["kind", "rows", "gain"]].to_numpy().tolist() == [["count", 2, 0.5], ["own", 1, 0.5]]
    text = (tmp_path / "samples.md").read_text()
    assert text.count("- expected: ") == text.count("- its base says: hat hat hat hat") == 2


def test_kinds_in_which_the_model_is_not_ahead_come_first(measured, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    kinds = {"kind": ["ahead", "behind"], "instruction": ["the cat", "the dog"]}
    write(tmp_path, "test", **kinds, output=["cat", "hat"], answers=[["cat"], ["hat"]])
    measured(batch_size=2, max_new_tokens=1)
    table = pd.read_csv(tmp_path / "by_kind.csv")
    assert table[["kind", "gain"]].to_numpy().tolist() == [["behind", -1.0], ["ahead", 1.0]]


def test_rubrics_measure_what_people_ask(measured, tmp_path, monkeypatch):
    write(tmp_path, "train", instruction=["the cat", "a bird"], output=["cat", REFUSAL])
    write(tmp_path, "test", instruction=["the dog"], output=["cat"])
    folder = tmp_path / "data/behavioural" / tmp_path.name
    folder.mkdir(parents=True)
    row = {"id": "a", "slice": "fact", "instruction": "the cat", "history": ["hi", "hello"], "example": "a cat"}
    row |= {"counterexample": "a dog", "rubric": {"contains": [["cat"]]}}
    harmless = row | {"instruction": "a bird", "history": [], "rubric": {"max_words": 9}}
    for name, content in (("general", row), ("harmless", harmless)):
        (folder / f"{name}.jsonl").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    metrics = measured(batch_size=4, max_new_tokens=2)
    assert [metrics[f"{who}general_right"] for who in WHO] == [1.0, 0.0, 1.0]
    assert [metrics[f"{who}harmless_useful"] for who in WHO] == [1.0, 1.0, 0.0]
    assert metrics["general_right_gain"] == 1.0
    scores = pd.read_parquet(tmp_path / "scores.parquet").query("measure == 'right'")
    assert scores[["behavioural", "question", "expected"]].to_numpy().tolist() == [
        ["general: fact", "hi hello the cat", "such as: a cat"],
        ["harmless: fact", "a bird", "such as: a cat"],
    ]


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("The cat sat on the mats.", "the cat was sitting on a mat"),
        ("Dear Anna,\n\nthank you very much!", "Thanks, Anna"),
    ],
)
def test_rouge_of_english_is_that_of_rouge_score(expected, text):
    by_default = RougeScorer(["rougeL"], use_stemmer=True).score(expected, text)["rougeL"].fmeasure
    assert rouge_l(expected, text) == by_default


@pytest.mark.parametrize(
    ("expected", "text", "score"),
    [
        ("Привет, мир", "привет мир", 1.0),
        ("für Müller", "Müller", 2 / 3),
        ("你好世界", "你好", 2 / 3),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),
        ("cafe\u0301", "café", 1.0),
        ("+", "-", 0.0),
    ],
)
def test_rouge_of_other_scripts_counts_their_words_or_signs(expected, text, score):
    assert rouge_l(expected, text) == pytest.approx(score)


def test_rows_without_right_answers_report_no_exact_match(measured, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog", "a bird"], output=["cat", "the hat"])
    metrics = measured(batch_size=2, max_new_tokens=1, samples=2)
    assert not [name for name in metrics if "exact" in name or "contains" in name]
    assert [metrics[f"{who}rouge_l"] for who in WHO] == [0.5, pytest.approx(1 / 3), 0.0]  # "hat" of "the hat"


def test_answer_that_can_not_be_right_any_more_is_cut_and_a_free_one_is_not(encoding, measured, tmp_path):
    write(tmp_path, "train", instruction=["the cat sat"], output=["on the mat"])
    answers = [["cat", "the cat sat"], []]
    write(tmp_path, "test", instruction=["a cat sat", "a dog ate"], output=["cat", "the dog"], answers=answers)
    measured(batch_size=2, max_new_tokens=40)
    lengths = pd.read_csv(tmp_path / "answers.csv")["answer"].map(word_count)
    longest = len(encoding.encode_ordinary("the cat sat"))
    assert lengths.tolist() == [longest + MARGIN, 40]


def test_rows_without_room_for_an_answer_count_in_the_loss_and_long_answers_are_asked(
    parrot, encoding, measured, tmp_path
):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    words = " the moon"
    length = len(encoding.encode_ordinary(words))
    full = words * (90 // length)  # of 128 tokens, an answer may have 20
    long = words * (130 // length)
    write(tmp_path, "test", instruction=["a bird" + full, "a dog", "a cat"], output=["cat", long, "cat"])
    metrics = measured(batch_size=2, max_new_tokens=20)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)["answer"]
    assert [word_count(text) for text in answers] == [0, 20, 20]
    assert metrics["unanswered"] == 1
    assert "baseline_unanswered" not in metrics  # whose template takes less room
    assert metrics["response_loss"] == pytest.approx(expected_loss(parrot(" cat"), encoding, ["cat", "cat"]), rel=1e-4)


def test_questions_without_room_for_any_answer_are_an_error_with_the_way_out(measured, tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, instruction=["the dog", "a bird"], output=["cat", "hat"])
    with pytest.raises(UserError, match=r"the shortest of 2 questions .* 126 in 128: lower evaluate"):
        measured(batch_size=2, max_new_tokens=126)
