import hashlib
import json

import pytest
import torch

from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.objectives.assistant import Question
from llm.objectives.assistant.replay import Replay, answer_prompts, is_sound

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SAME = {"template": "{% for each in messages %}{{ each.content }}{{ eos_token }}{% endfor %}"}


@pytest.fixture
def answers(make_gpt, encoding, tmp_path):
    """What a base answers that says a text from the same place on, whatever it reads, and then nothing more."""

    def ask(says: str, prompts: list[str], max_new_tokens: int = 20):
        gpt = make_gpt(context_length=64, n_embd=64)
        place, said = len(encoding.encode(prompts[0])), [*encoding.encode(says), encoding.eot_token]
        with torch.no_grad():
            for block in gpt.blocks:
                block.attention.projection.weight.zero_(), block.mlp.projection.weight.zero_()
            gpt.embedding.token.weight *= 0.1
            for position, token in enumerate(said, place):
                gpt.embedding.position.weight[position] = 100 * gpt.embedding.token.weight[token]
        (tmp_path / "base").mkdir(exist_ok=True)
        save_model(tmp_path / "base", gpt, encoding, "language_model", chat=SAME)
        file = tmp_path / "prompts.jsonl"
        file.write_text("\n".join(json.dumps({"instruction": prompt}) for prompt in prompts))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        params = Replay(file=file, sha256=sha256, max_new_tokens=max_new_tokens)
        return answer_prompts(params, tmp_path / "base", CPU, 64)

    return ask


def test_the_base_answers_each_prompt_and_says_the_same_again(answers):
    said = "the cat sat on the mat"
    assert answers(said, ["a dog"]) == answers(said, ["a dog", "a dog"]) == [(Question("a dog"), said)]


def test_answers_that_are_cut_and_prompts_without_room_are_left_out(answers):
    assert answers("the cat sat on the mat", ["a dog"], max_new_tokens=3) == []
    assert answers("the cat sat on the mat", ["a dog"], max_new_tokens=63) == []


def test_prompts_that_are_not_those_of_the_parameters_are_named(tmp_path):
    file = tmp_path / "prompts.jsonl"
    params = Replay(file=file, sha256="0" * 64, max_new_tokens=9)
    with pytest.raises(UserError, match=r"prompts\.jsonl: No such file"):
        answer_prompts(params, tmp_path, CPU, 64)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"prompts\.jsonl has the sha256 44136fa.*, and replay\.sha256 is 0000"):
        answer_prompts(params, tmp_path, CPU, 64)
    params = params.model_copy(update={"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    with pytest.raises(UserError, match=r"prompts\.jsonl: not JSON lines with an `instruction`"):
        answer_prompts(params, tmp_path, CPU, 64)


@pytest.mark.parametrize(
    ("answer", "sound"),
    [
        ("Rain is water that falls from clouds.", True),
        ("1. Read a book.\n2. Write a letter.", True),
        ("Rain.", False),
        ("It is wet.\nIt is cold.\nIt is wet.", False),
        ("It rains a lot here and it rains a lot there and it rains a lot now.", False),
        ("Rain is 雨 in Japanese.", False),
    ],
)
def test_answers_that_are_short_or_repetitive_or_in_another_script_are_not_sound(answer, sound):
    assert is_sound("What is rain?", answer) == sound
