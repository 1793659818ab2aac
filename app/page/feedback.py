"""The tab Feedback: a person with a reviewer's key accepts and drops feedback that waits."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.clients import is_key
from app.errors import RequestError
from app.feedback import COLUMNS, Decision, Waiting, select
from app.page.shared import LONGEST, PRIVATE, shown_errors

HELP = (
    "Nothing learns from these rows until you accept them. Click a line to choose it, or name IDs, clients, "
    "datasets, or all. You decide on the rows that are shown, not on later ones."
)
WIDTHS = [80, 120, 250, 500, 130, 220]
"""Pixels of the columns."""


def feedback_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    key = gr.Textbox("", label="Reviewer's key", type="password", submit_btn="Show")
    gr.Markdown(HELP)
    shown = gr.State([])
    table = gr.Dataframe(
        headers=list(COLUMNS), datatype="str", interactive=False, wrap=True, column_widths=WIDTHS, elem_id="waiting"
    )
    which = gr.Textbox("", label="Rows")
    with gr.Row():
        accept = gr.Button("Accept", variant="primary")
        drop = gr.Button("Drop", variant="stop")

    def decided(decision: Decision | None, key: str, which: str, shown: list[Waiting]) -> tuple[Any, ...]:
        with shown_errors():
            if decision:
                count = decide(app.state, key, shown=shown, which=which, decision=decision)
                gr.Info(f"{count} rows {decision}.", duration=5)
            listed = waiting(app.state, key)
        return listed, [row.cells(LONGEST) for row in listed], ""

    def choose(which: str, data: gr.SelectData) -> str:
        return " ".join(dict.fromkeys([*which.split(), data.row_value[0]]))

    fields: dict[str, Any] = {"inputs": [key, which, shown], "outputs": [shown, table, which], **PRIVATE}
    key.submit(lambda *words: decided(None, *words), **fields)
    table.select(choose, inputs=which, outputs=which, **PRIVATE)
    accept.click(lambda *words: decided("accepted", *words), **fields)
    drop.click(lambda *words: decided("dropped", *words), **fields)


def waiting(state: Any, key: str) -> list[Waiting]:
    """The rows that wait. Raises RequestError unless the key is a reviewer's."""
    if not is_key(key, state.settings.reviewer_keys):
        raise RequestError("this is no reviewer's key", None, "not_a_reviewer")
    rows: list[Waiting] = state.feedback.waiting()
    return rows


def decide(state: Any, key: str, *, shown: Sequence[Waiting], which: str, decision: Decision) -> int:
    """Accept or drop those rows of `shown` that the words name; how many. Raises RequestError as `waiting`."""
    waiting(state, key)
    count, _ = state.feedback.decide(select(shown, which.split()), decision)
    return count
