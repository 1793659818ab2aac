import json
import math

import pytest
from pydantic import Field, ValidationError

from llm.config import Config, GPTShape, LoRAConfig, Rate, RotaryScaling, TrainConfig
from llm.generation.sampling import LIVELY, Sampling

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


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("whole", "Input should be a valid integer"),
        ("maybe", "Input should be a valid integer"),
        ("number", "Input should be a valid number"),
        ("rate", "Input should be a valid number"),
        ("share", "Input should be a valid number"),
    ],
)
def test_a_boolean_is_no_number(name, reason, value):
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    (error,) = caught.value.errors()
    assert (error["loc"], error["msg"], error["input"]) == ((name,), f"Value error, {reason}", value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["number", "rate", "share"])
def test_infinity_and_nan_are_no_numbers(name, value):
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    assert caught.value.errors()[0]["loc"] == (name,)
    assert "Input should be a finite number" in [error["msg"] for error in caught.value.errors()]


def test_what_is_a_number_or_may_be_a_boolean_is_taken():
    made = Every(whole="3", maybe=None, number=2, rate="0.5", share=None, flag=1, either=True, text="x")
    assert (made.whole, made.number, made.rate, made.flag, made.either) == (3, 2.0, 0.5, True, True)
    assert Every.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("config", "values", "name", "value"),
    [
        (TrainConfig, RUN, "steps", True),
        (TrainConfig, RUN, "patience", True),
        (TrainConfig, RUN, "learning_rate", math.inf),
        (TrainConfig, RUN, "warmup", False),
        (GPTShape, SHAPE, "n_layer", True),
        (GPTShape, SHAPE, "rotary_base", math.nan),
        (LoRAConfig, {"rank": 2}, "alpha", True),
        (Sampling, {}, "top_k", True),
        (Sampling, {}, "temperature", math.inf),
        (Sampling, {}, "top_p", math.nan),
    ],
)
def test_every_config_rejects_numbers_that_are_none(config, values, name, value):
    with pytest.raises(ValidationError) as caught:
        config(**values | {name: value})
    (error,) = [error for error in caught.value.errors() if "Input should be a" in error["msg"]]
    assert (error["loc"], error["input"]) == ((name,), pytest.approx(value, nan_ok=True))


def test_muon_learning_rate_is_for_muon_alone():
    assert TrainConfig(**RUN, optimizer="muon", muon_learning_rate=0.02).muon_learning_rate == 0.02
    with pytest.raises(ValidationError, match="optimizer muon needs a muon_learning_rate"):
        TrainConfig(**RUN, optimizer="muon")
    with pytest.raises(ValidationError, match="muon_learning_rate does nothing with optimizer adamw; delete it"):
        TrainConfig(**RUN, muon_learning_rate=0.02)


def test_configs_survive_json():
    for made in (TrainConfig(**RUN), GPTShape(**SHAPE), LoRAConfig(rank=2, alpha=1), LIVELY):
        assert type(made)(**json.loads(json.dumps(made.model_dump()))) == made


def test_fields_of_published_models_are_written_only_where_they_are_set():
    plain = GPTShape(**SHAPE).model_dump()
    optional = {"head_size", "rotary_scaling", "unrotated_every", "qk_norm_weight", "qkv_bias"}
    assert plain.keys() == GPTShape.model_fields.keys() - optional
    scaling = RotaryScaling(
        factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=8192
    ).model_dump()
    values = {"head_size": 6, "rotary_scaling": scaling, "unrotated_every": 2, "qk_norm_weight": True, "qkv_bias": True}
    shape = GPTShape(**SHAPE | values | {"qk_norm": True})
    assert {name: shape.model_dump()[name] for name in optional} == values
    assert GPTShape.model_validate_json(shape.model_dump_json()) == shape
    assert shape.head_width == 6
