import pytest
import torch

from llm.config import LoRAConfig
from llm.model.lora import add_lora
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.training import optim
from llm.training.optim import BETA1_BESIDE_MUON, Muon, balance_rows, build_optimizer, orthogonal, schedule


@pytest.mark.parametrize(
    ("steps", "warmup", "rates"),
    [
        (10, 0.3, [1 / 3, 2 / 3, 1.0, 1.0, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),  # the last step is not lost
        (1, 0.0, [1.0]),
        (1, 0.9, [1.0]),
        (2, 0.0, [1.0, 1.0]),
    ],
)
def test_rate_rises_to_its_peak_and_falls_to_zero_in_a_line(make_config, steps, warmup, rates):
    config = make_config(steps=steps, warmup=warmup)
    assert [schedule(step, config) for step in range(steps)] == pytest.approx(rates)


def test_matrices_decay_but_vectors_and_embeddings_do_not_and_muon_takes_those_of_the_blocks(make_gpt, make_config):
    model = Classifier(make_gpt(), ClassifierConfig(labels=("ham", "spam"), max_tokens=32))
    model.gpt.blocks[0].mlp.requires_grad_(False)
    names = {weight: name for name, weight in model.named_parameters() if weight.requires_grad}
    layers = ("0.attention.query_key_value", "1.attention.query_key_value", "0.attention.projection")
    layers += ("1.attention.projection", "1.mlp.expand", "1.mlp.projection")
    matrices = {f"gpt.blocks.{layer}.weight" for layer in layers}

    def groups(**values: float) -> list[dict]:
        config = make_config(weight_decay=0.3, learning_rate=0.02, **values)
        found = build_optimizer(model, config).groups
        return [group | {"params": {names[weight] for weight in group["params"]}} for group in found]

    stacked, others, head, rest = groups(optimizer="muon", muon_learning_rate=0.03)
    assert stacked["params"] | others["params"] == matrices
    assert stacked["params"] == {name for name in matrices if "query_key_value" in name}
    assert (stacked["rows"], others["rows"]) == ((16, 16, 16), None)
    assert (head["params"], rest["params"]) == ({"head.weight"}, {*names.values()} - matrices - {"head.weight"})
    assert [group["peak"] for group in (stacked, others, head, rest)] == [0.03, 0.03, 0.02, 0.02]
    assert [group["weight_decay"] for group in (stacked, others, head, rest)] == [0.3, 0.3, 0.3, 0.0]
    assert head["betas"][0] == BETA1_BESIDE_MUON
    decaying, constant = groups()
    assert (decaying["params"], constant["params"]) == (matrices | {"head.weight"}, rest["params"])
    assert (decaying["weight_decay"], constant["weight_decay"]) == (0.3, 0.0)


def test_muon_alone_trains_lora(make_gpt, make_config):
    gpt = make_gpt()
    add_lora(gpt, LoRAConfig(rank=2, alpha=2))
    (group,) = build_optimizer(gpt, make_config(optimizer="muon", muon_learning_rate=0.02)).groups
    assert {*group["params"]} == {weight for weight in gpt.parameters() if weight.requires_grad}


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


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (24, 8), (5, 40)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(size, fast, monkeypatch):
    monkeypatch.setattr(optim, "has_fast_bfloat16", lambda device: fast)
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(0))
    (update,) = orthogonal(matrix[None])
    is_bfloat16 = torch.equal(update, update.bfloat16().float())
    assert is_bfloat16 == fast  # a product in bfloat16 may be a thousand times slower
    left, _, right = torch.linalg.svd(matrix / matrix.norm(dim=1, keepdim=True), full_matrices=False)
    across = left.T @ update @ right.T
    assert 0.8 < across.diagonal().min() < across.diagonal().max() < 1.2
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


def test_muon_updates_each_matrix_by_its_balanced_momentum_and_decays_where_that_goes_the_same_way():
    stacked = torch.nn.Parameter(torch.ones(12, 3))  # two matrices, one below the other
    optimizer = Muon([{"params": [stacked], "rows": (6, 6)}], lr=0.1, weight_decay=0.5)
    first, second = torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    expected, squares = torch.ones(2, 6, 3), torch.zeros(2, 6, 1)
    for gradients, ahead in ((first, 0.19 * first), (second, 0.1 * second + 0.9 * (0.09 * first + 0.1 * second))):
        stacked.grad = gradients.flatten(0, 1)
        optimizer.step()
        updates = balance_rows(orthogonal(ahead), squares, 0.9)
        expected -= 0.1 * (updates + 0.5 * expected * (expected * updates >= 0))
        torch.testing.assert_close(stacked.detach(), expected.flatten(0, 1), atol=0.02, rtol=0)
