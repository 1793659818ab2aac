"""Check the exercises of the book: `check(attention)` compares your function with the project's own.

Each exercise is a function to write. Its name finds the one that it is compared with, and the inputs of both;
`solution("attention")` prints that one.
"""

import inspect
import math
import reprlib
import textwrap
from collections.abc import Callable
from copy import deepcopy
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llm import from_scratch
from llm.config import GPTConfig, RotaryScaling, TrainConfig
from llm.formats import layout
from llm.generation import greedy
from llm.model import embedding, gpt
from llm.objectives.assistant import rows
from llm.objectives.assistant.examples import Example
from llm.objectives.classifier import calibration
from llm.training import cost, optim


class Exercise(NamedTuple):
    """A function of the project, and the arguments with which it is called."""

    reference: Callable[..., Any]
    inputs: list[tuple[Any, ...]]


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(table_VC: Tensor, token: int, count: int) -> Tensor:
    """The rows with the largest cosine to the row of a token, but for that row."""
    cosines_V = torch.cosine_similarity(table_VC, table_VC[token])
    return cosines_V.topk(count + 1).indices[1:]


def windows(tokens_N: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of windows that do not overlap, BT each."""
    inputs_BT = tokens_N[:-1].unfold(0, size=length, step=length)
    targets_BT = tokens_N[1:].unfold(0, size=length, step=length)
    return inputs_BT, targets_BT


def split_heads(x_BTC: Tensor, n_head: int) -> Tensor:
    """BTC to BHTD."""
    x_BTHD = x_BTC.unflatten(-1, (n_head, -1))
    return x_BTHD.transpose(1, 2)


def sliding(length: int, window: int) -> Tensor:
    """The mask of attention to the last `window` tokens, boolean TS."""
    past_TS = torch.ones(length, length, dtype=torch.bool).tril()
    return past_TS.triu(1 - window)


def layer_norm(x_BTC: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    """Vectors with mean 0 and variance 1, times weight, plus bias."""
    centred_BTC = x_BTC - x_BTC.mean(dim=-1, keepdim=True)
    variance_BT1 = centred_BTC.square().mean(dim=-1, keepdim=True)
    return centred_BTC / (variance_BT1 + 1e-5).sqrt() * weight_C + bias_C


def encoder_layer(layer: nn.TransformerEncoderLayer, x_BTC: Tensor) -> Tensor:
    """What torch's layer of the encoder of 2017 computes."""
    joint_BTN = nn.functional.linear(x_BTC, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias)
    q_BHTD, k_BHTD, v_BHTD = (split_heads(part_BTC, n_head=2) for part_BTC in joint_BTN.chunk(3, dim=-1))
    scores_BHTS = q_BHTD @ k_BHTD.mT / math.sqrt(q_BHTD.shape[-1])
    y_BHTD = scores_BHTS.softmax(dim=-1) @ v_BHTD
    x_BTC = layer.norm1(x_BTC + layer.self_attn.out_proj(y_BHTD.transpose(1, 2).flatten(2)))
    return layer.norm2(x_BTC + layer.linear2(layer.linear1(x_BTC).relu()))


def count_weights(config: from_scratch.Config) -> int:
    """The weights of from_scratch.GPT."""
    width = config.n_embd
    matrices = 12 * width**2  # of a block: attention's 4, the MLP's 8
    vectors = 13 * width  # of a block: biases 9, two norms 4
    tables = (config.context_length + 2 * config.vocabulary_size) * width  # positions, tokens, output
    return config.n_layer * (matrices + vectors) + tables + 2 * width  # and the last norm


def keep_likeliest(logits_V: Tensor, top_k: int) -> Tensor:
    """Logits in which all but the largest are minus infinity."""
    least = logits_V.topk(top_k).values[-1]
    return logits_V.masked_fill(logits_V < least, -math.inf)


def repeat_heads(k_BKTD: Tensor, count: int) -> Tensor:
    """Each head `count` times, the copies next to each other."""
    return k_BKTD.repeat_interleave(count, dim=1)


def mean_states(x_BTC: Tensor, lengths_B: Tensor) -> Tensor:
    """The mean of the real states of each text."""
    is_real_BT1 = (torch.arange(x_BTC.shape[1]) < lengths_B[:, None])[..., None]
    return (x_BTC * is_real_BT1).sum(dim=1) / lengths_B[:, None]


def roc_auc(probability: np.ndarray, is_spam: np.ndarray) -> float:
    """The share of pairs in which the spam has the higher probability."""
    gap = probability[is_spam][:, None] - probability[~is_spam]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def rouge_l(expected: list[str], answer: list[str]) -> float:
    """The F-measure of the longest common subsequence, whose lengths fill a table row by row."""
    before = [0] * (len(answer) + 1)
    for word in expected:
        row = [0]
        for place, other in enumerate(answer):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return 2 * before[-1] / (len(expected) + len(answer))


def merged(weight_OI: Tensor, up_OR: Tensor, down_RI: Tensor) -> Tensor:
    """A matrix with half of its update in it."""
    return weight_OI + 0.5 * up_OR @ down_RI


GATED = GPTConfig(vocabulary_size=50, context_length=8, n_layer=2, n_head=2, n_embd=16, mlp="swiglu")
SCHEDULED = TrainConfig(steps=40, warmup=0.1, batch_size=1, learning_rate=1.0, evaluate_every=1, checkpoint_every=1)
LLAMA_3_1 = RotaryScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_length=8192)

EXERCISES = {
    # 1. Tokens and vectors
    "merge": Exercise(from_scratch.merge, [([1, 2, 3, 1, 2], (1, 2), 256), ([7, 7, 7], (7, 7), 256), ([5], (5, 5), 9)]),
    "train_bpe": Exercise(
        from_scratch.train_bpe, [("the then the hen the other the", 259), ("banana bandana banana ban", 258)]
    ),
    "nearest": Exercise(nearest, [(random((9, 4)), 3, 2), (random((9, 4)) * torch.arange(1, 10)[:, None], 0, 4)]),
    "windows": Exercise(windows, [(torch.arange(10) % 7, 3), (torch.arange(9), 4), (torch.arange(8), 4)]),
    # 2. Attention
    "attention": Exercise(
        from_scratch.attention, [(random((1, 2, 4, 8)), random((1, 2, 4, 8), seed=1), random((1, 2, 4, 8), seed=2))]
    ),
    "split_heads": Exercise(split_heads, [(random((2, 5, 12)), 3), (random((1, 4, 8)), 1)]),
    "sliding": Exercise(sliding, [(6, 3), (4, 1), (3, 9)]),
    # 3. The GPT
    "layer_norm": Exercise(
        layer_norm,
        [(scale * random((2, 3, 16)) + scale, random((16,)), random((16,), seed=1)) for scale in (3.0, 0.001)],
    ),
    "swiglu": Exercise(gpt.MLP.forward, [(gpt.MLP(GATED), random((2, 3, 16)))]),
    "count_weights": Exercise(
        count_weights,
        [(from_scratch.Config(2048),), (from_scratch.Config(300, context_length=16, n_layer=2, n_embd=32),)],
    ),
    # 4. Training
    "cross_entropy": Exercise(
        from_scratch.cross_entropy,
        [(scale * random((2, 3, 5)), torch.tensor([[0, 4, 2], [1, 1, 3]])) for scale in (1, 1000)],
    ),
    "keep_likeliest": Exercise(keep_likeliest, [(random((9,)), 3), (random((9,)), 1)]),
    "schedule": Exercise(optim.schedule, [(step, SCHEDULED) for step in (0, 2, 3, 4, 20, 39)]),
    "training_flops": Exercise(
        cost.training_flops, [(gpt.GPT(GATED),), (gpt.GPT(GATED.model_copy(update={"tied": False})),)]
    ),
    # 5. From GPT-2 to ours
    "rotate": Exercise(
        embedding.rotate, [(random((2, 3, 5, 8)), embedding.rotation(torch.tensor([[0, 1, 2, 30, 31]]), GATED))]
    ),
    "repeat_heads": Exercise(
        repeat_heads,
        [(random((2, 3, 4, 8)), 1), (random((2, 3, 4, 8)), 2)],
    ),
    "slowdown": Exercise(embedding.slowdown, [(torch.logspace(0, 5, 16), LLAMA_3_1)]),
    # 6. What weights know
    "halves": Exercise(layout._halves, [(2, random((16, 3))), (3, random((12, 5)))]),
    "generate_greedily": Exercise(
        greedy.generate_greedily,
        [(gpt.GPT(GATED).eval(), [3, 1, 4], 5, stops) for stops in ([], range(25), range(25, 50))],
    ),
    "contains_answer": Exercise(
        rows.contains_answer,
        [
            ("The capital of France is Paris.", ["Paris"]),
            ("PARIS, of course", ["paris", "Paris, France"]),
            ("A Parisian knows.", ["Paris"]),
            ("a so-called city", ["so"]),
            ("Lyon", ["Rome", "Oslo"]),
        ],
    ),
    # 7. The classifier
    "best_threshold": Exercise(
        calibration.best_threshold,
        [(random((40,)).sigmoid().numpy(), random((40,), seed=1).numpy() > 0, rate) for rate in (0.2, 0.1, 0.005)],
    ),
    "mean_states": Exercise(mean_states, [(random((3, 5, 4)), torch.tensor([5, 1, 3]))]),
    "roc_auc": Exercise(
        roc_auc,
        [(random((40,)).sigmoid().numpy().round(digits), random((40,), seed=1).numpy() > 0) for digits in (6, 1)],
    ),
    # 8. The assistant
    "targets": Exercise(
        Example.targets.fget,
        [(Example([7, 8, 9, 5, 6, 4], learned=[False, False, True, True, False, True]),), (Example([3], [True]),)],
    ),
    "merged": Exercise(
        merged,
        [(random((5, 7)), random((5, 2)), random((2, 7)))],
    ),
    "rouge_l": Exercise(
        rouge_l,
        [
            (["the", "cat", "sat", "on", "the", "mat"], ["on", "the", "mat", "the", "cat", "lay"]),
            (["no"], ["yes"]),
            (["a", "b", "c"], ["a", "b", "c"]),
        ],
    ),
    # B. The transformer of 2017
    "encoder_layer": Exercise(
        encoder_layer,
        [
            (
                nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True),
                random((2, 5, 16)),
            )
        ],
    ),
}


def check(function: Callable[..., Any]) -> None:
    """Compare a function with the exercise of its name, and print that it is right.

    Raises AssertionError for the first input with another answer, and KeyError for a name that is no exercise's.
    """
    name = function.__name__
    exercise = EXERCISES[name]
    for arguments in exercise.inputs:
        expected = exercise.reference(*deepcopy(arguments))
        answer = function(*deepcopy(arguments))
        assert _is_same(answer, expected), f"{name}{_shown(arguments)}: {_difference(answer, expected)}"
    print(f"{name}: right")


def solution(name: str) -> None:
    """Print the function that an exercise is compared with. Raises KeyError for a name that is no exercise's."""
    print(textwrap.dedent(inspect.getsource(EXERCISES[name].reference)))


def _is_same(answer: Any, expected: Any) -> bool:
    """Equal, or for numbers within rounding."""
    if isinstance(expected, tuple) and isinstance(answer, tuple | list):
        return len(answer) == len(expected) and all(map(_is_same, answer, expected))
    if isinstance(expected, Tensor):
        has_shape = isinstance(answer, Tensor) and answer.shape == expected.shape
        return has_shape and torch.allclose(answer.float(), expected.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(expected, float):
        return isinstance(answer, Real) and abs(answer - expected) < 1e-4 * max(1, abs(expected))
    return answer == expected


def _difference(answer: Any, expected: Any) -> str:
    """Where an answer is not what is expected, without giving all of it away."""
    if answer is None:
        return "it returns None; is it written yet?"
    if not (isinstance(answer, Tensor) and isinstance(expected, Tensor)):
        return f"expected {reprlib.repr(expected)}, yours is {reprlib.repr(answer)}"
    if answer.shape != expected.shape:
        return f"expected the shape {tuple(expected.shape)}, yours is {tuple(answer.shape)}"
    gaps = (answer.float() - expected.float()).abs()
    index = tuple(int(number) for number in torch.unravel_index(gaps.argmax(), gaps.shape))
    return f"they differ most at {index}: expected {expected[index]:.4g}, yours is {answer[index]:.4g}"


def _shown(arguments: tuple[Any, ...]) -> str:
    """The arguments of a call."""
    return f"({', '.join(map(_shown_argument, arguments))})"


def _shown_argument(argument: Any) -> str:
    """An argument as Python writes it; of a tensor or an array its shape, and of a model its class."""
    if isinstance(argument, Tensor | np.ndarray):
        return f"{'tensor' if isinstance(argument, Tensor) else 'array'}{tuple(argument.shape)}"
    if isinstance(argument, nn.Module):
        return type(argument).__name__
    return repr(argument)
