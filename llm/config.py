"""What a model and its training can be told: frozen, validated, a sentence under each field."""

from operator import not_
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Rate = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """A frozen set of values; an unknown name is an error, and so is a number that is none: true, infinity, NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """To Python `true` is 1."""
        assert info.field_name is not None  # it validates fields
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise ValueError(f"Input should be a valid {'number' if float in kinds else 'integer'}")
        return value


def _kinds(annotation: Any) -> list[Any]:
    """The types of a union, or the one that it is."""
    return [kind for part in get_args(annotation) for kind in _kinds(part)] or [annotation]


class RotaryScaling(Config):
    """Slower turns of rotary positions, for a context longer than the one that a model learned first (Llama 3.1)."""

    factor: float = Field(gt=0)
    """How many times slower the slowest pairs turn."""
    low_frequency_factor: float = Field(gt=0)
    """Pairs that turn fewer times than this within `original_context_length` are slowed down by the whole `factor`."""
    high_frequency_factor: float = Field(gt=0)
    """Pairs that turn more often than this keep their speed; in between, the slowdown is interpolated."""
    original_context_length: int = Field(gt=0)
    """Context before it was extended, in tokens."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low_frequency_factor >= self.high_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            raise ValueError(f"low_frequency_factor {low} is not below high_frequency_factor {high}")
        return self


class GPTShape(Config):
    """The shape of a decoder-only transformer, but for its vocabulary. The defaults make a GPT-2.

    Fields that only some published models need are not written while they have their defaults.
    """

    context_length: int = Field(gt=0)
    """Longest sequence, in tokens."""
    n_layer: int = Field(gt=0)
    """Transformer blocks."""
    n_head: int = Field(gt=0)
    """Attention heads a block."""
    n_embd: int = Field(gt=0)
    """Width of the residual stream; without a `head_size`, a multiple of `n_head`."""
    n_kv_head: int | None = Field(default=None, gt=0)
    """Heads of keys and values, each shared by as many queries; a divisor of `n_head`, which it is without a value."""
    head_size: int | None = Field(default=None, gt=0, exclude_if=not_)
    """Width of an attention head; `n_embd / n_head` without a value."""
    n_hidden: int | None = Field(default=None, gt=0)
    """Width inside the MLP; four times `n_embd` without a value."""
    positions: Literal["learned", "rotary"] = "learned"
    """A learned vector for each position, or queries and keys that turn with it."""
    rotary_base: float = Field(default=10_000.0, gt=1)
    """How far apart the speeds of rotary positions are."""
    rotary_scaling: RotaryScaling | None = Field(default=None, exclude_if=not_)
    """How rotary positions are slowed down for a longer context; null leaves them."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm: without mean and bias."""
    norm_epsilon: float = Field(default=1e-5, gt=0)
    """Added to a variance before its root is taken."""
    qk_norm: bool = False
    """Whether queries and keys get an RMSNorm before they meet, with `norm_epsilon`."""
    qk_norm_weight: bool = Field(default=False, exclude_if=not_)
    """Whether that norm multiplies each component by a trained weight (Qwen3)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """The MLP's activation: GELU, or a gate from a second matrix."""
    bias: bool = True
    """Whether linear layers and LayerNorms add a bias."""
    qkv_bias: bool = Field(default=False, exclude_if=not_)
    """Whether queries, keys and values have a bias where `bias` is false (Qwen2)."""
    tied: bool = True
    """Whether the output layer is the token embedding."""
    dropout: Rate = 0.0
    """Share of activations dropped in training."""

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.head_size or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def hidden_width(self) -> int:
        """Width inside the MLP."""
        return self.n_hidden or 4 * self.n_embd

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.head_size is None and self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}")
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(f"rotary positions turn pairs, and a head's width of {self.head_width} is odd")
        if self.qk_norm_weight and not self.qk_norm:
            raise ValueError("qk_norm_weight is true and qk_norm false: there is no norm to have weights")
        return self


class GPTConfig(GPTShape):
    """The shape of a decoder-only transformer."""

    vocabulary_size: int = Field(gt=0)
    """Tokens that the embedding knows."""


class Replay(Config):
    """Which prompts a base answers, for a fine-tune to rehearse."""

    base: str
    """The model in `models/` that answers."""
    prompts: Path
    """JSON lines with a prompt as `instruction` and, if any, `input` and `history`."""
    system: str = ""
    """The base's system prompt, such as to be brief; the fine-tune does not see it. Empty: its template's own."""
    max_new_tokens: int = Field(gt=0)
    """A longer answer is left out, because it is unfinished."""
    text_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Words that an answer holds already grow less likely by this factor; 1 changes nothing."""


class LoRAConfig(Config):
    """Low-rank updates of frozen matrices: llm/model/lora.py."""

    rank: int = Field(gt=0)
    """Width of the two thin matrices whose product is added."""
    alpha: float = Field(gt=0)
    """The product counts `alpha / rank` times."""
    targets: tuple[Literal["query_key_value", "projection", "gate", "expand"], ...] = Field(
        default=("query_key_value", "projection"), min_length=1
    )
    """Names of the linear layers that get an update; `projection` is both attention's and the MLP's."""
    kept: float = Field(default=1.0, gt=0, le=1)
    """The share of the learned update that is added to the weights after training. Less than 1 keeps more of what the
    base knew, and less of what was learned (Wortsman et al. 2022)."""


class TrainConfig(Config):
    """One training run: how long, how fast, how often it is evaluated."""

    seed: int = Field(default=1, ge=0, lt=2**32)
    """Seeds initialisation, data order and dropout."""
    steps: int = Field(gt=0)
    """Updates of the weights."""
    batch_size: int = Field(gt=0)
    """Sequences a forward pass."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Forward passes an update; the effective batch is `batch_size` times this."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for the matrices of the blocks and AdamW, with a momentum of 0.8, for the rest."""
    learning_rate: float = Field(gt=0)
    """AdamW's peak of the schedule, reached after the warm-up."""
    muon_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's peak, about 0.02; only with `optimizer: muon`."""
    warmup: Rate = 0.05
    """Share of the steps in which the rates rise from zero; in the rest they fall back to it, both in a line."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices, by Muon only where the update shrinks a weight, too; vectors and embeddings are left
    alone."""
    beta2: Rate = 0.98
    """AdamW's second-moment decay."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    evaluate_every: int = Field(gt=0)
    """Steps between evaluations on the validation split."""
    checkpoint_every: int = Field(gt=0)
    """Steps between checkpoints."""

    @model_validator(mode="after")
    def _only_muon_has_its_own_rate(self) -> Self:
        if self.optimizer == "muon" and self.muon_learning_rate is None:
            raise ValueError("optimizer muon needs a muon_learning_rate, such as 0.02")
        if self.optimizer != "muon" and self.muon_learning_rate is not None:
            raise ValueError(f"muon_learning_rate does nothing with optimizer {self.optimizer}; delete it")
        return self


class FinetuneConfig(TrainConfig):
    """Parameters of all fine-tunes."""

    warmup: Rate = 0.1
    """Share of the steps in which the rates rise from zero; in the rest they fall back to it, both in a line."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices."""
    lora: LoRAConfig | None = None
    """Train thin matrices next to the frozen ones, and merge them at the end; without it all weights are trained."""
    dropout: Rate = 0.0
    """The share of activations that are dropped in training."""
