"""What a model and its training can be told: frozen, validated, a sentence under each field."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """A frozen set of values; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GPTShape(Config):
    """The shape of a decoder-only transformer, but for its vocabulary."""

    context_length: int = Field(gt=0)
    """Longest sequence, in tokens."""
    n_layer: int = Field(gt=0)
    """Transformer blocks."""
    n_head: int = Field(gt=0)
    """Attention heads a block."""
    n_embd: int = Field(gt=0)
    """Width of the residual stream; a multiple of `n_head`."""
    dropout: Rate = 0.0
    """Share of activations dropped in training."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


class GPTConfig(GPTShape):
    """The shape of a decoder-only transformer."""

    vocabulary_size: int = Field(gt=0)
    """Tokens that the embedding knows."""


class TrainConfig(Config):
    """One training run: how long, how fast, how often it is looked at."""

    seed: int = Field(ge=0)
    """Seeds initialisation, data order and dropout."""
    steps: int = Field(gt=0)
    """Updates of the weights."""
    batch_size: int = Field(gt=0)
    """Sequences a forward pass."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Forward passes an update; the effective batch is `batch_size` times this."""
    learning_rate: float = Field(gt=0)
    """Peak of the schedule, reached after the warm-up."""
    warmup: Rate = 0.05
    """Share of the steps in which the rate rises linearly from zero."""
    final_learning_rate: Share = 0.1
    """Where the cosine ends, as a share of the peak."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; vectors and embeddings are left alone."""
    beta2: Rate = 0.95
    """AdamW's second-moment decay."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    evaluate_every: int = Field(gt=0)
    """Steps between looks at the validation split."""
    checkpoint_every: int = Field(gt=0)
    """Steps between checkpoints."""
