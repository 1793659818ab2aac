"""The page for who decides what is learned from: feedback that waits, behind a reviewer's key."""

import hmac
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.errors import RequestError
from app.feedback_list import COLUMNS, select, texts
from app.page_parts import PRIVATE, PROBLEMS, warn
from app.quarantine import Decision

HELP = (
    "Nothing learns from these rows until you accept them. Nearly equal rows are one line. Click a line to choose it, "
    "or name IDs, networks, datasets, or all."
)


def feedback_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    key = gr.Textbox("", label="Reviewer's key", type="password", submit_btn="Show")
    gr.Markdown(HELP)
    table = gr.Dataframe(headers=list(COLUMNS), datatype="str", interactive=False, wrap=True, elem_id="waiting")
    which = gr.Textbox("", label="Rows")
    with gr.Row():
        accept, drop = gr.Button("Accept", variant="primary"), gr.Button("Drop", variant="stop")

    def decided(decision: Decision | None, key: str, which: str) -> tuple[Any, str]:
        try:
            if decision:
                gr.Info(f"{decide(app.state, key, which, decision)} rows {decision}.")
            return waiting(app.state, key), ""
        except PROBLEMS as error:
            warn(error)
            return gr.skip(), which

    def choose(which: str, data: gr.SelectData) -> str:
        return " ".join(dict.fromkeys([*which.split(), data.row_value[0]]))

    given, shown = [key, which], [table, which]
    key.submit(lambda *words: decided(None, *words), given, shown, **PRIVATE)
    table.select(choose, which, which, **PRIVATE)
    accept.click(lambda *words: decided("accepted", *words), given, shown, **PRIVATE)
    drop.click(lambda *words: decided("dropped", *words), given, shown, **PRIVATE)


def waiting(state: Any, key: str) -> list[list[str]]:
    """A line for each text that waits. Raises RequestError for a key that is no reviewer's."""
    _check(state, key)
    return [each.cells() for each in texts(state.feedback.waiting())]


def decide(state: Any, key: str, which: str, decision: Decision) -> int:
    """Accept or drop the rows that the words name; how many. Raises RequestError as `waiting`."""
    _check(state, key)
    return state.feedback.decide(select(texts(state.feedback.waiting()), which.split()), decision)[0]


def _check(state: Any, key: str) -> None:
    given = key.strip().encode(errors="replace")
    # every key is compared, so that the time says nothing about which one was close
    right = [hmac.compare_digest(given, each.encode()) for each in state.settings.reviewer_keys]
    if not any(right):
        raise RequestError("this is no reviewer's key", None, "not_a_reviewer")
