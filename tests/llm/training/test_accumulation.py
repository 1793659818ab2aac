"""Several small batches, accumulated, are one large batch, whatever an objective divides its loss by."""

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
from llm.training.objective import Objective

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture
def learner(request, encoding, token_files):
    """Make a model and its objective, of texts of unequal lengths: the sampler sorts all at once for every size."""

    def make(gpt: GPT, config: TrainConfig) -> tuple[torch.nn.Module, Objective]:
        draw = np.random.default_rng(0)
        match request.param:
            case "language_model":
                windows = TokenWindows(token_files, "train", 32)
                options = {"validation": windows, "evaluation_batches": 1}
                return gpt, language_model.objective(gpt, config, windows, compute=CPU, **options)
            case "assistant":
                windows = []
                for number in range(32):
                    tokens = draw.integers(0, 250, 1 + number % 24).tolist()
                    windows.append([Example([1, *tokens], [False] + [True] * len(tokens))])
                return gpt, assistant.objective(gpt, config, windows, validation=windows[0], compute=CPU)
        model = Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=32))
        torch.nn.init.ones_(model.head.weight)
        texts = ["".join(draw.choice([*"abcxyz"], length)) for length in draw.integers(1, 32, 64)]
        labelled = LabelledTexts(texts, torch.tensor([0, 0, 0, 1] * 16), [*range(64)])
        read = read_texts(LoadedModel(model, encoding), labelled)
        return model, classifier_objective(model, config, read, validation=read, compute=CPU)

    return make


@pytest.mark.parametrize(("size", "parts"), [(4, 4), (8, 2)])
@pytest.mark.parametrize("learner", ["language_model", "classifier", "assistant"], indirect=True)
def test_small_batches_have_the_loss_and_the_gradient_of_a_large_one(learner, make_gpt, make_config, size, parts):
    rows = []
    for options in ({"batch_size": size, "gradient_accumulation": parts}, {"batch_size": size * parts}):
        config = make_config(steps=1, **options)
        model, objective = learner(make_gpt(), config)
        rows += train(model, config, objective)
    small, large = rows
    assert small["train_loss"] == pytest.approx(large["train_loss"], rel=1e-5)
    assert small["gradient_norm"] == pytest.approx(large["gradient_norm"], rel=1e-5)
