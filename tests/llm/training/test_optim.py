import pytest
import torch

from llm.config import LoRAConfig
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.training import optim
from llm.training.optim import Muon, Optimizers, build_optimizer, orthogonal, schedule


def make_classifier(gpt: GPT) -> Classifier:
    return Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=32))


def test_the_rate_rises_to_its_peak_and_falls_to_zero_in_a_line(make_config):
    config = make_config(steps=100, warmup=0.1)
    rates = [schedule(step, config) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 90)  # the last step is not lost
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup", "rates"), [(1, 0.0, [1.0]), (1, 0.9, [1.0]), (2, 0.0, [1.0, 1.0])])
def test_short_runs_have_rates_too(make_config, steps, warmup, rates):
    config = make_config(steps=steps, warmup=warmup)
    assert [schedule(step, config) for step in range(steps)] == rates


def groups(optimizer: Optimizers) -> list[dict]:
    return [group for part in optimizer.parts for group in part.param_groups]


def test_matrices_decay_but_vectors_and_embeddings_do_not(make_gpt, make_config):
    model = make_classifier(make_gpt())
    decays, stays = groups(build_optimizer(model, make_config(weight_decay=0.3)))
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.3, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = ("attention.query_key_value", "attention.projection", "mlp.expand", "mlp.projection")
    expected = {f"gpt.blocks.{block}.{layer}.weight" for block in range(2) for layer in layers} | {"head.weight"}
    assert {names[id(weight)] for weight in decays["params"]} == expected
    assert {names[id(weight)] for weight in stays["params"]} == set(names.values()) - expected


def test_frozen_weights_are_left_out(make_gpt, make_config):
    model = make_classifier(make_gpt())
    model.gpt.blocks[0].requires_grad_(False)
    kept = {id(weight) for group in groups(build_optimizer(model, make_config())) for weight in group["params"]}
    assert kept == {id(weight) for weight in model.parameters() if weight.requires_grad}


def test_the_first_update_is_adamw_by_hand(make_config):
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0), layer.bias.fill_(1.0)
    optimizer = build_optimizer(layer, make_config(weight_decay=0.5, learning_rate=0.1))
    (3 * layer.weight - 4 * layer.bias).sum().backward()
    optimizer.step(0.5)
    # without history each step is the rate in the gradient's direction; the weight shrinks by 0.05 * 0.5 first
    assert layer.weight.item() == pytest.approx(2.0 * 0.975 - 0.05)
    assert layer.bias.item() == pytest.approx(1.0 + 0.05)
    assert layer.weight.grad is None


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(make_gpt, make_config):
    model = make_classifier(make_gpt())
    optimizer = build_optimizer(model, make_config(optimizer="muon", muon_learning_rate=0.03, learning_rate=0.02))
    muon, *adamw = groups(optimizer)
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = ("attention.query_key_value", "attention.projection", "mlp.expand", "mlp.projection")
    expected = {f"gpt.blocks.{block}.{layer}.weight" for block in range(2) for layer in layers}
    assert {names[id(weight)] for weight in muon["params"]} == expected
    assert {names[id(weight)] for group in adamw for weight in group["params"]} == set(names.values()) - expected
    assert [group["peak"] for group in (muon, *adamw)] == [0.03, 0.02, 0.02]


def test_muon_alone_trains_lora(make_gpt, make_config):
    gpt = make_gpt()
    add_lora(gpt, LoRAConfig(rank=2, alpha=2))
    (group,) = groups(build_optimizer(gpt, make_config(optimizer="muon")))
    assert {id(weight) for weight in group["params"]} == {id(w) for w in gpt.parameters() if w.requires_grad}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (24, 8), (5, 40)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(size, fast, monkeypatch):
    monkeypatch.setattr(optim, "has_fast_bfloat16", lambda device: fast)
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(0))
    (found,) = orthogonal(matrix[None])
    assert torch.equal(found, found.bfloat16().float()) == fast  # a product in bfloat16 may be a thousand times slower
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() < values.max() < 1.3
    across = left.T @ found @ right.T
    assert (across - torch.diag(across.diagonal())).abs().max() < 0.05


def test_the_first_update_of_muon_is_the_orthogonal_gradient_and_the_second_remembers_it():
    weights = [torch.nn.Parameter(torch.zeros(6, 3)) for _ in range(2)]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.5)
    first, second = torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    for weight, gradient in zip(weights, first, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    after_one = -0.1 * 2**0.5 * orthogonal(first)  # twice as many rows as columns
    torch.testing.assert_close(torch.stack([*weights]).detach(), after_one, atol=0.02, rtol=0)
    for weight, gradient in zip(weights, second, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    average = 0.9 * 0.1 * first + 0.1 * second
    expected = after_one * 0.95 - 0.1 * 2**0.5 * orthogonal(0.1 * second + 0.9 * average)
    torch.testing.assert_close(torch.stack([*weights]).detach(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimiser_that_was_saved_and_restored_goes_on_bit_for_bit(make_gpt, make_config, kind):
    def stepped(model, optimizer, times):
        for _ in range(times):
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            optimizer.step(1.0)

    config = make_config(optimizer=kind)
    straight, broken = make_gpt(), make_gpt()
    stepped(straight, build_optimizer(straight, config), 4)
    before = build_optimizer(broken, config)
    stepped(broken, before, 2)
    after = build_optimizer(broken, config)
    after.restore({name: tensor.clone() for name, tensor in before.tensors().items()})
    stepped(broken, after, 2)
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), broken.parameters(), strict=True))
