import json
import re
import subprocess
import sys

import pytest
import torch
from published import TOKENS, difference, edit_weights, publish
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llm.errors import UserFileError
from llm.formats.huggingface import load_pretrained

GPT2_MODELS = [
    {},
    {"tie_word_embeddings": False},
    {"n_embd": 21, "n_head": 3, "n_inner": 37, "layer_norm_epsilon": 1e-3, "activation_function": "gelu_pytorch_tanh"},
]
LLAMA_MODELS = [
    {"num_key_value_heads": 2},
    {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    {"hidden_size": 30, "intermediate_size": 37, "num_attention_heads": 3, "num_key_value_heads": 1},
    {"num_key_value_heads": 4, "rms_norm_eps": 1e-2, "attention_bias": True, "mlp_bias": True},
]
MODELS = [("gpt2", changes) for changes in GPT2_MODELS] + [("llama", changes) for changes in LLAMA_MODELS]
LLAMA3_SCALING = {  # the four pairs of a head of 8 turn at full speed, at speeds in between, and slowest
    "rope_type": "llama3",
    "rope_theta": 10.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 12,
}
MODELS += [
    ("llama", {"rope_parameters": LLAMA3_SCALING}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 4}),
    ("qwen2", {"tie_word_embeddings": True, "rope_parameters": LLAMA3_SCALING}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True, "head_dim": 8}),
]


@pytest.fixture
def published(tmp_path, encoding):
    """Publish a small model; return it and its folder."""

    def make(kind, changes, name="published", **saving):
        return publish(tmp_path / name, encoding, kind=kind, changes=changes, **saving), tmp_path / name

    return make


def edit_json(path, changes: dict) -> None:
    """Change keys of a JSON object, or remove those that are None."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def rename_weights(folder, prefix: str) -> None:
    """Remove a prefix from the names of all tensors."""
    path = folder / "model.safetensors"
    weights = {name.removeprefix(prefix): weight for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("kind", "changes"), MODELS)
@torch.inference_mode()
def test_logits_equal_those_of_transformers_with_padding_on_either_side(published, kind, changes):
    theirs, folder = published(kind, changes)
    ours, _ = load_pretrained(folder)
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    for mask in (real, real.flip(1)):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = ours.logits(ours.hidden_states(TOKENS, positions, sequences_BT=mask))
        expected = theirs(TOKENS, attention_mask=mask, position_ids=positions).logits
        assert difference(logits[mask == 1], expected[mask == 1]) <= 1e-4


def test_tensor_names_without_prefix_and_buffers_are_read_as_openai_published_them(published):
    theirs, folder = published("gpt2", {})
    buffers = {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    rename_weights(folder, "transformer.")
    edit_weights(folder, buffers)
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4


def test_sharded_weights_are_read_and_a_shard_outside_the_folder_or_without_its_tensor_is_refused(published):
    theirs, folder = published("llama", {}, max_shard_size="20KB")
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    original = folder / shards["model.norm.weight"]
    for copy in (folder.parent / "other.safetensors", folder / "other.bin"):
        copy.write_bytes(original.read_bytes())
    for shard in (f"{folder.parent}/other.safetensors", "../other.safetensors", "..", "other.bin"):
        edit_json(index, {"weight_map": shards | {"model.norm.weight": shard}})
        with pytest.raises(ValueError, match=rf"index\.json: shard '{re.escape(shard)}' is no bare name"):
            load_pretrained(folder)
    another = next(shard for shard in shards.values() if shard != original.name)
    edit_json(index, {"weight_map": shards | {"model.norm.weight": another}})
    with pytest.raises(ValueError, match=rf"index\.json: tensor model\.norm\.weight is not in {another}"):
        load_pretrained(folder)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_context_length_shortens_the_context(published, kind):
    theirs, folder = published(kind, {})
    ours, _ = load_pretrained(folder, context_length=8)
    assert ours.config.context_length == 8
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4
    with pytest.raises(ValueError, match=r"config\.json: context_length 25 is not within the model's 24"):
        load_pretrained(folder, context_length=25)


DEFAULT = {"rope_type": "default", "rope_theta": 500.0}
WITHOUT_PARAMETERS = {"rope_parameters": None}


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"n_positions": "many"}, "n_positions 'many'"),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"rope_scaling": DEFAULT}, "it has both rope_parameters and rope_scaling"),
        ("llama", WITHOUT_PARAMETERS | {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ("llama", WITHOUT_PARAMETERS | {"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ("llama", WITHOUT_PARAMETERS | {"rope_scaling": "x"}, "rope_scaling is 'x'"),
        ("llama", {"rope_parameters": LLAMA3_SCALING | {"factor": 0}}, "rope_scaling 0"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "factor is missing"),
        ("llama", {"head_dim": 7}, ".* width of 7 is odd"),
        ("llama", {"attention_bias": True}, "mlp_bias is False"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ("llama", {"num_key_value_heads": 3}, "n_head 4 is not a multiple of n_kv_head 3"),
        ("llama", {"model_type": "qwen2_moe"}, "model_type 'qwen2_moe'"),
        ("llama", {"model_type": ["llama"]}, "model_type"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*'sliding_attention'"),
    ],
)
def test_config_that_gpt_does_not_compute_is_refused(published, kind, change, reason):
    _, folder = published(kind, {})
    edit_json(folder / "config.json", change)
    with pytest.raises(ValueError, match=rf"config\.json: {reason}"):
        load_pretrained(folder)


@torch.inference_mode()
def from_transformers(folder) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": DEFAULT, "rope_theta": 300.0},
        {"rope_parameters": None, "rope_scaling": DEFAULT, "rope_theta": 300.0},
        {"rope_parameters": None, "rope_scaling": {"type": "default"}, "rope_theta": 500.0},
    ],
)
def test_rotary_settings_are_read_as_transformers_reads_them(published, change):
    _, folder = published("llama", {})
    edit_json(folder / "config.json", change)
    ours, _ = load_pretrained(folder)
    assert ours.config.rotary_base == 500.0
    assert difference(ours(TOKENS), from_transformers(folder)) <= 1e-4


def test_qwen3_norms_of_queries_and_keys_have_weights_unless_all_are_ones(published):
    _, folder = published("qwen3", {"tie_word_embeddings": True})
    norms = [f"model.layers.{layer}.self_attn.{kind}_norm.weight" for layer in range(2) for kind in "qk"]
    edit_weights(folder, {name: torch.ones(12) for name in norms})
    for weighted in (False, True):
        ours, _ = load_pretrained(folder)
        assert ours.config.qk_norm_weight == weighted
        assert difference(ours(TOKENS), from_transformers(folder)) <= 1e-4
        edit_weights(folder, {norms[-1]: torch.ones(12) + 0.5 * (torch.arange(12) == 3)})
    rename_weights(folder, "model.")
    assert torch.equal(load_pretrained(folder)[0](TOKENS), ours(TOKENS))


def test_tied_output_that_is_stored_must_equal_the_embedding(published):
    theirs, folder = published("gpt2", {})
    embedding = theirs.transformer.wte.weight.detach().clone()
    edit_weights(folder, {"lm_head.weight": embedding})
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4
    edit_weights(folder, {"lm_head.weight": embedding + 1})
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        load_pretrained(folder)


def test_missing_corrupt_and_pickled_files_are_named(published, encoding):
    _, folder = published("llama", {"vocab_size": encoding.n_vocab - 1})
    for name in ("model", "model.gguf", "published/model.safetensors"):
        with pytest.raises(UserFileError, match=rf"{name} is neither a folder nor a \.gguf file"):
            load_pretrained(folder.parent / name)
    with pytest.raises(ValueError, match=f"the tokenizer has {encoding.n_vocab} tokens, the embedding only"):
        load_pretrained(folder)
    weights = folder / "model.safetensors"
    pickled = weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: only safetensors are read"):
        load_pretrained(folder)
    pickled.unlink()
    with pytest.raises(UserFileError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_pretrained(folder)
    config = folder / "config.json"
    config.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json: not the config of a model"):
        load_pretrained(folder)
    config.unlink()
    with pytest.raises(UserFileError, match=r"config\.json can't be read"):
        load_pretrained(folder)


MEASURE = """
import sys, torch
from pathlib import Path
from llm.formats.huggingface import load_pretrained

def status(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)

load_pretrained(Path(sys.argv[1]))
before = status("VmRSS")
model, _ = load_pretrained(Path(sys.argv[2]))
weights = sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 1024
print((status("VmHWM") - before) / weights)
"""


def test_load_pretrained_takes_little_more_memory_than_the_weights(published):
    _, small = published("gpt2", {}, "small")
    _, folder = published("gpt2", {"n_embd": 768, "n_layer": 4, "n_head": 12})
    done = subprocess.run([sys.executable, "-c", MEASURE, small, folder], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) <= 1.2
