from itertools import pairwise

import gguf
import numpy as np
import pytest
import torch
from published import TOKENS, difference, publish
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llm.formats.huggingface import load_pretrained


def merges_of(encoding) -> list[tuple[bytes, bytes]]:
    """The pair that each merge of a trained BPE joined, in order."""
    ranks, merges = encoding._mergeable_ranks, []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pair_ranks = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = pair_ranks.index(min(pair_ranks))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(tuple(parts))
    return merges


@pytest.fixture
def write_gguf(tmp_path, encoding):
    """Write a small model as GGUF, a Llama's rotary pairs side by side. Keywords override metadata."""

    def write(kind="F32", *, family="llama", tied=True, extra=None, published=None, **changes):
        shape = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "tie_word_embeddings": tied}
        theirs = publish(tmp_path / "published", encoding, kind=family, changes=shape | (published or {}))
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, changes.get("arch", family))
        numbers = {
            "context_length": 24,
            "embedding_length": 64,
            "block_count": 2,
            "feed_forward_length": 96,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
            "rope.dimension_count": 16,
        }
        for key, value in (numbers | {key: value for key, value in changes.items() if key != "arch"}).items():
            add = writer.add_string if isinstance(value, str) else writer.add_uint32
            add(f"{family}.{key}", value)
        writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", 1e-6)
        writer.add_float32(f"{family}.rope.freq_base", 10_000.0)
        add_tokenizer(writer, encoding, rows=theirs.config.vocab_size)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], 2)
        for name, tensor in (theirs.state_dict() | (extra or {})).items():
            if tied and name == "lm_head.weight":
                continue
            count = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2] if "." in name else "")
            if count and family == "llama":
                tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
            stored = gguf.GGMLQuantizationType[kind if tensor.ndim == 2 else "F32"]
            data = gguf.quants.quantize(tensor.numpy().astype(np.float32), stored)
            writer.add_tensor(names.get_name(name, (".weight", ".bias")) or name, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def add_tokenizer(writer, encoding, rows) -> None:
    def text(token: bytes) -> str:
        return "".join(bytes_to_unicode()[byte] for byte in token)

    texts = [text(token) for token in sorted(encoding._mergeable_ranks, key=encoding._mergeable_ranks.get)]
    special = list(encoding._special_tokens)
    padding = [f"<pad{n}>" for n in range(rows - len(texts) - len(special))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts + special + padding)
    writer.add_token_types([1] * len(texts) + [3] * len(special) + [5] * len(padding))
    writer.add_token_merges([f"{text(left)} {text(right)}" for left, right in merges_of(encoding)])
    writer.add_eos_token_id(encoding.eot_token)
    writer.add_bos_token_id(encoding.eot_token)


@pytest.mark.parametrize(("kind", "tied"), [("F32", True), ("F16", False), ("Q8_0", False), ("Q4_1", True)])
@torch.inference_mode()
def test_gguf_file_gives_the_logits_of_transformers(write_gguf, encoding, kind, tied):
    path = write_gguf(kind, tied=tied)
    ours, tokenizer = load_pretrained(path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    assert (ours.output is None) == tied
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4
    assert tokenizer.encode_ordinary("the cat sat on the mat.") == encoding.encode_ordinary("the cat sat on the mat.")


@torch.inference_mode()
def test_gguf_file_of_qwen3_gives_the_logits_of_transformers(write_gguf):
    widths = {f"attention.{name}_length": 24 for name in ("key", "value")} | {"rope.dimension_count": 24}
    path = write_gguf(family="qwen3", published={"head_dim": 24}, **widths)
    ours, _ = load_pretrained(path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent / "published").eval()
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4


@torch.inference_mode()
def test_gguf_file_of_llama_3_2_has_its_slower_positions(write_gguf):
    scaling = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaling |= {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 32.0}
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=scaling))
    slowdown = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4)).inv_freq / rotary.inv_freq
    path = write_gguf(published={"rope_parameters": scaling}, extra={"rope_freqs.weight": slowdown})
    ours, _ = load_pretrained(path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent / "published").eval()
    assert ours.config.rotary_scaling.factor == pytest.approx(32)
    assert difference(ours(TOKENS), theirs(TOKENS).logits) <= 1e-4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch": "falcon"}, "general.architecture is 'falcon'; supported are 'llama', 'qwen3'"),
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'; GPT computes 'none'"),
        ({"expert_count": 8}, "expert_count is 8"),
        ({"attention.value_length": 8}, "attention.value_length is 8; GPT computes 16, a head's width"),
        ({"attention.key_length": 8}, "rope.dimension_count is 16; GPT computes 8, a head's width"),
        ({"rope.scaling.factor": 2}, "rope.scaling.factor is 2"),
        ({"attention.sliding_window": 12}, "attention.sliding_window is 12"),
        ({"block_count": 1}, r"tensor blk\.1\.attn_k\.weight has shape \[32, 64\], the model wants None"),
        ({"extra": {"model.embed_tokens.weight": torch.tensor(1.0)}}, "vocab_size None"),
        ({"extra": {"rope_freqs.weight": torch.full((8,), 2.0)}}, r"tensor rope_freqs\.weight slows positions down in"),
        ({"extra": {"rope_freqs.weight": torch.zeros(8)}}, r"tensor rope_freqs\.weight slows positions down in"),
        ({"extra": {"rope_freqs.weight": torch.ones(4)}}, r"rope_freqs\.weight is 8; GPT computes 16, a head's width"),
    ],
)
def test_gguf_file_that_gpt_does_not_compute_is_refused(write_gguf, changes, reason):
    with pytest.raises(ValueError, match=rf"model\.gguf: {reason}"):
        load_pretrained(write_gguf(**changes))
