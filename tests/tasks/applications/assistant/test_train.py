import json

import pytest
import torch
from instruction_tables import write

from llm.chat import Chat, prompt_tokens
from llm.config import LoRAConfig
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Question, encode_examples, pack_sequences, row_width
from tasks.applications.assistant import train as assistant
from tasks.training.setup import TrainingFiles

SAME = {"template": "{% for each in messages %}{{ each.content }}{{ eos_token }}{% endfor %}"}


@pytest.fixture
def prepared(make_gpt, encoding, tmp_path, monkeypatch):
    """Prepare a training on a base with bfloat16 matrices, on a device that computes in `dtype`."""
    llama = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "context_length": 128}
    gpt = make_gpt(**llama)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", LoadedModel(gpt, encoding), "language_model", chat=SAME | {"system": "the hat"})
    for split in ("train", "validation"):
        write(
            tmp_path,
            split,
            instruction=["the cat", "the dog", "sat " * 40],
            output=["sat", "ate", "mat"],
            history=[["hi", "hello"], [], []],
            system=["the mat", "", ""],
        )

    def prepare(dtype: torch.dtype = torch.float32, rehearses: str = "", **values):
        compute = Compute(torch.device("cpu"), dtype, "a test")
        monkeypatch.setattr(assistant, "choose_compute", lambda: compute)
        short = {"seed": 1, "steps": 2, "batch_size": 1, "learning_rate": 1e-3, "evaluate_every": 1}
        params = assistant.Train(**short | {"checkpoint_every": 1} | values)
        replay = tmp_path / "replay.jsonl"
        replay.write_text(rehearses)
        files = TrainingFiles(dataset=tmp_path, base=tmp_path / "base", rehearses=replay)
        return assistant.prepare(params, files)

    return prepare


def test_assistant_speaks_in_its_bases_template_with_a_system_prompt_of_its_own(prepared, encoding):
    model = prepared(system="the moon").loaded.model
    assert model.chat == Chat(**SAME, system="the moon")
    asked = encoding.decode(prompt_tokens(encoding, model.chat, Question("sat").messages()))
    assert asked == "the moon<|endoftext|>sat<|endoftext|>"


def test_shorter_context_and_window_leave_longer_rows_out(prepared, encoding, caplog):
    caplog.set_level("WARNING")
    assert prepared().loaded.model.config.context_length == 128
    assert "left out" not in caplog.text
    setup = prepared(context_length=64, window=32)
    assert setup.loaded.model.config.context_length == 64
    assert "1 rows are longer than 32 tokens and left out" in caplog.text
    rows = [Question("the cat", system="the mat", history=("hi", "hello")), Question("the dog")]
    examples = encode_examples(encoding, setup.loaded.model.chat, rows, outputs=["sat", "ate"], longest=32)
    (window,) = pack_sequences(examples, 32)  # both share one
    assert setup.throughput.units_a_step == row_width(window)


def test_rows_of_sources_under_twice_count_twice(prepared):
    patterns = [(), ("s*",), ("other/*",)]
    left_out = [prepared(window=32, twice=twice).finish()["train_rows_left_out"] for twice in patterns]
    assert left_out == [1, 2, 1]


def test_prepare_rehearses_the_answers_that_are_not_left_out(prepared, tmp_path):
    assert "replayed" not in prepared().finish()
    answer = {"instruction": "the cat", "input": "", "history": [], "output": "sat on the mat", "left_out": ""}
    flawed = answer | {"output": "sat", "left_out": "short"}
    alone = prepared(window=32)
    rehearsed = prepared(window=32, rehearses=f"{json.dumps(answer)}\n{json.dumps(flawed)}\n")
    assert rehearsed.finish()["replayed"] == 1
    assert rehearsed.throughput.units_a_step > alone.throughput.units_a_step
    assert rehearsed.objective.loss(rehearsed.loaded.model, 0).isfinite()


def test_context_is_never_longer_than_the_bases(prepared):
    assert prepared(context_length=4096).loaded.model.config.context_length == 128


@pytest.mark.parametrize("split", ["train", "validation"])
def test_split_whose_rows_all_exceed_the_window_is_refused(prepared, tmp_path, split, encoding):
    rows = {"instruction": ["sat " * 9, "the dog " * 20], "output": ["mat", "ate"]}
    write(tmp_path, split, **rows)
    (longest,) = encode_examples(encoding, Chat(**SAME), [Question("the dog " * 20)], outputs=["ate"], longest=999)
    with pytest.raises(UserError) as error:
        prepared(window=10)
    assert str(error.value) == (
        f"{tmp_path / split}.parquet: none of its 2 rows fits 10 tokens, and the longest has {len(longest)}; raise "
        "train.window and train.context_length (the base has 128), or bring shorter rows"
    )


@pytest.mark.parametrize("chat", [None, SAME])
def test_base_may_lack_a_template_and_have_learned_positions(prepared, make_gpt, encoding, tmp_path, chat):
    save_model(
        tmp_path / "base",
        LoadedModel(make_gpt(context_length=96), encoding),
        "language_model",
        **({"chat": chat} if chat else {}),
    )
    model = prepared(context_length=2048, system="the moon").loaded.model
    assert model.config.context_length == 96
    assert model.chat == (Chat(**SAME, system="the moon") if chat else Chat(system="the moon"))


def test_frozen_weights_stay_in_bfloat16_where_the_device_computes_in_it(prepared):
    lora = LoRAConfig(rank=2, alpha=4)

    def dtypes(setup) -> dict[bool, set[torch.dtype]]:
        by_training = {True: set(), False: set()}
        for weight in setup.loaded.model.parameters():
            by_training[weight.requires_grad].add(weight.dtype)
        return by_training

    frozen = {torch.float32, torch.bfloat16}
    assert dtypes(prepared(torch.bfloat16, lora=lora)) == {True: {torch.float32}, False: frozen}
    assert dtypes(prepared(torch.float32, lora=lora)) == {True: {torch.float32}, False: {torch.float32}}
    assert dtypes(prepared(torch.bfloat16)) == {True: {torch.float32}, False: set()}
