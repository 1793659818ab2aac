import pytest
import torch

from llm.config import LoRAConfig
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.training import optim
from llm.training.optim import (
    BETA1_BESIDE_MUON,
    Muon,
    Optimizers,
    balance_rows,
    build_optimizer,
    orthogonal,
    schedule,
)


def make_classifier(gpt: GPT) -> Classifier:
    return Classifier(gpt, ClassifierConfig(labels=("ham", "spam"), max_tokens=32))


def test_rate_rises_to_its_peak_and_falls_to_zero_in_a_line(make_config):
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


def test_first_update_is_adamw_by_hand(make_config):
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
    stacked, others, *adamw = groups(optimizer)
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = ("attention.query_key_value", "attention.projection", "mlp.expand", "mlp.projection")
    expected = {f"gpt.blocks.{block}.{layer}.weight" for block in range(2) for layer in layers}
    by_muon = {names[id(weight)]: group["rows"] for group in (stacked, others) for weight in group["params"]}
    assert by_muon.keys() == expected
    width = model.gpt.config.n_embd
    apart = {name for name, rows in by_muon.items() if rows == (width, width, width)}
    assert apart == {name for name in expected if "query_key_value" in name}
    assert others["rows"] is None
    assert {names[id(weight)] for group in adamw for weight in group["params"]} == set(names.values()) - expected
    assert [group["peak"] for group in (stacked, others, *adamw)] == [0.03, 0.03, 0.02, 0.02]
    assert [group["betas"][0] for group in adamw] == 2 * [BETA1_BESIDE_MUON]


def test_muon_alone_trains_lora(make_gpt, make_config):
    gpt = make_gpt()
    add_lora(gpt, LoRAConfig(rank=2, alpha=2))
    (group,) = groups(build_optimizer(gpt, make_config(optimizer="muon", muon_learning_rate=0.02)))
    assert {id(weight) for weight in group["params"]} == {id(w) for w in gpt.parameters() if w.requires_grad}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (24, 8), (5, 40)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(size, fast, monkeypatch):
    monkeypatch.setattr(optim, "has_fast_bfloat16", lambda device: fast)
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(0))
    (update,) = orthogonal(matrix[None])
    is_bfloat16 = torch.equal(update, update.bfloat16().float())
    assert is_bfloat16 == fast  # a product in bfloat16 may be a thousand times slower
    left, _, right = torch.linalg.svd(matrix / matrix.norm(dim=1, keepdim=True), full_matrices=False)
    values = torch.linalg.svdvals(update)
    assert 0.8 < values.min() < values.max() < 1.2
    across = left.T @ update @ right.T
    assert (across - torch.diag(across.diagonal())).abs().max() < 0.05
    assert not orthogonal(torch.zeros(1, *size)).any()


def test_rows_are_balanced_by_their_average_square_and_the_whole_has_one_norm():
    updates = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]])
    squares = torch.zeros(1, 3, 1)
    (balanced,) = balance_rows(updates, squares, beta2=0.9)
    assert squares.flatten().tolist() == pytest.approx([0.1 * 12.5, 0.1 * 0.125, 0.0])
    direction = torch.tensor([0.6, 0.8]) * (3 / 2) ** 0.5  # the norm is the root of 3 rows, of which two are not zero
    torch.testing.assert_close(balanced, torch.stack([direction, direction, torch.zeros(2)]))
    (balanced,) = balance_rows(updates[:, [1, 0, 2]], squares, beta2=0.9)  # a row that was small before is now large
    assert squares[0, 1].item() == pytest.approx(0.9 * 0.0125 + 0.1 * 12.5)
    assert balanced[0].norm() < balanced[1].norm()
    assert balanced.norm().item() == pytest.approx(3**0.5)


def test_muon_updates_by_the_balanced_orthogonal_momentum_and_decays_where_that_goes_the_same_way():
    weights = [torch.nn.Parameter(torch.ones(6, 3)) for _ in range(2)]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.5)
    first, second = torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    expected, squares = torch.ones(2, 6, 3), torch.zeros(2, 6, 1)
    for gradients, ahead in ((first, 0.19 * first), (second, 0.1 * second + 0.9 * (0.09 * first + 0.1 * second))):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        updates = balance_rows(orthogonal(ahead), squares, 0.9)
        expected -= 0.1 * (updates + 0.5 * expected * (expected * updates >= 0))
        torch.testing.assert_close(torch.stack([*weights]).detach(), expected, atol=0.02, rtol=0)


def test_muon_takes_matrices_that_stand_in_one_weight_apart():
    draw = torch.Generator().manual_seed(0)
    stacked, gradient = torch.nn.Parameter(torch.zeros(8, 4)), torch.randn(8, 4, generator=draw)
    parts = [torch.nn.Parameter(torch.zeros(rows, 4)) for rows in (4, 2, 2)]
    stacked.grad = gradient.clone()
    for part, its_gradient in zip(parts, gradient.split((4, 2, 2)), strict=True):
        part.grad = its_gradient.clone()
    Muon([{"params": [stacked], "rows": (4, 2, 2)}], lr=0.1, weight_decay=0.0).step()
    Muon(parts, lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(stacked.detach(), torch.cat(parts).detach(), atol=1e-3, rtol=0)
    whole = torch.nn.Parameter(torch.zeros(8, 4))
    whole.grad = gradient.clone()
    Muon([whole], lr=0.1, weight_decay=0.0).step()
    assert (whole - stacked).norm() > 0.1 * stacked.norm()


@pytest.mark.parametrize(("kind", "muon_learning_rate"), [("adamw", None), ("muon", 0.02)])
def test_restored_optimiser_goes_on_bit_for_bit(make_gpt, make_config, kind, muon_learning_rate):
    def stepped(model, optimizer, times):
        for _ in range(times):
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            optimizer.step(1.0)

    config = make_config(optimizer=kind, muon_learning_rate=muon_learning_rate)
    straight, broken = make_gpt(), make_gpt()
    stepped(straight, build_optimizer(straight, config), 4)
    before = build_optimizer(broken, config)
    stepped(broken, before, 2)
    after = build_optimizer(broken, config)
    after.restore({name: tensor.clone() for name, tensor in before.tensors().items()})
    stepped(broken, after, 2)
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), broken.parameters(), strict=True))
