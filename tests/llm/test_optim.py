import pytest
import torch

from llm.classifier import Classifier
from llm.optim import build_optimizer, learning_rate


def test_the_rate_rises_to_its_peak_and_falls_as_a_cosine_to_its_end(make_config):
    config = make_config(steps=100, learning_rate=1e-2, warmup=0.1, final_learning_rate=0.2)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[4] == pytest.approx(5e-3)
    assert rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[55] == pytest.approx(6e-3)  # half way: the mean of peak and end
    assert rates[100] == pytest.approx(2e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup", "rates"), [(1, 0.0, [1.0]), (1, 0.9, [1.0]), (2, 0.0, [1.0, 1.0])])
def test_short_runs_have_rates_too(make_config, steps, warmup, rates):
    config = make_config(steps=steps, warmup=warmup, learning_rate=1.0)
    assert [learning_rate(step, config) for step in range(steps)] == rates


def test_matrices_decay_but_vectors_and_embeddings_do_not(make_gpt, make_config):
    model = Classifier(make_gpt(), 32)
    decays, stays = build_optimizer(model, make_config(weight_decay=0.3)).param_groups
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.3, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = ("attention.query_key_value", "attention.projection", "mlp.expand", "mlp.projection")
    expected = {f"gpt.blocks.{block}.{layer}.weight" for block in range(2) for layer in layers} | {"head.weight"}
    assert {names[id(weight)] for weight in decays["params"]} == expected
    assert {names[id(weight)] for weight in stays["params"]} == set(names.values()) - expected


def test_frozen_weights_are_left_out(make_gpt, make_config):
    model = Classifier(make_gpt(), 32)
    model.freeze(1)
    kept = {id(weight) for group in build_optimizer(model, make_config()).param_groups for weight in group["params"]}
    assert kept == {id(weight) for weight in model.parameters() if weight.requires_grad}


def test_the_first_update_is_adamw_by_hand(make_config):
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0), layer.bias.fill_(1.0)
    optimizer = build_optimizer(layer, make_config(weight_decay=0.5, learning_rate=0.1))
    (3 * layer.weight - 4 * layer.bias).sum().backward()
    optimizer.step()
    # without history each step is the rate in the gradient's direction; the weight shrinks by 0.1 * 0.5 first
    assert layer.weight.item() == pytest.approx(2.0 * 0.95 - 0.1)
    assert layer.bias.item() == pytest.approx(1.0 + 0.1)
