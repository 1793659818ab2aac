"""How the pictures of the book look: text stays text, on a white card that light and dark pages show alike."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#666666"
STYLE = {
    "svg.hashsalt": "book",  # the same bytes for the same numbers
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Arial"],
    "font.size": 10,
    "text.parse_math": False,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.ymargin": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, PURPLE]),
    "legend.frameon": False,
}


@contextmanager
def picture(path: Path, height: float = 3.0) -> Generator[Figure]:
    """A figure that becomes an SVG, as wide as a phone."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.5, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
