import pytest
import torch

from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.generation.sampling import LIVELY, Sampling
from llm.generation.text import generate_text
from llm.loaded_model import LoadedModel
from llm.objectives.language_model import context_at, objective, serve, text_loss, window_loss

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_loss_of_a_text_keeps_no_graph_and_is_that_of_inference(make_gpt, token_files):
    gpt = make_gpt()
    windows = TokenWindows(token_files, "test", 32)
    (rows,) = windows.evaluation_batches(1, 4)
    with torch.inference_mode():
        expected = window_loss(gpt, *windows.batch(rows)).item()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        assert text_loss(gpt, windows, [rows], compute=CPU) == expected
    assert saved == []


@pytest.mark.parametrize("length", [8, 12, 32])
def test_loss_of_a_window_in_pieces_is_that_of_each_by_itself(make_gpt, token_files, length):
    gpt = make_gpt(positions="rotary").train()
    inputs_BT, targets_BT = TokenWindows(token_files, "train", 32).batch(torch.arange(3).numpy())
    expected = torch.zeros(())
    for inputs, targets in zip(inputs_BT.split(length, 1), targets_BT.split(length, 1), strict=True):
        expected = expected + window_loss(gpt, inputs, targets) * inputs.numel() / inputs_BT.numel()
    loss = window_loss(gpt, inputs_BT, targets_BT, length=length)
    torch.testing.assert_close(loss, expected)
    weight = gpt.blocks[0].attention.query_key_value.weight
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))


def test_training_begins_with_the_first_context_length_and_counts_updates_not_batches(make_gpt, token_files):
    gpt = make_gpt(positions="rotary")
    windows = TokenWindows(token_files, "train", 32)
    run = {"seed": 1, "steps": 3, "learning_rate": 0.1, "evaluate_every": 3, "checkpoint_every": 3}
    config = TrainConfig(**run, batch_size=2, gradient_accumulation=2)
    options = {"validation": windows, "compute": CPU, "evaluation_batches": 1}
    goal = objective(gpt, config, windows, first_context_length=8, **options)
    order = BatchSampler(len(windows), 2, seed=1)
    for index, length in enumerate([8, 8, 16, 16, 32, 32]):
        inputs_BT, targets_BT = windows.batch(order[index])
        expected = window_loss(gpt, inputs_BT, targets_BT, length=length, cross_entropy=gpt.backend.cross_entropy)
        assert goal.loss(gpt, index).item() == expected.item()


@pytest.mark.parametrize(
    ("first", "context_length", "steps", "expected"),
    [
        (None, 512, 3, [512, 512, 512]),
        (64, 512, 8, [64, 64, 128, 128, 256, 256, 512, 512]),
        (48, 500, 5, [48, 96, 192, 384, 500]),
        (64, 64, 2, [64, 64]),
        (64, 32, 2, [32, 32]),
    ],
)
def test_context_doubles_up_to_its_length(first, context_length, steps, expected):
    assert [context_at(step, steps, first=first, context_length=context_length) for step in range(steps)] == expected


def test_serve_continues_prompts_and_names_what_is_wrong_with_others(make_gpt, encoding):
    loaded = LoadedModel(make_gpt(context_length=128), encoding)
    rows = [{"prompt": "the cat"}, {"prompt": ""}, {}, {"prompt": "the moon " * 60}, {"prompt": "a bird"}]
    options = {"max_new_tokens": 64, "sampling": LIVELY.model_copy(update={"seed": 1})}
    answers = serve(loaded, rows)
    assert answers[0] == {"text": generate_text(loaded, "the cat", **options)}
    assert answers[1] == {"error": "the prompt is empty"}
    assert answers[2] == {"error": "prompt: missing"}
    assert answers[3]["error"].endswith("new ones do not fit the context of 128")
    assert answers[4] == {"text": generate_text(loaded, "a bird", **options)}
    assert serve(loaded, []) == []


def test_serve_follows_the_options_and_names_a_wrong_one(make_gpt, encoding):
    loaded = LoadedModel(make_gpt(), encoding)
    rows = [{"prompt": "the cat"}]
    options = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 40, "seed": 7}
    sampling = Sampling(temperature=1.5, top_k=40, top_p=0.95, seed=7)
    expected = generate_text(loaded, "the cat", max_new_tokens=9, sampling=sampling)
    assert serve(loaded, rows, **options) == [{"text": expected}]
    assert serve(loaded, rows, **options | {"seed": 8}) != [{"text": expected}]
    for name, value in {"top_q": 1, "temperature": -1.0, "top_k": True}.items():
        with pytest.raises(ValueError, match=name):
            serve(loaded, rows, **{name: value})
