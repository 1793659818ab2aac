"""What stands at the end of a run: the metrics on the test split, the challengers, and what to open next."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.registry.figures import compared


def _metrics(model: str) -> str:
    """The metrics of a model, a line each, with the baseline beside its own."""
    path = Path("reports/evaluation", model, "metrics.json")
    values: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    lines = [
        f"{name} {value:.4f}"
        + (f", {interval}" if interval else "")
        + ("" if baseline is None else f" (baseline {baseline:.4f})")
        for name, value, interval, baseline in compared(values)
    ]
    return "\n".join(lines) or "not evaluated"


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
