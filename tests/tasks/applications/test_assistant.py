from pathlib import Path

import pandas as pd
import pytest
import torch

from llm.applications.assistant import Question, build, encode_examples, prompt_tokens
from llm.chat import Chat
from llm.config import LoRAConfig
from llm.device import Compute
from llm.formats.model_folder import save_model
from llm.training.workers import ALONE
from tasks.applications import assistant
from tasks.applications.assistant import is_right

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SAME = {"template": "{% for each in messages %}{{ each.content }}{{ eos_token }}{% endfor %}"}


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("A feline mammal.", ["a  feline\nmammal"], True),
        ("large", ["Large."], True),
        ("Large!", ["large"], True),
        ("large", ["larger"], False),
        ("", ["."], True),
        ("a.b", ["ab"], False),
        ("Why?", ["why"], False),
        ("four", ["4", "four"], True),
        ("four", [], False),
        ("Yes, because it is.", ["Yes…"], True),
        ("yes", ["Yes…"], True),
        ("I say yes", ["Yes…"], False),
        ("Not at all", ["No…"], False),
        ("My name is Anna.", ["My name is Ann…", "I'm Ann…"], False),
        ("I'm Ann. And you?", ["My name is Ann…", "I'm Ann…"], True),
        ("No", ["No, it isn't…"], False),
        ("hello", ["HELLO"], False),
        ("HELLO!", ["HELLO"], True),
    ],
)
def test_an_answer_is_right_but_for_spaces_case_and_what_ends_it_or_by_how_it_begins(answer, expected, right):
    assert is_right(answer, expected) is right


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


def write(folder: Path, split: str, **columns: list) -> None:
    """A split of the dataset; columns that are not given are empty."""
    size = len(columns["instruction"])
    empty = {"input": [""] * size, "answers": [[]] * size, "history": [[]] * size, "system": [""] * size}
    table = {"id": [f"{split}{n}" for n in range(size)], "source": ["s"] * size, "kind": ["k"] * size}
    pd.DataFrame(table | empty | columns).to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def base(tmp_path, parrot, encoding):
    """The model folder of an assistant with a template of its own, which says "hat"."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_model(folder, parrot(" hat", SAME), encoding, "language_model")
    return folder


def expected_loss(model, encoding, outputs) -> float:
    """Nats a token of a model that gives each token the same probability everywhere."""
    logits = model(torch.zeros(1, 1, dtype=torch.int64))[0, 0].log_softmax(dim=0)
    losses = [-logits[[*encoding.encode_ordinary(text), encoding.eot_token]] for text in outputs]
    return torch.cat(losses).mean().item()


def test_the_assistant_is_measured_beside_its_base_and_the_nearest_training_row(parrot, encoding, base, tmp_path):
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
    params = assistant.Evaluate(batch_size=2, max_new_tokens=4, samples=2)
    said = [*outputs, "hello"]  # the earlier turn counts, too
    losses = [expected_loss(each, encoding, said) for each in (model, parrot(" hat"))]
    found = assistant.measure(model, encoding, tmp_path, base, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert answers["answer"].tolist() == ["cat cat cat cat"] * 3
    assert answers["baseline_answer"].tolist() == ["hat hat hat hat"] * 3
    assert answers["nearest_answer"].tolist()[:2] == ["on the mat", "the dog"]
    assert answers["correct"].tolist() == [True, False, False]
    assert answers["nearest_correct"].tolist() == [False, True, False]
    assert answers["rouge_l"].tolist() == [1.0, 0.0, 0.5]
    nearest = answers["nearest_rouge_l"].iloc[2]
    assert found == pytest.approx(
        {"response_loss": losses[0], "exact_match": 0.5, "rouge_l": 0.5}
        | {"baseline_response_loss": losses[1], "baseline_exact_match": 0.0, "baseline_rouge_l": 0.0}
        | {"nearest_exact_match": 0.5, "nearest_rouge_l": nearest}
        | {"exact_match_low": 0.0, "exact_match_high": 1.0},
        rel=1e-4,
    )
    kinds = pd.read_csv(tmp_path / "by_kind.csv").set_index("kind")
    assert kinds["rows"].to_dict() == {"count": 2, "own": 1}
    assert kinds.loc["count", "exact_match"] == 0.5
    assert pd.isna(kinds.loc["own", "exact_match"])
    assert kinds["rouge_l"].to_dict() == {"count": 0.5, "own": 0.5}
    text = (tmp_path / "samples.md").read_text()
    assert text.count("- expected: ") == text.count("- its base says: hat hat hat hat") == 2


def test_rows_of_ones_own_without_answers_report_no_exact_match(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog", "a bird"], output=["cat", "the hat"])
    params = assistant.Evaluate(batch_size=2, max_new_tokens=1, samples=2)
    found = assistant.measure(parrot(" cat"), encoding, tmp_path, base, params, CPU, tmp_path)
    assert found.keys() == {
        *("response_loss", "baseline_response_loss"),
        *("rouge_l", "baseline_rouge_l", "nearest_rouge_l"),
    }
    assert (found["rouge_l"], found["nearest_rouge_l"]) == (0.5, 0.0)
    assert found["baseline_rouge_l"] == pytest.approx(1 / 3)  # "hat" of "the hat"


def test_rows_that_are_all_checkable_report_no_rouge(parrot, encoding, base, tmp_path):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    write(tmp_path, "test", instruction=["the dog"], output=["cat"], answers=[["cat"]])
    params = assistant.Evaluate(batch_size=2, max_new_tokens=1, samples=2)
    found = assistant.measure(parrot(" cat"), encoding, tmp_path, base, params, CPU, tmp_path)
    assert {name for name in found if "rouge" in name} == set()
    assert (found["exact_match"], found["baseline_exact_match"], found["nearest_exact_match"]) == (1.0, 0.0, 0.0)


def test_a_row_too_long_for_the_context_is_answered_with_nothing_and_does_not_stop_the_evaluation(
    parrot, encoding, base, tmp_path
):
    write(tmp_path, "train", instruction=["the cat"], output=["sat"])
    long = {"instruction": ["sat", "the moon " * 90], "output": ["the cat", "the dog"], "answers": [["a"], ["b"]]}
    write(tmp_path, "test", **long)
    params = assistant.Evaluate(batch_size=2, max_new_tokens=6, samples=2)
    assistant.measure(parrot(" cat"), encoding, tmp_path, base, params, CPU, tmp_path)
    answers = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert answers["id"].tolist() == ["test0", "test1"]
    assert answers["answer"].tolist() == ["cat cat cat cat cat cat", ""]


@pytest.fixture
def prepared(make_gpt, encoding, tmp_path, monkeypatch):
    """Prepare a training on a base with bfloat16 matrices, on a device that computes in `dtype`."""
    llama = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "context_length": 128}
    gpt = make_gpt(**llama)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", gpt, encoding, "language_model", chat=SAME | {"system": "the hat"})
    for split in ("train", "validation"):
        write(
            tmp_path,
            split,
            instruction=["the cat", "the dog", "sat " * 40],
            output=["sat", "ate", "mat"],
            history=[["hi", "hello"], [], []],
            system=["the mat", "", ""],
        )

    def prepare(dtype: torch.dtype = torch.float32, **values):
        monkeypatch.setattr(assistant, "choose_compute", lambda: Compute(torch.device("cpu"), dtype, "a test"))
        short = {"seed": 1, "steps": 2, "batch_size": 1, "learning_rate": 1e-3, "evaluate_every": 1}
        params = assistant.Train(**short | {"checkpoint_every": 1} | values)
        return assistant.prepare(params, tmp_path, tmp_path / "base", ALONE)

    return prepare


def test_an_assistant_speaks_in_its_bases_template_with_a_system_prompt_of_its_own(prepared, encoding):
    model = prepared(system="the moon").model
    assert model.chat == Chat(**SAME, system="the moon")
    asked = encoding.decode(prompt_tokens(encoding, model.chat, Question("sat").messages()))
    assert asked == "the moon<|endoftext|>sat<|endoftext|>"


def test_a_shorter_context_and_window_are_taken_and_longer_rows_are_left_out(prepared, encoding, caplog):
    caplog.set_level("INFO")
    assert prepared().model.config.context_length == 128
    assert "left out" not in caplog.text
    setup = prepared(context_length=64, window=32)
    assert setup.model.config.context_length == 64
    assert "1 rows are longer than 32 tokens and left out" in caplog.text
    rows = [Question("the cat", system="the mat", history=("hi", "hello")), Question("the dog")]
    examples = encode_examples(encoding, setup.model.chat, rows, ["sat", "ate"], 32)
    assert setup.throughput.units_a_step == sum(map(len, examples))  # both share a window


def test_what_lora_freezes_stays_in_bfloat16_where_the_device_computes_in_it(prepared):
    lora = LoRAConfig(rank=2, alpha=4)

    def dtypes(setup) -> dict[bool, set[torch.dtype]]:
        found = {True: set(), False: set()}
        for weight in setup.model.parameters():
            found[weight.requires_grad].add(weight.dtype)
        return found

    both = {torch.float32, torch.bfloat16}
    assert dtypes(prepared(torch.bfloat16, lora=lora)) == {True: {torch.float32}, False: both}
    assert dtypes(prepared(torch.float32, lora=lora)) == {True: {torch.float32}, False: {torch.float32}}
    assert dtypes(prepared(torch.bfloat16)) == {True: {torch.float32}, False: set()}
