import pytest
import torch

from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.generation.sampling import LIVELY, Sampling
from llm.generation.text import generate_text, options
from llm.loaded_model import LoadedModel
from llm.objectives.language_model import context_at, objective, serve, text_loss, window_loss

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def test_the_loss_of_a_text_keeps_no_graph_and_is_that_of_inference(make_gpt, token_files):
    gpt, windows, kept = make_gpt(), TokenWindows(token_files, "test", 32), []
    (rows,) = windows.evaluation_batches(1, 4)
    with torch.inference_mode():
        expected = window_loss(gpt, *windows.batch(rows)).item()
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        assert text_loss(gpt, windows, [rows], compute=CPU) == expected
    assert kept == []


@pytest.mark.parametrize("length", [8, 12, 32])
def test_the_loss_of_a_window_in_pieces_is_that_of_each_by_itself(make_gpt, token_files, length):
    gpt = make_gpt(positions="rotary").train()
    inputs_BT, targets_BT = TokenWindows(token_files, "train", 32).batch(torch.arange(3).numpy())
    parts = zip(inputs_BT.split(length, 1), targets_BT.split(length, 1), strict=True)
    alone = sum(window_loss(gpt, *part) * part[0].numel() for part in parts) / inputs_BT.numel()
    together = window_loss(gpt, inputs_BT, targets_BT, length=length)
    torch.testing.assert_close(together, alone)
    gradients = [
        torch.autograd.grad(loss, gpt.blocks[0].attention.query_key_value.weight) for loss in (together, alone)
    ]
    torch.testing.assert_close(*gradients)


def test_training_begins_with_the_first_context_length_and_counts_updates_not_batches(make_gpt, token_files, encoding):
    gpt, windows = make_gpt(positions="rotary"), TokenWindows(token_files, "train", 32)
    config = TrainConfig(seed=1, steps=3, batch_size=2, gradient_accumulation=2, learning_rate=0.1, evaluate_every=3,
                         checkpoint_every=3)  # fmt: skip
    goal = objective(
        gpt, config, windows, validation=windows, compute=CPU, evaluation_batches=1, first_context_length=8
    )
    order = BatchSampler(len(windows), 2, seed=1)
    for batch, length in enumerate([8, 8, 16, 16, 32, 32]):
        alone = window_loss(gpt, *windows.batch(order[batch]), length=length, cross_entropy=gpt.backend.cross_entropy)
        assert goal.loss(gpt, batch).item() == alone.item()


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
def test_the_context_doubles_up_to_its_length(first, context_length, steps, expected):
    assert [context_at(step, steps, first=first, context_length=context_length) for step in range(steps)] == expected


def test_served_prompts_go_on_and_one_that_can_not_says_why_and_leaves_the_others_alone(make_gpt, encoding):
    gpt = make_gpt(context_length=128)
    rows = [{"prompt": "the cat"}, {"prompt": ""}, {}, {"prompt": "the moon " * 60}, {"prompt": "a bird"}]
    good, empty, missing, long, other = serve(LoadedModel(gpt, encoding), rows)
    sampling = Sampling(**{name: value for name, (_, value) in options(LIVELY).items() if name != "max_new_tokens"})
    for answer, prompt in ((good, "the cat"), (other, "a bird")):
        assert answer == {
            "text": generate_text(LoadedModel(gpt, encoding), prompt, max_new_tokens=64, sampling=sampling)
        }
    assert empty == {"error": "the prompt is empty"}
    assert missing == {"error": "prompt: missing"}
    assert long["error"].endswith("new ones do not fit the context of 128")
    assert serve(LoadedModel(gpt, encoding), []) == []


def test_served_texts_follow_the_options(make_gpt, encoding):
    gpt, rows = make_gpt(), [{"prompt": "the cat"}]
    options = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 40, "seed": 7}
    expected = generate_text(
        LoadedModel(gpt, encoding),
        "the cat",
        max_new_tokens=9,
        sampling=Sampling(temperature=1.5, top_k=40, top_p=0.95, seed=7),
    )
    assert serve(LoadedModel(gpt, encoding), rows, **options) == [{"text": expected}]
    assert serve(LoadedModel(gpt, encoding), rows, **options | {"seed": 8}) != [{"text": expected}]
    for wrong in ({"top_q": 1}, {"temperature": -1.0}, {"top_k": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            serve(LoadedModel(gpt, encoding), rows, max_new_tokens=9, **wrong)
