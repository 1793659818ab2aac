"""How well the foundation predicts text that it never saw."""

from pathlib import Path

import numpy as np
import tiktoken
from pydantic import Field
from tqdm import tqdm

from llm.applications.language_model import continuations, text_loss
from llm.config import Config
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.model.gpt import GPT
from llm.training.loss import bits_per_byte
from tasks.evaluation import Evaluation


class Evaluate(Config):
    """How the foundation is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Sequences a forward pass."""
    sample_prompts: tuple[str, ...] = ()
    """Continued for people to read."""
    sample_tokens: int = Field(default=60, gt=0)
    """Tokens a sample."""
    seed: int = Field(default=1, ge=0)
    """Seeds the sampling."""


def measure(
    model: GPT,
    encoding: tiktoken.Encoding,
    data: Path,
    base: None,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Loss in nats a token, perplexity and bits per byte on the whole test file; sample texts as evidence."""
    windows = TokenWindows(data, "test", model.config.context_length)
    rows = np.array_split(np.arange(len(windows)), max(1, len(windows) // params.batch_size))
    loss = text_loss(model, windows, tqdm(rows, desc="foundation", unit="batch"), compute)
    texts = continuations(model, encoding, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (evidence / "samples.md").write_text("\n\n".join(lines) + "\n")
    return {
        "test_loss": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_byte": bits_per_byte(loss, 1, windows.bytes_per_token),
    }


EVALUATION = Evaluation(params=Evaluate, measure=measure)
