"""What a reviewer reads of a model: one file each, which measures it on the test split beside a baseline.

An application's is a module here with an `EVALUATION`. It stands apart from how the application is trained, so that a
new metric trains nothing again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from llm.config import Config


@dataclass(frozen=True)
class Evaluation:
    """How an application is measured."""

    params: type[Config]
    """Its `evaluate` section in params.yaml."""
    measure: Callable[..., Mapping[str, float]]
    """`measure(model, encoding, data, base, params, compute, evidence)`: metrics on the test split, from the `evaluate`
    section; `base` is the folder of the model that it started from (None for the foundation), and what a reviewer reads
    goes to the folder `evidence`. A `baseline_<metric>` is of what a user would pick, `<metric>_low` and
    `<metric>_high` are the ends of its interval; `<metric>_gain`, with ends of its own, is the lead over the baseline,
    paired by row, above zero where the model is better."""


def find(name: str) -> Evaluation:
    """The evaluation in `tasks/evaluation/<name>.py`. Raises ModuleNotFoundError without that file."""
    return import_module(f"{__name__}.{name}").EVALUATION
