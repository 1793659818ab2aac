import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.config import LoRAConfig
from llm.dataset import pad
from llm.model.lora import add_lora
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.objectives.classifier.frozen_blocks import CachedStates, count_frozen_blocks, number_tokens

RANDOM = np.random.default_rng(1)
TEXTS = [RANDOM.integers(0, 250, size=size).tolist() for size in (5, 31, 1, 12)]


def make_classifier(make_gpt, last_blocks: int, **shape) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(make_gpt(n_layer=3, **shape), ClassifierConfig(labels=("ham", "spam"), max_tokens=32)).eval()
    add_lora(model, LoRAConfig(rank=2, alpha=4, targets=("projection",)), last_blocks)
    return model


@pytest.mark.parametrize("shape", [{}, {"positions": "rotary", "norm": "rms"}])
@pytest.mark.parametrize("last_blocks", [1, 2])
def test_the_blocks_above_cached_states_give_the_logits_and_gradients_of_the_whole_model(make_gpt, last_blocks, shape):
    model = make_classifier(make_gpt, last_blocks, **shape)
    frozen = count_frozen_blocks(model.gpt)
    assert frozen == 3 - last_blocks
    above = CachedStates.of(model, TEXTS, frozen, batch_size=3).above(model)
    numbers = number_tokens(TEXTS)
    assert [number for text in numbers for number in text] == list(range(sum(map(len, TEXTS))))
    labels, logits, gradients = torch.tensor([0, 1, 1, 0]), [], []
    for reader, texts in ((model, TEXTS), (above, numbers)):
        logits.append(reader(*pad(texts, 0)))
        F.cross_entropy(logits[-1], labels).backward()
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        gradients.append(torch.cat([weight.grad.flatten() for weight in learning]))
        model.zero_grad()
    torch.testing.assert_close(*logits, atol=5e-3, rtol=0)  # states are rounded to bfloat16
    assert F.cosine_similarity(*gradients, dim=0) > 0.999
    torch.testing.assert_close(above.states(numbers), model.states(TEXTS), atol=5e-2, rtol=0)


def test_no_block_is_frozen_where_the_first_one_or_the_embedding_learns(make_gpt):
    assert count_frozen_blocks(make_classifier(make_gpt, 3).gpt) == 0
    model = make_classifier(make_gpt, 1)
    model.gpt.embedding.requires_grad_(True)
    assert count_frozen_blocks(model.gpt) == 0
