"""Weights on their way from a file into a model, a tensor at a time: the peak of memory is little more than they are.

Read in order: `weightless` makes a model that is all shape; `read_safetensors` lists what a file holds; `check_tensors`
compares the two; `materialise` gives the model its weights.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llm.errors import UserError, UserFileError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file."""

    shape: tuple[int, ...]
    """In torch's order: the last dimension is contiguous."""
    read: Callable[[], Tensor]
    """Read it, anew with every call."""
    dtype: torch.dtype = torch.float32
    """Of what `read` gives."""


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, each read when asked for.

    Raises UserError, naming the file, for a missing or a torn one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
            dtypes = {name: DTYPES.get(tensor.get_dtype(), torch.float32) for name, tensor in slices.items()}
    except SafetensorError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserFileError(f"{path}: there is no such file") from None
    return {name: StoredTensor(shape, partial(_read, path, name), dtypes[name]) for name, shape in shapes.items()}


def _read(path: Path, name: str) -> Tensor:
    # Opened anew each time: a tensor is a view of the mapped file, whose pages stay in memory until it is closed.
    with safe_open(path, framework="pt") as file:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            raise UserError(f"{path}: tensor {name} is {dtype}, not one of {', '.join(DTYPES)}")
        return file.get_tensor(name)


def check_tensors(file: Path, stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError, naming file, tensor and both shapes, unless exactly the wanted tensors are stored."""
    for name in sorted(stored.keys() | wanted.keys()):
        have = list(stored[name].shape) if name in stored else None
        want = list(wanted[name]) if name in wanted else None
        if have != want:
            raise UserError(f"{file}: tensor {name} has shape {have}, the model wants {want}")


class _Uninitialised(TorchFunctionMode):
    """Leaves out random initialisation: on the meta device it writes nothing, but imports half of torch, 0.7 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Generator[None]:
    """Modules that are made inside take no memory, time or random numbers; `materialise` gives them weights."""
    with torch.device("meta"), _Uninitialised():
        yield


def materialise(
    model: nn.Module,
    fill: Callable[[str, Tensor], object],
    dtype: Callable[[str], torch.dtype],
    device: torch.device | str = "cpu",
) -> None:
    """Give a `weightless` model its weights: `fill` gets each one's name, and an empty tensor to write to.

    `dtype` says of each name how it is to be kept.

    The largest come first, so that what reading needs for a moment stands beside as little as possible.
    """
    weights: dict[str, Tensor] = {}
    for name, empty in sorted(model.state_dict().items(), key=lambda item: -item[1].numel()):
        weights[name] = torch.empty(empty.shape, dtype=dtype(name), device=device)
        fill(name, weights[name])
    model.load_state_dict(weights, assign=True)
