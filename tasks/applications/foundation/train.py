"""The foundation: a GPT that predicts the next token, from scratch or from published weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tiktoken
import torch
from pydantic import Field, model_validator

from llm.config import GPTConfig, GPTShape, TrainConfig
from llm.dataset import TokenWindows
from llm.device import choose_compute
from llm.errors import UserError
from llm.formats.tokenizer_json import load_tokenizer
from llm.kernels.training.choose import choose_backend
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.language_model.loss import objective
from llm.objectives.language_model.serve import continuations
from llm.tokenizer import same_tokens
from llm.training.cost import training_flops
from tasks.training.description import Training
from tasks.training.setup import Throughput, TrainingFiles, TrainingSetup
from tasks.training.shown_row import ShownRow, check_number, shown_row

SCRATCH = "scratch"
SAMPLE_TOKENS = 40
CHANGEABLE = {"context_length", "dropout"}
"""What may differ from the shape of published weights."""


class Train(GPTShape, TrainConfig):
    """The model and its training on unlabelled text.

    Published weights bring their own shape: with them no key gives it but `context_length` and `dropout`.
    """

    n_layer: int = Field(default=12, gt=0)
    """Transformer blocks; the defaults of the shape are those of GPT-2 with 124 M parameters."""
    n_head: int = Field(default=12, gt=0)
    """Attention heads a block."""
    n_embd: int = Field(default=768, gt=0)
    """Width of the residual stream; without a `head_size`, a multiple of `n_head`."""
    init_from: str = SCRATCH
    """`scratch`, or the published weights that training goes on from: a name of tasks/data/published.py,
    `hf:OWNER/NAME@COMMIT`, a folder in Hugging Face layout, or a `.gguf` file."""
    first_context_length: int | None = Field(default=None, gt=0)
    """Tokens that see each other at first, doubled after equal parts of the steps up to `context_length`; null has all
    see each other from the start, as published weights want it."""
    steps: int = Field(ge=0)
    """Updates of the weights; 0 takes published ones as they are."""
    evaluation_batches: int = Field(gt=0)
    """Validation batches an evaluation; the same ones each time."""

    def gpt(self, vocabulary_size: int) -> GPTConfig:
        """The model's shape over a tokenizer of `vocabulary_size` tokens."""
        return GPTConfig(
            vocabulary_size=vocabulary_size, **{name: getattr(self, name) for name in GPTShape.model_fields}
        )

    @model_validator(mode="after")
    def _scratch_must_learn(self) -> Self:
        if self.init_from == SCRATCH and self.steps == 0:
            raise ValueError("steps 0 leave a model from scratch untrained; name published weights in init_from")
        return self

    @model_validator(mode="after")
    def _published_weights_bring_their_shape(self) -> Self:
        shape = sorted(self.model_fields_set & GPTShape.model_fields.keys() - CHANGEABLE)
        if self.init_from != SCRATCH and shape:
            raise ValueError(f"{', '.join(shape)}: {self.init_from} brings its own; delete the keys of its shape")
        return self


def start(params: Train, corpus: tiktoken.Encoding) -> GPT:
    """The model before its first step; raises UserError where the corpus was cut by another model's tokenizer."""
    torch.manual_seed(params.seed)
    if params.init_from == SCRATCH:
        return GPT(params.gpt(corpus.n_vocab))
    from llm.formats.huggingface import load_pretrained
    from tasks.data.published import published_weights

    path = published_weights(params.init_from)
    model, encoding = load_pretrained(path, context_length=params.context_length, dropout=params.dropout)
    if not same_tokens(encoding, corpus):
        raise UserError(
            f"the corpus was cut by another tokenizer than that of {params.init_from}: set tokenizer in the corpus's "
            f"block of params.yaml to {params.init_from}"
        )
    return model


def identity(params: Train) -> dict[str, str]:
    """The hash of published weights, which their name or path alone does not tell."""
    if params.init_from == SCRATCH:
        return {}
    from tasks.data.published import published_weights, weights_digest

    return {"init_from.sha256": weights_digest(published_weights(params.init_from))}


def prepare(params: Train, files: TrainingFiles) -> TrainingSetup[GPT]:
    """The model and the windows of the corpus that it is to predict."""
    compute = choose_compute()
    encoding = load_tokenizer(files.dataset / "tokenizer.json")
    model = start(params, encoding).to(compute.device)
    context_length = model.config.context_length
    train = TokenWindows(files.dataset, "train", context_length)
    validation = TokenWindows(files.dataset, "validation", context_length)
    tokens = params.batch_size * params.gradient_accumulation * context_length
    from_scratch = params.init_from == SCRATCH
    compute = choose_backend(compute, model.config, params.steps * tokens, from_scratch=from_scratch)
    goal = objective(
        model,
        params,
        train,
        validation=validation,
        compute=compute,
        evaluation_batches=params.evaluation_batches,
        first_context_length=params.first_context_length,
        start_counts=not from_scratch,
    )
    throughput = Throughput("tokens", tokens, training_flops(model))
    return TrainingSetup(LoadedModel(model, encoding), goal, compute=compute, throughput=throughput)


def samples(setup: TrainingSetup[GPT], data: Path, evaluate: Mapping[str, Any]) -> list[str]:
    """The prompts that the evaluation continues, continued; those that leave no room are left out."""
    loaded = setup.loaded
    context_length = loaded.model.config.context_length
    written = evaluate.get("sample_prompts")
    prompts = [str(prompt) for prompt in written] if isinstance(written, list) else []
    lengths = {prompt: len(loaded.encoding.encode_ordinary(prompt)) for prompt in prompts}
    prompts = [prompt for prompt in prompts if 0 < lengths[prompt] < context_length]
    return continuations(loaded, prompts, tokens=SAMPLE_TOKENS, seed=1)


def show(params: Train, files: TrainingFiles, *, split: str, number: int) -> ShownRow:
    """A window of the corpus; the model learns to say each token but the first."""
    encoding = load_tokenizer(files.dataset / "tokenizer.json")
    windows = TokenWindows(files.dataset, split, params.context_length)
    check_number(number, len(windows), f"{files.dataset.name}'s {split} split")
    inputs_1T, _ = windows.batch(np.array([number]))
    tokens = inputs_1T[0].tolist()
    return shown_row(f"window {number}", encoding, tokens, learned=[False, *[True] * (len(tokens) - 1)])


TRAINING = Training(
    objective="language_model", train=Train, prepare=prepare, samples=samples, show=show, identity=identity
)
