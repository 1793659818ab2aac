from statistics import fmean

import pytest
import torch
from torch.nn import functional as F

from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.generation.sampling import LIVELY, Sampling
from llm.generation.text import generate_text
from llm.loaded_model import LoadedModel
from llm.objectives.language_model import context_at, objective, serve, text_loss, window_loss

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_loss_of_a_text_is_the_mean_over_its_tokens(make_gpt, token_files):
    gpt = make_gpt(context_length=16)
    windows = TokenWindows(token_files, "test", 16)
    losses = []
    for row in range(len(windows)):
        tokens = torch.tensor(windows.tokens[row * 16 : row * 16 + 17].astype("int64"))
        losses.append(F.cross_entropy(gpt(tokens[None, :-1])[0], tokens[1:]).item())
    batches = [windows.evaluation_batches(99, 1)[0], torch.arange(1, len(windows)).numpy()]  # of unequal sizes
    assert text_loss(gpt, windows, batches, compute=CPU) == pytest.approx(fmean(losses), rel=1e-5)


@pytest.mark.parametrize("length", [8, 12, 32])
def test_loss_of_a_window_in_pieces_is_that_of_each_by_itself(make_gpt, token_files, length):
    gpt = make_gpt(positions="rotary")
    inputs_BT, targets_BT = TokenWindows(token_files, "train", 32).batch(torch.arange(3).numpy())
    losses = []
    for inputs, targets in zip(inputs_BT.split(length, 1), targets_BT.split(length, 1), strict=True):
        losses.append(window_loss(gpt, inputs, targets) * inputs.numel() / inputs_BT.numel())
    expected = torch.stack(losses).sum()
    loss = window_loss(gpt, inputs_BT, targets_BT, length=length)
    torch.testing.assert_close(loss, expected)
    weight = gpt.blocks[0].attention.query_key_value.weight
    torch.testing.assert_close(torch.autograd.grad(loss, weight), torch.autograd.grad(expected, weight))


def test_training_begins_with_the_first_context_length_and_counts_updates_not_batches(
    make_gpt, make_config, token_files
):
    gpt = make_gpt(positions="rotary")
    windows = TokenWindows(token_files, "train", 32)
    config = make_config(steps=3, batch_size=2, gradient_accumulation=2)
    options = {"validation": windows, "compute": CPU, "evaluation_batches": 1}
    goal = objective(gpt, config, windows, first_context_length=8, **options)
    order = BatchSampler(len(windows), 2, seed=config.seed)
    for index, length in enumerate([8, 8, 16, 16, 32, 32]):
        expected = window_loss(gpt, *windows.batch(order[index]), length=length)
        assert goal.loss(gpt, index).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "context_length", "steps", "expected"),
    [
        (None, 512, 3, [512, 512, 512]),
        (64, 512, 8, [64, 64, 128, 128, 256, 256, 512, 512]),
        (48, 500, 5, [48, 96, 192, 384, 500]),
        (64, 32, 2, [32, 32]),
    ],
)
def test_context_doubles_up_to_its_length(first, context_length, steps, expected):
    assert [context_at(step, steps, first=first, context_length=context_length) for step in range(steps)] == expected


def test_serve_continues_prompts_by_the_options_and_names_what_is_wrong(make_gpt, encoding):
    loaded = LoadedModel(make_gpt(context_length=128), encoding)
    rows = [{"prompt": "the cat"}, {"prompt": ""}, {}, {"prompt": "the moon " * 60}, {"prompt": "a bird"}]
    options = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 40, "seed": 7}
    sampling = Sampling(temperature=1.5, top_k=40, top_p=LIVELY.top_p, seed=7)
    first, empty, missing, long, last = serve(loaded, rows, **options)
    assert first == {"text": generate_text(loaded, "the cat", max_new_tokens=9, sampling=sampling)}
    assert last == {"text": generate_text(loaded, "a bird", max_new_tokens=9, sampling=sampling)}
    assert empty == {"error": "the prompt is empty"}
    assert missing == {"error": "prompt: missing"}
    assert long["error"].endswith("new ones do not fit the context of 128")
    assert serve(loaded, rows, **options | {"seed": 8})[0] != first
    assert serve(loaded, []) == []
    for name, value in {"top_q": 1, "temperature": -1.0, "top_k": True}.items():
        with pytest.raises(ValueError, match=name):
            serve(loaded, rows, **{name: value})
