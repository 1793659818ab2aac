import pytest
import torch

from llm.config import GPTConfig, LoRAConfig
from llm.model.gpt import GPT
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


def test_update_is_alpha_over_rank_times_the_product_of_two_thin_matrices():
    layer = LoRALinear(torch.nn.Linear(3, 5), rank=2, alpha=6)
    disturb(layer)
    x = torch.randn(4, 3)
    expected = layer.frozen(x) + 3 * x @ layer.down.weight.T @ layer.up.weight.T
    torch.testing.assert_close(layer(x), expected)
    frozen = layer.frozen.weight.clone()
    torch.testing.assert_close(layer.merged().weight, frozen + 3 * layer.up.weight @ layer.down.weight)


def test_merging_adds_the_kept_share_of_the_update():
    layer = LoRALinear(torch.nn.Linear(3, 5), rank=2, alpha=6, kept=0.75)
    disturb(layer)
    frozen = layer.frozen.weight.clone()
    update = 3 * layer.up.weight @ layer.down.weight
    torch.testing.assert_close(layer.merged().weight, frozen + 0.75 * update)


def test_under_2_percent_of_the_weights_are_trained_and_nothing_else_moves():
    with torch.device("meta"):
        gpt = GPT(GPTConfig(context_length=1024, n_layer=12, n_head=12, n_embd=768, vocabulary_size=50257))
        add_lora(gpt, LoRAConfig(rank=8, alpha=16, targets=("query_key_value", "projection", "expand")))
    trained = sum(weight.numel() for weight in gpt.parameters() if weight.requires_grad)
    assert trained == 12 * 8 * ((768 + 3 * 768) + (768 + 768) + 2 * (768 + 4 * 768))
    assert trained / sum(weight.numel() for weight in gpt.parameters()) < 0.02


@pytest.mark.parametrize(("last_blocks", "learning"), [(None, [0, 1]), (1, [1])])
def test_training_moves_the_updates_of_the_chosen_blocks_and_a_classifiers_head_alone(make_gpt, last_blocks, learning):
    model = Classifier(make_gpt(), ClassifierConfig(labels=("ham", "spam"), max_tokens=8))
    add_lora(model, LoRAConfig(rank=2, alpha=2, targets=("expand",)), last_blocks)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    for _ in range(2):
        model(TOKENS, torch.tensor([5]))[0, 0].backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    updates = {f"gpt.blocks.{n}.mlp.expand.{part}.weight" for n in learning for part in ("down", "up")}
    assert moved == updates | {"head.weight", "head.bias"}


def test_missing_targets_and_blocks_are_named(make_gpt):
    with pytest.raises(ValueError, match="lora targets: the model has no gate"):
        add_lora(make_gpt(), LoRAConfig(rank=2, alpha=2, targets=("gate", "expand")))
    with pytest.raises(ValueError, match="last_blocks: 3 is more than the model's 2 blocks"):
        add_lora(make_gpt(), LoRAConfig(rank=2, alpha=2), last_blocks=3)


def test_updates_of_weights_that_are_frozen_in_bfloat16_learn_and_are_merged(make_gpt):
    gpt = make_gpt(positions="rotary", norm="rms", mlp="swiglu", bias=False, n_embd=64)
    for weight in gpt.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.bfloat16()
    dtypes = {name: weight.dtype for name, weight in gpt.state_dict().items()}
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand")))
    frozen = {name: weight.clone() for name, weight in gpt.named_parameters() if not weight.requires_grad}
    trained = [weight for weight in gpt.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            x_BTC = gpt.hidden_states(TOKENS[:, :-1])
            logits = gpt.logits(x_BTC)
        assert x_BTC.dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(logits[0].float(), TOKENS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 1 < losses[0]
    weights = dict(gpt.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in frozen.items())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        learned = gpt(TOKENS)
        merge_lora(gpt)
        merged = gpt(TOKENS)
    assert {name: weight.dtype for name, weight in gpt.state_dict().items()} == dtypes
    assert (merged - learned).norm() / learned.norm() < 0.05  # an update is rounded to bfloat16 with its matrix
    assert torch.equal(merged[0, :-1].argmax(-1), TOKENS[0, 1:])
