"""The classifier's model: a GPT and n-grams, two views of a text, and one linear head over both."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm.errors import UserError
from llm.generation.reading import reading_of
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier.config import ClassifierConfig
from llm.objectives.classifier.inputs import Inputs
from llm.objectives.classifier.ngrams import NgramModel


class Classifier(nn.Module):
    """A GPT body with a classification head, which n-grams of the text share."""

    def __init__(self, gpt: GPT, config: ClassifierConfig) -> None:
        super().__init__()
        context = gpt.config.context_length
        if config.max_tokens > context:
            raise UserError(f"max_tokens {config.max_tokens} is more than the model's context of {context}")
        self.gpt = gpt  # where it is measured or served, a PackedGPT; while it learns, the blocks that do
        if gpt.output is not None:
            gpt.output.requires_grad_(False)  # the head takes its place
        self.config = config
        self.frozen: GPT | None = None
        """In a training that leaves blocks as they are, these blocks; `gpt` then has the others alone."""
        self.head = nn.Linear(gpt.config.n_embd, len(config.labels))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.ngrams = NgramModel(config.ngram_buckets, len(config.labels)) if config.ngram_buckets else None

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return self.gpt.describe() | {"classifier": self.config.model_dump()}

    def windows(self, texts: Sequence[str]) -> list[str]:
        """What of each text is read closely: the window that looks most like the second of two labels."""
        if self.ngrams is None or len(self.config.labels) > 2:
            return list(texts)
        return [self.ngrams.window_of(text) for text in texts]

    def mean_states(self, inputs: Tensor, lengths_B: Tensor) -> Tensor:
        """The mean of the GPT's hidden states, BC, of texts that are padded on the right; the padding counts nowhere.

        `inputs` are tokens, BT, or the stream behind the frozen blocks, BTC. The state of the last token has seen the
        whole text, but pre-training made it a prediction of the next token.
        """
        x_BTC = self.gpt.hidden_states(inputs)
        real_BT1 = (torch.arange(inputs.shape[1], device=lengths_B.device) < lengths_B[:, None]).unsqueeze(-1)
        return (x_BTC * real_BT1).sum(dim=1) / lengths_B[:, None]

    def forward(self, inputs: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, B x K, by the GPT alone; the inputs are those of `mean_states`."""
        return self.head(self.mean_states(inputs, lengths_B))

    @torch.no_grad()
    def states_of(self, inputs: Inputs, texts: range, batch_size: int = 8) -> Tensor:
        """The `mean_states` of these texts, float32 N x C on the CPU, computed as the GPT reads fastest.

        A text is padded by its own length, so its states do not depend on the other texts, but for torch's last bits.
        """
        device = self.head.weight.device
        reading = reading_of(self.gpt)
        states_NC = torch.zeros(len(texts), self.head.in_features)
        by_padding: dict[int, list[int]] = defaultdict(list)
        for text in texts:
            length = math.ceil(inputs.lengths[text] / reading.padding) * reading.padding
            by_padding[min(length, self.config.max_tokens)].append(text)
        with reading.autocast():
            for length, rows in by_padding.items():
                for batch in torch.tensor(rows).split(batch_size):
                    tensors, lengths_B = inputs.batch(batch.numpy(), length)
                    means_BC = self.mean_states(tensors.to(device), lengths_B.to(device))
                    states_NC[batch - texts.start] = means_BC.float().cpu()
        return states_NC

    @torch.no_grad()
    def logits(self, texts: Sequence[str], windows: Sequence[str], states_NC: Tensor) -> Tensor:
        """Logits, float32 N x K on the CPU, of texts, their `windows`, and the GPT's `states` of those."""
        weight_KC = self.head.weight.cpu().float()
        logits_NK = nn.functional.linear(states_NC, weight_KC, self.head.bias.cpu().float())
        return logits_NK if self.ngrams is None else logits_NK + self.ngrams(texts, windows)


def build(gpt: GPT, config: Mapping[str, Any]) -> Classifier:
    """The classifier around a GPT that config.json describes."""
    return Classifier(gpt, ClassifierConfig.model_validate(config["classifier"]))


def encode_windows(loaded: LoadedModel[Classifier], windows: Sequence[str]) -> list[list[int]]:
    """The tokens of each window that the GPT reads."""
    model, encoding = loaded
    # tiktoken's own threads take longer to start than a mail does
    return [encoding.encode_ordinary(window)[: model.config.max_tokens] for window in windows]


def probabilities(loaded: LoadedModel[Classifier], texts: Sequence[str], batch_size: int = 8) -> np.ndarray:
    """The probability of each label of each text, float64 N x K; none of the texts is empty."""
    model = loaded.model
    windows = model.windows(texts)
    inputs = Inputs(encode_windows(loaded, windows))
    states_NC = model.states_of(inputs, range(len(texts)), batch_size)
    logits_NK = model.logits(texts, windows, states_NC)
    return logits_NK.double().softmax(dim=-1).numpy()
