"""Check the exercises of the book: `check(attention)` compares your function with the project's own.

Each exercise is a function to write. Its name finds the one that it is compared with, and the inputs of both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm import from_scratch


class Exercise(NamedTuple):
    """A function of the project, and the arguments with which it is called."""

    reference: Callable[..., Any]
    inputs: list[tuple[Any, ...]]


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


EXERCISES = {
    # 1. Tokens and vectors
    "merge": Exercise(from_scratch.merge, [([1, 2, 3, 1, 2], (1, 2), 256), ([7, 7, 7], (7, 7), 256), ([5], (5, 5), 9)]),
    # 2. Attention
    "attention": Exercise(
        from_scratch.attention, [(random((1, 2, 4, 8)), random((1, 2, 4, 8), seed=1), random((1, 2, 4, 8), seed=2))]
    ),
    # 3. The GPT
    # 4. Training
    # 5. From GPT-2 to ours
    # 6. What weights know
    # 7. Fine-tuning
}


def check(function: Callable[..., Any]) -> None:
    """Compare a function with the exercise of its name, and print that it is right.

    Raises AssertionError for the first input with another answer, and KeyError for a name that is no exercise's.
    """
    name = function.__name__
    exercise = EXERCISES[name]
    for arguments in exercise.inputs:
        expected = exercise.reference(*arguments)
        answer = function(*arguments)
        reason = f"{name}{_shown(arguments)}\nexpected {expected}\nyours    {answer}"
        assert _is_same(answer, expected), reason
    print(f"{name}: right")


def _is_same(answer: Any, expected: Any) -> bool:
    """Equal, or for numbers within rounding."""
    if isinstance(expected, Tensor):
        has_shape = isinstance(answer, Tensor) and answer.shape == expected.shape
        return has_shape and torch.allclose(answer.float(), expected.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(expected, float):
        return isinstance(answer, float | int) and abs(answer - expected) < 1e-4 * max(1, abs(expected))
    return answer == expected


def _shown(arguments: tuple[Any, ...]) -> str:
    """The arguments of a call."""
    return f"({', '.join(map(_shown_argument, arguments))})"


def _shown_argument(argument: Any) -> str:
    """An argument as Python writes it; of a tensor its shape."""
    if isinstance(argument, Tensor):
        return f"tensor{tuple(argument.shape)}"
    return repr(argument)
