"""Families of published models that GPT computes: a table each, for their config keys and tensor names."""

import re
from dataclasses import replace

from llm.formats.layout import KEY_NORM, QUERY_KEY_VALUE, QUERY_NORM, Layout

ROPE_FREQUENCIES = "rope_freqs.weight"  # GGUF's tensor of how many times slower each rotary pair turns

# GPTConfig's fields that most families have in common.
_NO_HEAD_NORMS = {"qk_norm": False, "qk_norm_weight": False}
_LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu"}

GPT2 = Layout(
    name="GPT-2",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
        "n_hidden": "n_inner",
        "norm_epsilon": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    fixed=_NO_HEAD_NORMS
    | {"positions": "learned", "rotary_scaling": None, "head_size": None}
    | {"norm": "layer", "mlp": "gelu", "bias": True, "qkv_bias": False},
    computed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    modules={
        "embedding.token": ("transformer.wte",),
        "embedding.position": ("transformer.wpe",),
        "blocks.{}.attention_norm": ("transformer.h.{}.ln_1",),
        QUERY_KEY_VALUE: ("transformer.h.{}.attn.c_attn",),
        "blocks.{}.attention.projection": ("transformer.h.{}.attn.c_proj",),
        "blocks.{}.mlp_norm": ("transformer.h.{}.ln_2",),
        "blocks.{}.mlp.expand": ("transformer.h.{}.mlp.c_fc",),
        "blocks.{}.mlp.projection": ("transformer.h.{}.mlp.c_proj",),
        "norm": ("transformer.ln_f",),
        "output": ("lm_head",),
    },
    prefix="transformer.",
    transposed=frozenset(
        (QUERY_KEY_VALUE, "blocks.{}.attention.projection", "blocks.{}.mlp.expand", "blocks.{}.mlp.projection")
    ),
    ignored=re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
)

LLAMA = Layout(
    name="Llama",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "n_embd": "hidden_size",
        "n_hidden": "intermediate_size",
        "head_size": "head_dim",
        "rotary_base": "rope_theta",
        "rotary_scaling": "rope_scaling",
        "norm_epsilon": "rms_norm_eps",
        "bias": "attention_bias",
        "tied": "tie_word_embeddings",
    },
    fixed=_LLAMA | _NO_HEAD_NORMS | {"qkv_bias": False},
    computed={
        "hidden_act": ("silu", "swish"),
        "rope_type": (None, "default", "llama3"),
        "partial_rotary_factor": (None, 1),
        "quantization_config": (None,),
    },
    modules={
        "embedding.token": ("model.embed_tokens",),
        "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm",),
        QUERY_KEY_VALUE: tuple(f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv"),
        "blocks.{}.attention.projection": ("model.layers.{}.self_attn.o_proj",),
        "blocks.{}.mlp_norm": ("model.layers.{}.post_attention_layernorm",),
        "blocks.{}.mlp.gate": ("model.layers.{}.mlp.gate_proj",),
        "blocks.{}.mlp.expand": ("model.layers.{}.mlp.up_proj",),
        "blocks.{}.mlp.projection": ("model.layers.{}.mlp.down_proj",),
        "norm": ("model.norm",),
        "output": ("lm_head",),
    },
    prefix="model.",
    ignored=re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
)

_WHOLE_CONTEXT = {"use_sliding_window": (False,)}
_WITHOUT_BIAS = {ours: key for ours, key in LLAMA.keys.items() if ours != "bias"}

QWEN2 = replace(
    LLAMA,
    name="Qwen2",
    keys=_WITHOUT_BIAS,
    fixed=_LLAMA | _NO_HEAD_NORMS | {"bias": False, "qkv_bias": True},
    computed=LLAMA.computed | _WHOLE_CONTEXT,
)

QWEN3 = replace(
    LLAMA,
    name="Qwen3",
    keys=_WITHOUT_BIAS,
    fixed=_LLAMA | {"bias": False, "qkv_bias": False, "qk_norm": True},
    computed=LLAMA.computed | _WHOLE_CONTEXT | {"attention_bias": (False,)},
    modules=LLAMA.modules
    | {QUERY_NORM: ("model.layers.{}.self_attn.q_norm",), KEY_NORM: ("model.layers.{}.self_attn.k_norm",)},
)

GGUF_LLAMA = Layout(
    name="GGUF's llama",
    keys={
        "vocabulary_size": "vocab_size",
        "context_length": "context_length",
        "n_layer": "block_count",
        "n_head": "attention.head_count",
        "n_kv_head": "attention.head_count_kv",
        "n_embd": "embedding_length",
        "n_hidden": "feed_forward_length",
        "head_size": "attention.key_length",
        "rotary_base": "rope.freq_base",
        "rotary_scaling": "rope_scaling",
        "norm_epsilon": "attention.layer_norm_rms_epsilon",
        "bias": "bias",
        "tied": "tied",
    },
    fixed=_LLAMA | _NO_HEAD_NORMS | {"qkv_bias": False},
    computed={
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (0, 1),
        "rope.scale_linear": (0, 1),
        "expert_count": (0,),
        "attention.causal": (True,),
        "attention.scale": (0,),
        "attention.sliding_window": (0,),
    },
    head_width=("rope.dimension_count", "attention.value_length", ROPE_FREQUENCIES),
    modules={
        "embedding.token": ("token_embd",),
        "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
        QUERY_KEY_VALUE: ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
        "blocks.{}.attention.projection": ("blk.{}.attn_output",),
        "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
        "blocks.{}.mlp.gate": ("blk.{}.ffn_gate",),
        "blocks.{}.mlp.expand": ("blk.{}.ffn_up",),
        "blocks.{}.mlp.projection": ("blk.{}.ffn_down",),
        "norm": ("output_norm",),
        "output": ("output",),
    },
    interleaved=frozenset(("blk.{}.attn_q", "blk.{}.attn_k")),
)

GGUF_QWEN3 = replace(
    GGUF_LLAMA,
    name="GGUF's qwen3",
    keys={ours: key for ours, key in GGUF_LLAMA.keys.items() if ours != "bias"},
    fixed=QWEN3.fixed,
    modules=GGUF_LLAMA.modules | {QUERY_NORM: ("blk.{}.attn_q_norm",), KEY_NORM: ("blk.{}.attn_k_norm",)},
    interleaved=frozenset(),
)
