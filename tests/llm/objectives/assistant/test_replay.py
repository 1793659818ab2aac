import json

import pytest
import torch
from projects import ROOT

from llm.config import Replay
from llm.errors import UserError
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Question
from llm.objectives.assistant.replay import Answer, answer_prompts, flaw, read_replay, write_replay
from tasks.stages.names import NOTHING_TO_REHEARSE

CPU = torch.device("cpu")
SAME = {"template": "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"}


@pytest.fixture
def answers(make_gpt, encoding, tmp_path):
    """What a base answers that says a text from the same place on, whatever it reads, and then nothing more."""

    def ask(says: str, prompts: list[str], max_new_tokens: int = 20):
        gpt = make_gpt(context_length=64, n_embd=64)
        start = len(encoding.encode(prompts[0]))
        tokens = [*encoding.encode(says), encoding.eot_token]
        with torch.no_grad():
            for block in gpt.blocks:
                block.attention.projection.weight.zero_()
                block.mlp.projection.weight.zero_()
            gpt.embedding.token.weight *= 0.1
            for position, token in enumerate(tokens, start):
                gpt.embedding.position.weight[position] = 100 * gpt.embedding.token.weight[token]
        (tmp_path / "base").mkdir(exist_ok=True)
        save_model(tmp_path / "base", LoadedModel(gpt, encoding), "language_model", chat=SAME)
        file = tmp_path / "prompts.jsonl"
        file.write_text("\n".join(json.dumps({"instruction": prompt}) for prompt in prompts))
        params = Replay(base="base", prompts=file, max_new_tokens=max_new_tokens)
        return answer_prompts(params, tmp_path / "base", CPU)

    return ask


def test_replay_answers_each_prompt_and_marks_unfinished_answers_and_prompts_without_room(answers):
    says = "the cat sat on the mat"
    assert answers(says, ["a dog", "a dog"]) == [Answer(Question("a dog"), says)] * 2
    (unfinished,) = answers(says, ["a dog"], max_new_tokens=3)
    assert unfinished.left_out == "unfinished"
    (without_room,) = answers(says, ["a dog"], max_new_tokens=63)
    assert without_room == Answer(Question("a dog"), "", "the prompt leaves no room in the context")


def test_replay_names_a_file_that_holds_no_prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    params = Replay(base="base", prompts=file, max_new_tokens=9)
    with pytest.raises(UserError, match=r"prompts\.jsonl: No such file"):
        answer_prompts(params, tmp_path, CPU)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"prompts\.jsonl: .*'instruction'"):
        answer_prompts(params, tmp_path, CPU)


def test_replay_reads_back_the_answers_that_it_did_not_leave_out(tmp_path):
    kept = Answer(Question("a dog", "of mine", history=("hi", "hello")), "It\u2028barks.\nLoudly.")
    write_replay(tmp_path / "replay.jsonl", [kept, kept._replace(left_out="short")])
    assert read_replay(tmp_path / "replay.jsonl") == [kept]
    assert read_replay(ROOT / NOTHING_TO_REHEARSE) == []
    with pytest.raises(UserError, match=r"data/replay\.jsonl: .*'output'"):
        read_replay(ROOT / "data/replay.jsonl")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Rain is water that falls from clouds.", ""),
        ("1. Read a book.\n2. Write a letter.", ""),
        ("", "short"),
        ("Rain.", "short"),
        ("It is wet.\nIt is cold.\nIt is wet.", "repeats itself"),
        ("It rains a lot here and it rains a lot there and it rains a lot now.", "repeats itself"),
        ("Rain is \u96e8 in Japanese.", "in another script"),
    ],
)
def test_flaw_names_why_an_answer_is_not_learned(answer, reason):
    assert flaw("What is rain?", answer) == reason
