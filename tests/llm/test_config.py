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
def test_config_rejects_a_boolean_as_a_number(name, reason, value):
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (name,)
    assert error["msg"] == f"Value error, {reason}"
    assert error["input"] is value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["number", "rate", "share"])
def test_config_rejects_infinity_and_nan(name, value):
    with pytest.raises(ValidationError) as caught:
        Every(**{name: value})
    assert caught.value.errors()[0]["loc"] == (name,)
    assert "Input should be a finite number" in [error["msg"] for error in caught.value.errors()]


def test_config_takes_numbers_and_booleans_where_they_may_stand():
    config = Every(whole="3", maybe=None, number=2, rate="0.5", share=None, flag=1, either=True, text="x")
    expected = {"whole": 3, "number": 2.0, "rate": 0.5, "flag": True, "either": True, "text": "x"}
    assert config.model_dump(exclude_none=True) == expected
    assert Every.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("config", "values", "name", "value"),
    [
        (TrainConfig, RUN, "steps", True),
        (TrainConfig, RUN, "learning_rate", math.inf),
        (GPTShape, SHAPE, "rotary_base", math.nan),
        (LoRAConfig, {"rank": 2}, "alpha", True),
        (Sampling, {}, "top_p", math.nan),
    ],
)
def test_config_rejects_numbers_that_are_none(config, values, name, value):
    with pytest.raises(ValidationError) as caught:
        config(**values | {name: value})
    (error,) = [error for error in caught.value.errors() if "Input should be a" in error["msg"]]
    assert error["loc"] == (name,)
    assert error["input"] == pytest.approx(value, nan_ok=True)


def test_muon_learning_rate_is_for_muon_alone():
    assert TrainConfig(**RUN, optimizer="muon", muon_learning_rate=0.02).muon_learning_rate == 0.02
    with pytest.raises(ValidationError, match="optimizer muon needs a muon_learning_rate"):
        TrainConfig(**RUN, optimizer="muon")
    with pytest.raises(ValidationError, match="muon_learning_rate does nothing with optimizer adamw; delete it"):
        TrainConfig(**RUN, muon_learning_rate=0.02)


def test_configs_survive_json():
    for config in (TrainConfig(**RUN), GPTShape(**SHAPE), LoRAConfig(rank=2, alpha=1), LIVELY):
        assert type(config)(**json.loads(json.dumps(config.model_dump()))) == config


def test_fields_of_published_models_are_written_only_where_they_are_set():
    plain = GPTShape(**SHAPE).model_dump()
    optional = {"head_size", "rotary_scaling", "qk_norm_weight", "qkv_bias"}
    assert plain.keys() == GPTShape.model_fields.keys() - optional
    scaling = RotaryScaling(
        factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=8192
    ).model_dump()
    values = {"head_size": 6, "rotary_scaling": scaling, "qk_norm_weight": True, "qkv_bias": True}
    shape = GPTShape(**SHAPE | values | {"qk_norm": True})
    assert {name: shape.model_dump()[name] for name in optional} == values
    assert GPTShape.model_validate_json(shape.model_dump_json()) == shape
    assert shape.head_width == 6
