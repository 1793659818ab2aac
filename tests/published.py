"""Small models with random weights, and tokenizers, as others publish them: the oracle of what we load and export."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from llm.formats.tokenizer_files import LLAMA3_SPLIT
from llm.formats.tokenizer_json import PublishedEncoding, save_tokenizer

TEXT = list(topics.values())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<tool_call>", "</tool_call>"]  # not special: found in text
SPLITS = {
    "gpt-2": pre.ByteLevel(add_prefix_space=False),
    "smollm": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
}
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
RANKS = {token: index for index, token in enumerate("abThectĠ!", 1)} | {"ab": 10, "!!": 11}
"""A vocabulary that lacks most bytes."""
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def split_by(pattern: str) -> pre.PreTokenizer:
    return pre.Sequence([pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS |= {"llama-bpe": split_by(LLAMA3_SPLIT), "qwen2": split_by(PRETOKENIZE_REGEX)}
TOKENS = torch.tensor([[5, 7, 11, 13, 17, 19, 23], [3, 1, 4, 1, 5, 9, 2]])
GPT2_SHAPE = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA_SHAPE = {
    "max_position_embeddings": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FAMILIES = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2_SHAPE),
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA_SHAPE),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, LLAMA_SHAPE | {"num_key_value_heads": 2}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, LLAMA_SHAPE | {"num_key_value_heads": 2, "head_dim": 12}),
}


def publish(folder: Path, encoding, kind: str, changes: dict, **saving) -> PreTrainedModel:
    """Make a model, the same for the same arguments, and write it into a folder as `save_pretrained` does."""
    make_config, make_model, shape = FAMILIES[kind]
    base = {"vocab_size": encoding.n_vocab + 3, "bos_token_id": encoding.eot_token, "eos_token_id": encoding.eot_token}
    torch.manual_seed(0)
    model = make_model(make_config(**(base | shape | changes))).eval()
    for weight in model.parameters():  # norms and biases too, so that errors show
        torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.2)
    model.save_pretrained(folder, **saving)
    save_tokenizer(encoding, folder / "tokenizer.json")
    return model


def make_tokenizer(split: str, complete: bool) -> Tokenizer:
    """A tokenizer of 1,000 tokens: special ones first, as SmolLM2's, or last, as GPT-2's, Llama 3's and Qwen2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = SPLITS[split], decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=1000,
            initial_alphabet=sorted(pre.ByteLevel.alphabet()) if complete else [],
            special_tokens=[] if complete else SPECIAL,
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return tokenizer


def partial_layout(ranks: dict[str, int], special: dict[str, int], added=(), **parts) -> str:
    """A tokenizer.json of a small vocabulary, whose words are those of letters and those of other characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_by(r" ?\w+| ?\W+")
    layout = json.loads(tokenizer.to_str())
    tokens = [{"id": index, "content": token, "special": True, **FLAGS} for token, index in special.items()]
    tokens += [{"id": ranks[token], "content": token, "special": False, **FLAGS} for token in added]
    merges = [(token[:1], token[1:]) for token in ranks if len(token) == 2]
    model = layout["model"] | {"vocab": ranks | special, "merges": merges}
    return json.dumps(layout | {"added_tokens": tokens, "model": model} | parts)


def make_partial_encoding() -> PublishedEncoding:
    """A published vocabulary of nine bytes, two merges and a special token in front."""
    return PublishedEncoding(partial_layout(RANKS, {"<|im_end|>": 0}))


def strange_texts(count: int) -> list[str]:
    """Texts of letters, digits, marks and all kinds of spaces, the same for the same count."""
    pool = "ab  c\n\t\r'sTLl12345678 é漢字🙂\u0085\u00a0\u2028\u3000.,!?--"
    draw = random.Random(0)
    return ["".join(draw.choices(pool, k=draw.randint(0, 60))) for _ in range(count)]


def edit_weights(folder: Path, changes: Mapping[str, torch.Tensor | None]) -> None:
    """Replace tensors of a model on disk, or remove those that are None."""
    weights = load_file(folder / "model.safetensors") | changes
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest one."""
    return (ours - theirs).abs().max().item()
