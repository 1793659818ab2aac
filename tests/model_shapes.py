"""Shapes of small models that several tests make."""

from typing import Any

LLAMA: dict[str, Any] = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False}
LLAMA_SCALING = {
    "factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "original_context_length": 8192,
}
"""Positions of Llama 3.1."""
SHORT_SCALING = LLAMA_SCALING | {"high_frequency_factor": 2.0, "original_context_length": 12}
"""Scaling that a short text shows, with a rotary base of 10."""
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": LLAMA | {"tied": False, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 40},
}
