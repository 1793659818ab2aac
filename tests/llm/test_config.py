import math

import pytest
from model_shapes import SHORT_SCALING
from pydantic import Field, ValidationError

from llm.config import Config, GPTShape, Rate, TrainConfig

SHAPE = {"context_length": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
RUN = {"seed": 1, "steps": 9, "batch_size": 4, "learning_rate": 0.1, "evaluate_every": 2, "checkpoint_every": 2}


class Every(Config):
    """Fields of every kind."""

    whole: int = 1
    maybe: int | None = None
    number: float = 1.0
    rate: Rate = 0.0
    share: float | None = Field(default=None, ge=0)
    flag: bool = False
    either: bool | int = 1
    text: str = ""


NUMBERS = ["number", "rate", "share"]
NO_NUMBERS = [(name, value) for name in ("whole", "maybe", *NUMBERS) for value in (True, False)]
NO_NUMBERS += [(name, value) for name in NUMBERS for value in (math.inf, -math.inf, math.nan)]


@pytest.mark.parametrize(("name", "value"), NO_NUMBERS)
def test_config_rejects_booleans_infinity_and_nan_as_numbers(name, value):
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    (error,) = [error for error in caught.value.errors() if "Input should be a" in error["msg"]]
    assert error["loc"] == (name,)


def test_config_takes_numbers_and_booleans_where_they_may_stand():
    config = Every(whole="3", maybe=None, number=2, rate="0.5", share=None, flag=1, either=True, text="x")
    expected = {"whole": 3, "number": 2.0, "rate": 0.5, "flag": True, "either": True, "text": "x"}
    assert config.model_dump(exclude_none=True) == expected
    assert Every.model_validate_json(config.model_dump_json()) == config


def test_muon_learning_rate_is_for_muon_alone():
    assert TrainConfig(**RUN, optimizer="muon", muon_learning_rate=0.02).muon_learning_rate == 0.02
    with pytest.raises(ValidationError, match="optimizer muon needs a muon_learning_rate"):
        TrainConfig(**RUN, optimizer="muon")
    with pytest.raises(ValidationError, match="muon_learning_rate does nothing with optimizer adamw; delete it"):
        TrainConfig(**RUN, muon_learning_rate=0.02)


def test_fields_of_published_models_are_written_only_where_they_are_set():
    plain = GPTShape(**SHAPE)
    optional = {"head_size": 6, "rotary_scaling": SHORT_SCALING, "qk_norm_weight": True, "qkv_bias": True}
    assert plain.model_dump().keys() == GPTShape.model_fields.keys() - optional
    shape = GPTShape(**SHAPE | optional | {"qk_norm": True})
    assert {name: shape.model_dump()[name] for name in optional} == optional
    assert GPTShape.model_validate_json(shape.model_dump_json()) == shape
    assert shape.head_width == 6
