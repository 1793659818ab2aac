"""Generation in its simplest form: read the text, append the likeliest next token, and read it again.

engine.py gives the same tokens, and is fast: it keeps what it has read, and shares steps between texts.
"""

from collections.abc import Collection, Sequence

import torch

from llm.model.gpt import GPT


@torch.inference_mode()
def generate_greedily(
    model: GPT, prompt: Sequence[int], max_new_tokens: int, stop_tokens: Collection[int] = ()
) -> list[int]:
    """Continue a prompt of tokens until one of `stop_tokens`, which is left out, or after `max_new_tokens`."""
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        logits_BTV = model(torch.tensor([tokens], device=model.device))
        token = int(logits_BTV[0, -1].argmax())
        if token in stop_tokens:
            break
        tokens.append(token)
    return tokens[len(prompt) :]
