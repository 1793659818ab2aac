"""The page for who decides what is learned from: feedback that waits, behind a reviewer's key."""

import hmac
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.errors import RequestError
from app.feedback_list import one_line, select, texts
from app.page_parts import PRIVATE, PROBLEMS, warn
from app.quarantine import Decision

HEAD = ["ID", "dataset", "would change", "says", "train says", "text", "rows", "networks", "versions"]
HELP = (
    "Nothing learns from these rows until you accept them. Nearly equal rows are one line. Click a line to choose it, "
    "or name IDs, networks, datasets, or all."
)


def feedback_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    key = gr.Textbox("", label="Reviewer's key", type="password", submit_btn="Show", elem_id="reviewer-key")
    gr.Markdown(HELP)
    table = gr.Dataframe(headers=HEAD, datatype="str", interactive=False, wrap=True, elem_id="waiting")
    which = gr.Textbox("", label="Rows", elem_id="which")
    with gr.Row():
        accept, drop = gr.Button("Accept", variant="primary"), gr.Button("Drop", variant="stop")

    def show(key: str) -> list[list[str]]:
        try:
            return waiting(app.state, key)
        except PROBLEMS as error:
            warn(error)
            return []

    def decided(decision: Decision, key: str, which: str) -> tuple[Any, str]:
        try:
            count = decide(app.state, key, which, decision)
            gr.Info(f"{count} rows {decision}.")
            return waiting(app.state, key), ""
        except PROBLEMS as error:
            warn(error)
            return gr.skip(), which

    def choose(which: str, data: gr.SelectData) -> str:
        return " ".join(dict.fromkeys([*which.split(), data.row_value[0]]))

    key.submit(show, key, table, **PRIVATE)
    table.select(choose, which, which, **PRIVATE)
    accept.click(lambda *given: decided("accepted", *given), [key, which], [table, which], **PRIVATE)
    drop.click(lambda *given: decided("dropped", *given), [key, which], [table, which], **PRIVATE)


def waiting(state: Any, key: str) -> list[list[str]]:
    """A line for each text that waits. Raises RequestError for a key that is no reviewer's."""
    _check(state, key)
    return [
        [
            each.id,
            each.dataset,
            each.change,
            one_line(each.says),
            one_line(each.train_says),
            one_line(each.text),
            str(len(each.rows)),
            " ".join(each.clients),
            " ".join(each.versions),
        ]
        for each in texts(state.feedback.waiting())
    ]


def decide(state: Any, key: str, which: str, decision: Decision) -> int:
    """Accept or drop the rows that the words name; how many. Raises RequestError as `waiting`."""
    _check(state, key)
    words, found = which.split(), texts(state.feedback.waiting())
    groups = {"all", *(each.dataset for each in found), *(client for each in found for client in each.clients)}
    ids = [word for word in words if word not in groups]
    return state.feedback.decide(select(found, ids, words, words, "all" in words), decision)[0]


def _check(state: Any, key: str) -> None:
    given = key.strip().encode(errors="replace")
    # every key is compared, so that the time says nothing about which one was close
    right = [hmac.compare_digest(given, each.encode()) for each in state.settings.reviewer_keys]
    if not any(right):
        raise RequestError("this is no reviewer's key", None, "not_a_reviewer")
