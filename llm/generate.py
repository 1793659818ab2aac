"""Text from a model, a token at a time, with a cache of keys and values."""

import tiktoken
import torch
from torch import Tensor

from llm.attention import KeyValueCache
from llm.dataset import pad
from llm.gpt import GPT
from llm.tokenizer import END_OF_TEXT


def sample(
    logits_BV: Tensor, *, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """Choose a token a row, int64 B.

    Temperature 0 takes the likeliest. Otherwise logits are divided by it; only the `top_k` likeliest and the fewest
    that together reach probability `top_p` (nucleus sampling, Holtzman et al. 2020) stay in the draw.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    sorted_BV, tokens_BV = (logits_BV.float() / temperature).sort(dim=-1, descending=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = -torch.inf
    probabilities_BV = sorted_BV.softmax(dim=-1)
    if top_p is not None:
        before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
        probabilities_BV[before_BV >= top_p] = 0.0
    choice_B1 = torch.multinomial(probabilities_BV, 1, generator=generator)
    return tokens_BV.gather(-1, choice_B1)[:, 0]


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: int | None = None,
) -> list[list[int]]:
    """Continue several prompts at once; a row ends before the token `stop`, or after `max_new_tokens`.

    Raises ValueError for an empty prompt, an unknown token, values out of range, or a text longer than the context.
    """
    _check(model, prompts, max_new_tokens, temperature, top_k, top_p)
    device = model.token_embedding.weight.device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    cache = KeyValueCache(model.config, len(prompts), device, model.token_embedding.weight.dtype)

    tokens_BT, lengths_B = (tensor.to(device) for tensor in pad(prompts, 0))
    x_BTC = model.features(tokens_BT, cache=cache)
    x_BC = x_BTC[torch.arange(len(prompts), device=device), lengths_B - 1]
    texts: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for count in range(max_new_tokens):
        tokens_B = sample(model.logits(x_BC), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        for row, token in enumerate(tokens_B.tolist()):
            if row in open_rows and token == stop:
                open_rows.remove(row)
            elif row in open_rows:
                texts[row].append(token)
        if not open_rows or count == max_new_tokens - 1:
            break
        x_BC = model.features(tokens_B[:, None], (lengths_B + count)[:, None], cache=cache)[:, 0]
    return texts


def _check(
    model: GPT,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    config = model.config
    if not prompts or not all(prompts):
        raise ValueError("the prompt is empty")
    if worst := [token for prompt in prompts for token in prompt if not 0 <= token < config.vocabulary_size]:
        raise ValueError(f"token {worst[0]} is not one of the model's {config.vocabulary_size}")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > config.context_length:
        raise ValueError(
            f"{longest} prompt tokens and {max_new_tokens} new ones do not fit the context of {config.context_length}"
        )
    if max_new_tokens < 1 or not temperature >= 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_k {top_k}: out of range")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p} is not above 0 and at most 1")


def generate_text(
    model: GPT,
    encoding: tiktoken.Encoding,
    prompt: str,
    *,
    max_new_tokens: int = 60,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int | None = None,
) -> str:
    """Continue a text until the model ends it. Returns the continuation alone."""
    (tokens,) = generate(
        model,
        [encoding.encode_ordinary(prompt)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=encoding.encode_single_token(END_OF_TEXT),
    )
    return encoding.decode(tokens)
