"""A model for inference alone, on a CPU: weights in the layout and precision in which they are read fastest.

To make a token reads every weight once, and a CPU multiplies faster than it reads: so a token takes as long as its
weights take from memory. With a C compiler and AVX2 or AVX-512 decode.c reads them, in 8 bits. Without these they are
bfloat16 where the processor multiplies that fast, else float32.
"""

import logging
from ctypes import CDLL
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.kernels.processor import has_fast_bfloat16, processor
from llm.kernels.serving.decode import BlockWeights, Decoder, Weights, unsupported
from llm.kernels.serving.decode_library import load_library
from llm.model.embedding import Embedding, rotation
from llm.model.gpt import GPT, Block
from llm.model.key_value_cache import KeyValueCache

logger = logging.getLogger(__name__)


class PackedGPT(GPT):
    """A GPT that decode.c computes; it has no parameters, and can't be trained, saved or copied.

    decode.c gives a token the same bits whatever is read beside it.

    With AMX, whose tiles multiply many tokens several times as fast, torch reads prompts, by `prompt_model`. Their
    log-probabilities then differ, within bfloat16, with the texts beside them and with what the cache already held.
    """

    def __init__(self, model: GPT, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        public = {name: value for name, value in vars(model).items() if not name.startswith("_")}
        vars(self).update(public)  # its config, and an assistant's chat
        self.decoder = decoder
        self.prompt_model: GPT | None = None
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """A CPU."""
        return torch.device("cpu")

    def hidden_states(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        *,
        sequences_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        rows_BT: Tensor | None = None,
    ) -> Tensor:
        """As `GPT.hidden_states`, float32 BTC. `rows_BT` names the row of the cache of each token, else its own text's.

        Raises ValueError for packed sequences, which training alone has.
        """
        if sequences_BT is not None:
            raise ValueError("a model that is packed for inference reads a text a row")
        if self.prompt_model is not None and tokens_BT.shape[1] > 1 and rows_BT is None:
            return self.prompt_model.hidden_states(tokens_BT, positions_BT, cache=cache)
        cache_LBKSD = None if cache is None else (cache.keys_LBKSD, cache.values_LBKSD)
        return self.decoder.hidden_states(tokens_BT, positions_BT, cache_LBKSD=cache_LBKSD, rows_BT=rows_BT)

    def logits(self, x_BTC: Tensor) -> Tensor:
        """As `GPT.logits`, float32."""
        return self.decoder.logits(x_BTC)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        raise ValueError("a model packed for inference can't be saved; keep the one that it was made from")


def pack_for_inference(model: GPT) -> GPT:
    """A model on a CPU with the weights with which it makes texts fastest; use it instead of `model`.

    By decode.c, or `model` itself in the dtype that torch multiplies fastest.
    """
    if model.device.type != "cpu" or isinstance(model, PackedGPT):
        return model
    kind = processor()
    if kind.generation == "torch":
        logger.info("torch generates: decode.c needs AVX2 or AVX-512, and the processor is of the kind %s", kind.name)
    elif (library := _library_for(model.config)) is not None:
        packed = pack(model, library)
        if kind.generation == "C, prompts by torch":
            packed.prompt_model = model.bfloat16().requires_grad_(False).eval()
        return packed
    model = model.bfloat16() if has_fast_bfloat16(model.device) else model.float()
    return model.requires_grad_(False).eval()


def pack_for_reading(model: GPT) -> GPT:
    """As `pack_for_inference`, for whole texts, of which `hidden_states` alone are wanted.

    They are many tokens at once, which are as fast as products are; llm/kernels/processor.py has the figures.
    """
    if model.device.type != "cpu" or isinstance(model, PackedGPT):
        return model
    if processor().reading == "C" and (library := _library_for(model.config)) is not None:
        return pack(model, library)
    if has_fast_bfloat16(model.device):
        for module in model.modules():
            if isinstance(module, nn.Linear):  # which autocast would convert each time
                module.bfloat16()
    return model.requires_grad_(False).eval()


def _library_for(config: GPTConfig) -> CDLL | None:
    """decode.c where it can be built and computes such a model; else None, with the reason in the log."""
    if (reason := unsupported(config)) is not None:
        logger.info("torch makes this model's texts: decode.c has no %s", reason)
        return None
    return load_library()


def pack(model: GPT, library: CDLL, *, exact: bool = False) -> PackedGPT:
    """A model as decode.c computes it. For `exact` see `Decoder`."""
    return PackedGPT(model, Decoder(model.config, _weights(model), library, exact=exact))


def _weights(model: GPT) -> Weights:
    config = model.config
    embedding = model.embedding if isinstance(model.embedding, Embedding) else None
    position = None if embedding is None else embedding.position
    angles = None
    if config.positions == "rotary":
        angles = tuple(rotation(torch.arange(config.context_length)[None], config))
    return Weights(
        embedding=None if embedding is None else embedding.token.weight,
        positions=None if position is None else position.weight,
        rotation=angles,
        blocks=[_block_weights(block) for block in model.blocks],
        norm=None if isinstance(model.norm, nn.Identity) else model.norm,
        output=None if model.output is None else model.output.weight,
    )


def _block_weights(block: nn.Module) -> BlockWeights:
    assert isinstance(block, Block)  # no backend's: those train
    attention, mlp = block.attention, block.mlp
    return BlockWeights(
        attention_norm=block.attention_norm,
        query_key_value=attention.query_key_value,
        attention_projection=attention.projection,
        mlp_norm=block.mlp_norm,
        expand=[mlp.expand] if mlp.gate is None else [mlp.gate, mlp.expand],
        mlp_projection=mlp.projection,
    )
