"""A model with its tokenizer: what a model folder holds, and what answers need."""

from typing import Generic, NamedTuple, TypeVar

import tiktoken
from torch import nn

ModelT_co = TypeVar("ModelT_co", bound=nn.Module, covariant=True)


class LoadedModel(NamedTuple, Generic[ModelT_co]):
    """A model and the tokenizer whose tokens it reads."""

    model: ModelT_co
    encoding: tiktoken.Encoding
