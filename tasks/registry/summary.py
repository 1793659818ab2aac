"""The end of a run on the terminal: metrics on the test split, challengers, and next steps."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.registry.decide import model_state
from tasks.registry.main_figures import own_figures
from tasks.registry.markup import number
from tasks.registry.versions import PENDING

OPEN = (None, PENDING)  # states: not compared yet, or not decided yet


def _metrics(model: str) -> str:
    """The metrics of a model, one a line, each next to its baseline."""
    path = Path("reports/evaluation", model, "metrics.json")
    values: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    lines = []
    for figure in own_figures(values):
        interval = f", {figure.interval}" if figure.interval else ""
        baseline = "" if figure.baseline is None else f" (baseline {number(figure.baseline)})"
        lines.append(f"{figure.name} {number(figure.value)}{interval}{baseline}")
    return "\n".join(lines) or "not evaluated"


def next_step(models: Iterable[str]) -> str:
    """Which challengers wait for a person, and how to decide."""
    waiting = []
    for model in models:
        state = model_state(model)
        challenger = state.challenger
        if challenger and state.state_of[challenger] in OPEN:
            waiting.append(f"{model}/{challenger}")
    if not waiting:
        return "no version waits for a decision"
    command = "threestage review"
    way = f"run `{command}`, read the page that it names, then run `{command} approve {waiting[0]} --reason TEXT`"
    verb = "waits" if len(waiting) == 1 else "wait"
    return f"{', '.join(waiting)} {verb} for a decision: {way}, or the same with `reject`"


def print_summary(versions: Mapping[str, str | None], done: str) -> None:
    """Print the closing table and the next steps."""
    console = Console()
    table = Table(title=done, title_justify="left", title_style="bold")
    for column in ("model", "on the test split", "registered"):
        table.add_column(column)
    for model, version in versions.items():
        table.add_row(model, _metrics(model), version or "not registered", end_section=True)
    console.print(table)
    console.print(
        "Next: [bold]make ui[/bold] opens the MLflow registry and the Prefect runs; "
        "samples and answers are below [bold]reports/evaluation[/bold].",
        soft_wrap=True,
    )
    console.print(next_step(versions), soft_wrap=True, markup=False, highlight=False)
