import json
import re
import subprocess
import sys

import pytest
import torch
from published import TOKENS, difference, edit_weights, publish
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from llm.errors import UserError, UserFileError
from llm.formats.huggingface import load_pretrained
from llm.generation.text import generate

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
    ("qwen2", {}),
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


def edit_config(folder, changes: dict) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4

    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    for mask in (real, real.flip(1)):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = ours.logits(ours.hidden_states(TOKENS, positions, sequences_BT=mask))
        expected = theirs(TOKENS, attention_mask=mask, position_ids=positions).logits
        assert difference(logits[mask == 1], expected[mask == 1]) <= 1e-4


@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_greedy_generation_equals_that_of_transformers(published, kind, changes):
    theirs, folder = published(kind, changes)
    ours, _ = load_pretrained(folder)
    theirs.generation_config.eos_token_id = None
    prompts = [[5, 7, 11, 13], [3, 1]]
    padded, mask = torch.tensor([[5, 7, 11, 13], [0, 0, 3, 1]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    texts = theirs.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=15, pad_token_id=0)
    assert generate(ours, prompts, max_new_tokens=15) == texts[:, 4:].tolist()


def test_gpt2_124m_gives_the_logits_of_transformers(published):
    with torch.inference_mode():
        theirs, folder = published("gpt2", dict(GPT2Config().to_dict(), vocab_size=50257))
        expected = theirs(TOKENS).logits
        del theirs
        ours, _ = load_pretrained(folder)
        assert sum(weight.numel() for weight in ours.parameters()) == 124_439_808
        assert difference(ours(TOKENS), expected) <= 1e-4
    (folder / "model.safetensors").unlink()


def test_tensor_names_without_prefix_and_buffers_are_read_as_openai_published_them(published):
    theirs, folder = published("gpt2", {})
    buffers = {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.1.attn.masked_bias": torch.tensor(-1e4)}

    rename_weights(folder, "transformer.")
    edit_weights(folder, buffers)
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4


def test_sharded_weights_are_read(published):
    theirs, folder = published("llama", {}, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4


def test_shard_that_lacks_its_tensor_is_named(published):
    _, folder = published("llama", {}, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    right_shard = index["weight_map"]["model.norm.weight"]
    wrong_shard = next(shard for shard in index["weight_map"].values() if shard != right_shard)
    index["weight_map"]["model.norm.weight"] = wrong_shard
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"index\.json: tensor model\.norm\.weight is not in {wrong_shard}"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["{}/other.safetensors", "../other.safetensors", "..", "other.bin"])
def test_shard_outside_the_folder_is_refused(published, name):
    _, folder = published("llama", {}, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = name.format(folder.parent)
    original = index["weight_map"]["model.norm.weight"]
    for copy in (folder.parent / "other.safetensors", folder / "other.bin"):
        copy.write_bytes((folder / original).read_bytes())
    path.write_text(json.dumps(index).replace(original, shard))
    with pytest.raises(
        ValueError, match=rf"index\.json: shard '{re.escape(shard)}' is no bare name of a \.safetensors"
    ):
        load_pretrained(folder)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_context_length_shortens_the_context(published, kind):
    theirs, folder = published(kind, {})
    ours, _ = load_pretrained(folder, context_length=8)
    assert ours.config.context_length == 8
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4
    with pytest.raises(ValueError, match=r"config\.json: context_length 25 is not within the model's 24"):
        load_pretrained(folder, context_length=25)


def test_weights_of_16_bits_are_read_as_32(published):
    theirs, folder = published("llama", {})
    theirs.half().save_pretrained(folder)
    assert load_pretrained(folder)[0].norm.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'; GPT computes 'gelu_new' or"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", {"n_positions": "many"}, "n_positions 'many': Input should be a valid integer"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is 'linear'"),
        ("llama", {"head_dim": 7}, "rotary positions turn pairs, and a head's width of 7 is odd"),
        ("llama", {"head_dim": "x"}, "head_dim 'x': Input should be a valid integer"),
        (
            "llama",
            {"rope_parameters": None, "rope_scaling": {"rope_type": "yarn"}},
            "rope_type is 'yarn'; GPT computes",
        ),
        (
            "llama",
            {"rope_parameters": LLAMA3_SCALING | {"factor": 0}},
            "rope_scaling 0: Input should be greater than 0",
        ),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "factor is missing in {'rope_theta': 10000.0, 'rope"),
        ("llama", {"attention_bias": True}, "mlp_bias is False; GPT computes the same as attention_bias, True"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ("llama", {"num_key_value_heads": 3}, "n_head 4 is not a multiple of n_kv_head 3"),
        (
            "llama",
            {"model_type": "qwen2_moe"},
            "model_type 'qwen2_moe' is not one of gpt2, llama, qwen2, qwen3",
        ),
        ("llama", {"rope_parameters": None, "rope_scaling": "x"}, "rope_scaling is 'x', not an object of settings"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True; GPT computes False"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window is True; GPT computes False"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*'sliding_attention'"),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types is 'full_attention'"),
    ],
)
def test_config_that_gpt_does_not_compute_is_refused(published, kind, change, reason):
    _, folder = published(kind, {})
    edit_config(folder, change)
    with pytest.raises(ValueError, match=rf"config\.json: {reason}"):
        load_pretrained(folder)


DEFAULT = {"rope_type": "default", "rope_theta": 500.0}


def from_transformers(folder) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("parameters", "scaling", "theta"),
    [
        (DEFAULT, None, {"rope_theta": 300.0}),
        (None, DEFAULT, {"rope_theta": 300.0}),
        ({}, {"type": "default"}, {"rope_theta": 500.0}),
    ],
)
@torch.inference_mode()
def test_rotary_settings_are_read_as_transformers_reads_them(published, parameters, scaling, theta):
    _, folder = published("llama", {})
    edit_config(folder, {"rope_parameters": parameters, "rope_scaling": scaling} | theta)
    ours, _ = load_pretrained(folder)
    assert ours.config.rotary_base == 500.0
    assert difference(ours(TOKENS), from_transformers(folder)) <= 1e-4


def test_rotary_settings_under_two_keys_are_refused(published):
    _, folder = published("llama", {"rope_parameters": dict(DEFAULT)})
    edit_config(folder, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    with pytest.raises(UserError, match=r"config\.json: it has both rope_parameters and rope_scaling"):
        load_pretrained(folder)


def test_corrupt_config_nested_too_deep_is_named(published):
    _, folder = published("llama", {})
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config\.json: not the config of a model \(maximum recursion depth"):
        load_pretrained(folder)


def test_missing_config_is_named(published):
    _, folder = published("llama", {})
    (folder / "config.json").unlink()
    with pytest.raises(UserFileError, match=r"config\.json can't be read: No such file or directory"):
        load_pretrained(folder)


def test_missing_config_key_is_named(published):
    _, folder = published("llama", {})
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: hidden_size is missing"):
        load_pretrained(folder)


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({Q: None}, rf"tensor {Q} has shape None, the model wants \[32, 32\]"),
        ({"extra": torch.zeros(2)}, r"tensor extra has shape \[2\], the model wants None"),
        ({Q: torch.zeros(31, 32)}, rf"tensor {Q} has shape \[31, 32\], the model wants \[32, 32\]"),
        ({Q: torch.zeros(32, 32, dtype=torch.int8)}, f"tensor {Q} is I8, not one of F32, F16, BF16"),
    ],
)
def test_wrong_tensor_is_named_with_both_shapes(published, change, reason):
    _, folder = published("llama", {})
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors: {reason}$"):
        load_pretrained(folder)


def test_qwen3_norms_of_queries_and_keys_have_weights_unless_all_are_ones(published):
    _, folder = published("qwen3", {"tie_word_embeddings": True})
    norms = [f"model.layers.{layer}.self_attn.{kind}_norm.weight" for layer in range(2) for kind in "qk"]
    edit_weights(folder, {name: torch.ones(12) for name in norms})
    assert not load_pretrained(folder)[0].config.qk_norm_weight
    assert difference(load_pretrained(folder)[0](TOKENS), from_transformers(folder)) <= 1e-4
    edit_weights(folder, {norms[-1]: torch.ones(12) + 0.5 * (torch.arange(12) == 3)})
    ours, _ = load_pretrained(folder)
    assert ours.config.qk_norm_weight
    assert difference(ours(TOKENS), from_transformers(folder)) <= 1e-4
    rename_weights(folder, "model.")
    assert torch.equal(load_pretrained(folder)[0](TOKENS), ours(TOKENS))


def test_sliding_window_that_is_switched_off_is_ignored(published):
    theirs, folder = published("qwen2", {})
    edit_config(folder, {"sliding_window": 4, "use_sliding_window": False})
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4


def test_tied_output_that_is_stored_must_equal_the_embedding(published):
    theirs, folder = published("gpt2", {})
    embedding = theirs.transformer.wte.weight.detach().clone()
    edit_weights(folder, {"lm_head.weight": embedding})
    assert difference(load_pretrained(folder)[0](TOKENS), theirs(TOKENS).logits) <= 1e-4
    edit_weights(folder, {"lm_head.weight": embedding + 1})
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from transformer\.wte\.weight, to which the config"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["model", "model.gguf", "model.safetensors"])
def test_source_that_is_neither_folder_nor_gguf_file_is_named(tmp_path, name):
    if name == "model.safetensors":
        (tmp_path / name).touch()
    with pytest.raises(UserFileError, match=rf"{name} is neither a folder nor a \.gguf file"):
        load_pretrained(tmp_path / name)


def test_pickled_weights_are_refused_and_missing_ones_named(published):
    _, folder = published("gpt2", {})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: only safetensors are read"):
        load_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserFileError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_pretrained(folder)


def test_tokenizer_with_more_tokens_than_embedding_rows_is_refused(published, encoding):
    _, folder = published("llama", {"vocab_size": encoding.n_vocab - 1})
    with pytest.raises(ValueError, match=f"the tokenizer has {encoding.n_vocab} tokens, the embedding only"):
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
