import pytest
import torch

from llm.config import LoRAConfig
from llm.model.lora import LoRALinear, add_lora, merge_lora
from llm.objectives.classifier import Classifier, ClassifierConfig

TOKENS = torch.tensor([[1, 2, 3, 4, 5]])


def disturb(model: torch.nn.Module) -> None:
    """Give every update something to say, as training would."""
    torch.manual_seed(7)
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            torch.nn.init.normal_(layer.up.weight, std=0.1)


def test_lora_starts_as_its_foundation_and_merging_keeps_what_it_learned(make_gpt):
    gpt = make_gpt()
    before, names = gpt(TOKENS), list(gpt.state_dict())
    add_lora(gpt, LoRAConfig(rank=2, alpha=4))
    assert torch.equal(gpt(TOKENS), before)
    disturb(gpt)
    learned = gpt(TOKENS)
    assert (learned - before).abs().max() > 0.1
    merge_lora(gpt)
    torch.testing.assert_close(gpt(TOKENS), learned, atol=1e-4, rtol=1e-4)
    assert list(gpt.state_dict()) == names
    assert all(weight.requires_grad for weight in gpt.parameters())


@pytest.mark.parametrize("kept", [1.0, 0.75])
def test_update_is_alpha_over_rank_times_a_product_of_which_a_share_is_merged(kept):
    layer = LoRALinear(torch.nn.Linear(3, 5), rank=2, alpha=6, kept=kept)
    disturb(layer)
    x = torch.randn(4, 3)
    update = 3 * layer.up.weight @ layer.down.weight
    torch.testing.assert_close(layer(x), layer.frozen(x) + x @ update.T)
    expected = layer.frozen.weight + kept * update
    torch.testing.assert_close(layer.merged().weight, expected)


@pytest.mark.parametrize(("last_blocks", "learning"), [(None, [0, 1]), (1, [1])])
def test_updates_of_the_chosen_blocks_and_a_classifiers_head_alone_learn(make_gpt, last_blocks, learning):
    model = Classifier(make_gpt(), ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    add_lora(model, LoRAConfig(rank=2, alpha=2, targets=("expand",)), last_blocks)
    disturb(model)
    model(TOKENS, torch.tensor([5]))[0, 0].backward()
    updates = {f"gpt.blocks.{n}.mlp.expand.{part}.weight" for n in learning for part in ("down", "up")}
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert moved == updates | {"head.weight", "head.bias"}


def test_missing_targets_and_blocks_are_named(make_gpt):
    with pytest.raises(ValueError, match="lora targets: the model has no gate"):
        add_lora(make_gpt(), LoRAConfig(rank=2, alpha=2, targets=("gate", "expand")))
    with pytest.raises(ValueError, match="last_blocks: 3 is more than the model's 2 blocks"):
        add_lora(make_gpt(), LoRAConfig(rank=2, alpha=2), last_blocks=3)


def test_updates_of_weights_that_are_frozen_in_bfloat16_learn_in_float32_and_are_merged(make_gpt):
    gpt = make_gpt(positions="rotary", norm="rms", mlp="swiglu", bias=False, n_embd=64)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    dtypes = {name: weight.dtype for name, weight in gpt.state_dict().items()}
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand")))
    disturb(gpt)
    with torch.autocast("cpu", torch.bfloat16):
        x_BTC = gpt.hidden_states(TOKENS)
        learned = gpt.logits(x_BTC)
    learned.sum().backward()
    assert x_BTC.dtype == torch.float32
    assert {weight.grad.dtype for weight in gpt.parameters() if weight.requires_grad} == {torch.float32}
    merge_lora(gpt)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        merged = gpt(TOKENS)
    assert {name: weight.dtype for name, weight in gpt.state_dict().items()} == dtypes
    assert (merged - learned).norm() / learned.norm() < 0.05  # an update is rounded to bfloat16 with its matrix
