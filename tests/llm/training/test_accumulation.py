"""Several small batches, accumulated, are one large batch, whatever an objective divides its loss by."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from llm.config import TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import assistant, language_model
from llm.objectives.assistant import Example
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.objectives.classifier.fit import LabelledTexts, read_texts
from llm.objectives.classifier.loss import objective as classifier_objective
from llm.training.loop import train
from llm.training.objective import Objective, Row

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SIZES = [(4, 4), (8, 2)]


def labelled_texts() -> LabelledTexts:
    """Texts of unequal lengths, a quarter of them spam: so few that the sampler sorts all at once for every size."""
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice([*"abcxyz"], length)) for length in draw.integers(1, 32, 32)]
    return LabelledTexts(texts, torch.tensor([0, 0, 0, 1] * 8), [*range(32)])


def packed_windows() -> list[list[Example]]:
    """32 packed windows with between 1 and 24 response tokens."""
    draw = np.random.default_rng(0)
    windows = []
    for number in range(32):
        question, answer = 1 + number % 5, 1 + number % 24
        tokens = draw.integers(0, 250, question + answer).tolist()
        windows.append([Example(tokens, [False] * question + [True] * answer)])
    return windows


class Learner(NamedTuple):
    """A model and what it learns."""

    model: torch.nn.Module
    objective: Objective


@pytest.fixture
def learn_text(encoding, token_files):
    def make(gpt: GPT, config: TrainConfig) -> Learner:
        windows = TokenWindows(token_files, "train", 32)
        validation = TokenWindows(token_files, "validation", 32)
        goal = language_model.objective(gpt, config, windows, validation=validation, compute=CPU, evaluation_batches=1)
        return Learner(gpt, goal)

    return make


@pytest.fixture
def learn_labels(encoding):
    def make(gpt: GPT, config: TrainConfig) -> Learner:
        torch.manual_seed(0)
        model = Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=32))
        texts = read_texts(LoadedModel(model, encoding), labelled_texts())
        return Learner(model, classifier_objective(model, config, texts, validation=texts, compute=CPU))

    return make


@pytest.fixture
def learn_answers():
    def make(gpt: GPT, config: TrainConfig) -> Learner:
        windows = packed_windows()
        goal = assistant.objective(gpt, config, windows, validation=windows[0], compute=CPU)
        return Learner(gpt, goal)

    return make


class Update(NamedTuple):
    """One update: its metrics, and how much each of its batches counted."""

    metrics: Row
    weights: list[float]


@pytest.mark.parametrize(("size", "parts"), SIZES)
@pytest.mark.parametrize(
    ("fixture", "is_even"), [("learn_text", True), ("learn_labels", True), ("learn_answers", False)]
)
def test_small_batches_have_the_loss_and_the_gradient_of_a_large_one(
    request, make_gpt, make_config, fixture, is_even, size, parts
):
    make = request.getfixturevalue(fixture)

    def update(size: int, parts: int) -> Update:
        config = make_config(steps=1, batch_size=size, gradient_accumulation=parts)
        learner = make(make_gpt(), config)
        (row,) = train(learner.model, config, learner.objective)
        return Update(row, [learner.objective.weight(part) for part in range(parts)])

    small = update(size, parts)
    large = update(size * parts, 1)
    assert small.metrics["train_loss"] == pytest.approx(large.metrics["train_loss"], rel=1e-5)
    assert small.metrics["gradient_norm"] == pytest.approx(large.metrics["gradient_norm"], rel=1e-5)
    assert (len(set(small.weights)) == 1) == is_even
