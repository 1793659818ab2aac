"""Diagrams of the book: boxes, arrows and small tables. pictures.py draws them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from docs.book.figure import BLUE, GREEN, GREY, ORANGE, picture

PALE = {BLUE: "#d6e9f5", ORANGE: "#fbe3d4", GREEN: "#d5efe7", GREY: "#eeeeee"}


@contextmanager
def canvas(path: Path, width: float, height: float, *, inches: float) -> Iterator[Axes]:
    """Axes without marks, `width` by `height` units."""
    with picture(path, height=inches) as figure:
        axes = figure.add_subplot(xlim=(0, width), ylim=(height, 0))  # y counts downwards, as one reads
        axes.axis("off")
        yield axes


def box(
    axes: Axes, x: float, y: float, text: str, *, width: float = 1.0, height: float = 1.0, color: str = GREY
) -> None:
    """A box with a text in it; x and y are its left upper corner."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=PALE[color], edgecolor=color))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black", "shrinkA": 0, "shrinkB": 0})


def note(axes: Axes, x: float, y: float, text: str, *, align: str = "left") -> None:
    """A text beside the boxes."""
    axes.text(x, y, text, ha=align, va="center", fontsize=9)


def window(path: Path) -> None:
    """A text of eight tokens: five are a window's inputs, and the five that begin one token later its targets."""
    tokens = ["C", "all", "␣me", "␣I", "sh", "ma", "el", "."]
    first, length = 2, 5
    with canvas(path, width=9.2, height=4.4, inches=2.1) as axes:
        for place, token in enumerate(tokens):
            box(axes, place + 1.2, 0, token)
        for place in range(first, first + length):
            box(axes, place + 1.2, 1.5, tokens[place], color=BLUE)
            arrow(axes, (place + 1.7, 2.5), (place + 2.7, 3.2))
            box(axes, place + 2.2, 3.2, tokens[place + 1], color=ORANGE)
        note(axes, 0, 0.5, "text")
        note(axes, 0, 2.0, "input")
        note(axes, 0, 3.7, "target")


def table(axes: Axes, title: str, numbers: np.ndarray, shades: np.ndarray) -> None:
    """Numbers in cells; a cell without a number is grey. `shades`: how blue each cell is, 0 to 1."""
    axes.imshow(np.where(np.isnan(numbers), np.nan, shades), cmap="Blues", vmin=0, vmax=1.6)
    for (row, column), number in np.ndenumerate(numbers):
        if not np.isnan(number):
            axes.text(column, row, f"{number:.1f}", ha="center", va="center", fontsize=9)
    axes.set_title(title)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_facecolor("#dddddd")


def mask(path: Path) -> None:
    """Scores, weights, values and weighted values of four tokens; a token's scores of later tokens are empty."""
    words = ["the", "cat", "sat", "down"]
    scores_TS = np.array([[1.0, 0, 0, 0], [0.5, 1.5, 0, 0], [0.2, 2.0, 0.6, 0], [0.1, 0.9, 1.8, 0.4]])
    values_SD = np.array([[4.0, 0.0], [0.0, 4.0], [-2.0, 2.0], [2.0, -2.0]])
    hidden_TS = np.triu(np.ones((4, 4), dtype=bool), 1)
    scores_TS = np.where(hidden_TS, np.nan, scores_TS)
    weights_TS = np.exp(scores_TS) / np.nansum(np.exp(scores_TS), axis=1, keepdims=True)
    outputs_TD = np.nan_to_num(weights_TS) @ values_SD
    with picture(path, height=4.4) as figure:
        panels = figure.subplots(2, 2)
        table(panels[0, 0], "scores: q · k / √D", scores_TS, weights_TS)
        table(panels[0, 1], "weights: softmax", weights_TS, weights_TS)
        table(panels[1, 0], "values", values_SD, np.zeros((4, 2)))
        table(panels[1, 1], "weights · values", outputs_TD, np.zeros((4, 2)))
        for axes in panels.flat:
            axes.set_yticks(range(4), words)
        for axes in panels[0]:
            axes.set_xticks(range(4), words)
            axes.set(xlabel="key of", ylabel="query of")
        panels[1, 0].set_ylabel("value of")
        panels[1, 1].set_ylabel("output of")


def block(path: Path) -> None:
    """The stream runs upwards; attention and the MLP each read a normalised copy of it and add to it."""
    with canvas(path, width=8, height=9.4, inches=3.6) as axes:
        arrow(axes, (2, 8.9), (2, 0.2))
        note(axes, 0, 9.2, "the stream, B T C")
        for bottom, name, about in ((8.4, "attention", "looks at earlier tokens"), (4.4, "MLP", "each token alone")):
            arrow(axes, (2, bottom), (4, bottom))
            box(axes, 4, bottom - 0.5, "norm", width=3.4)
            arrow(axes, (5.7, bottom - 0.5), (5.7, bottom - 1.2))
            box(axes, 4, bottom - 2.4, f"{name}\n{about}", width=3.4, height=1.2, color=BLUE)
            arrow(axes, (4, bottom - 1.8), (2.3, bottom - 1.8))
            axes.text(2, bottom - 1.8, "+", ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"})
        note(axes, 2.2, 0.4, "to the next block")


def heads(path: Path) -> None:
    """The shapes of tensors on their way through attention with several heads."""
    steps = (
        ("x", "B T C", GREY),
        ("queries, keys, values: one product", "B T 3C", BLUE),
        ("cut into heads", "B T 3H D", BLUE),
        ("heads before positions; three parts", "B H T D", BLUE),
        ("scores: each query with each key", "B H T S", ORANGE),
        ("weighted values", "B H T D", ORANGE),
        ("heads side by side again", "B T C", GREEN),
        ("mixed by the last matrix", "B T C", GREEN),
    )
    with canvas(path, width=10, height=1.5 * len(steps), inches=0.48 * len(steps)) as axes:
        for number, (name, shape, color) in enumerate(steps):
            box(axes, 0, 1.5 * number, shape, width=2.6, color=color)
            note(axes, 3, 1.5 * number + 0.5, name)
            if number:
                arrow(axes, (1.3, 1.5 * number - 0.5), (1.3, 1.5 * number))


def flow(axes: Axes, tokens: Sequence[tuple[str, str]], *, width: float) -> None:
    """Boxes of words in lines, each with its colour; a box is as wide as its text."""
    x = y = 0.0
    for text, color in tokens:
        wide = 0.7 + 0.42 * len(text)
        if x + wide > width:
            x, y = 0.0, y + 1.4
        box(axes, x, y, text, width=wide, color=color)
        x += wide + 0.15


def counted(path: Path) -> None:
    """A conversation as tokens; those that the loss counts, the answer and its end, have another colour."""
    question = ["<|im_start|>", "user", "↵", "Write", "␣the", "␣number", "␣in", "␣words", ".", "↵↵", "2", "4"]
    question += ["<|im_end|>", "↵", "<|im_start|>", "assistant", "↵"]
    answer = ["tw", "enty", "-", "four", "<|im_end|>"]
    tokens = [(token, GREY) for token in question] + [(token, ORANGE) for token in answer]
    lines = math.ceil(sum(0.85 + 0.42 * len(token) for token, _ in tokens) / 26)
    with canvas(path, width=26, height=1.4 * lines + 1.6, inches=0.42 * lines + 0.5) as axes:
        flow(axes, tokens, width=26)
        box(axes, 0, 1.4 * lines + 0.2, "counts", width=4, color=ORANGE)
        box(axes, 5, 1.4 * lines + 0.2, "is read only", width=6, color=GREY)


DIAGRAMS = {"window": window, "mask": mask, "block": block, "heads": heads, "counted": counted}
