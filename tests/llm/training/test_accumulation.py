"""Several small batches, accumulated, are one large batch, whatever an objective divides its loss by."""

import numpy as np
import pytest
import torch

from llm.dataset import TokenWindows
from llm.device import Compute
from llm.loaded_model import LoadedModel
from llm.objectives import assistant, classifier, language_model
from llm.objectives.assistant import Example
from llm.objectives.classifier import Classifier, ClassifierConfig, LabelledTexts
from llm.training.loop import train

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SIZES = [(4, 4), (8, 2)]


@pytest.fixture(scope="module")
def texts():
    """Texts of unequal lengths, a quarter of them spam: so few that the sampler sorts all at once for every size."""
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice([*"abcxyz"], length)) for length in draw.integers(1, 32, 32)]
    return LabelledTexts(texts, torch.tensor([0, 0, 0, 1] * 8), [*range(32)])


@pytest.fixture(scope="module")
def windows():
    """32 packed windows with between 1 and 24 response tokens."""
    draw = np.random.default_rng(0)
    sizes = [(1 + n % 5, 1 + n % 24) for n in range(32)]
    return [
        [Example(draw.integers(0, 250, asked + said).tolist(), [False] * asked + [True] * said)]
        for asked, said in sizes
    ]


@pytest.fixture(params=["language model", "classifier", "assistant"])
def learn(request, make_gpt, make_config, encoding, token_files, texts, windows):
    """Make one update; its metrics, and how much each of its batches counted."""

    def update(size: int, parts: int):
        config = make_config(steps=1, batch_size=size, gradient_accumulation=parts)
        model = make_gpt()
        match request.param:
            case "language model":
                splits = [TokenWindows(token_files, split, 32) for split in ("train", "validation")]
                goal = language_model.objective(
                    model, config, splits[0], validation=splits[1], compute=CPU, evaluation_batches=1
                )
            case "assistant":
                goal = assistant.objective(model, config, windows, validation=windows[0], compute=CPU)
            case _:
                torch.manual_seed(0)
                model = Classifier(model, ClassifierConfig(labels=("ham", "spam"), max_tokens=32))
                read = classifier.read_texts(LoadedModel(model, encoding), texts)
                goal = classifier.objective(model, config, read, validation=read, compute=CPU)
        (row,) = train(model, config, goal)
        return row, [*map(goal.weight, range(parts))]

    update.name = request.param
    return update


@pytest.mark.parametrize(("size", "parts"), SIZES)
def test_small_batches_have_the_loss_and_the_gradient_of_a_large_one(learn, size, parts):
    (small, counted), (large, _) = learn(size, parts), learn(size * parts, 1)
    assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-5)
    assert small["gradient_norm"] == pytest.approx(large["gradient_norm"], rel=1e-5)
    assert (len(set(counted)) == 1) == (learn.name in ("language model", "classifier"))
