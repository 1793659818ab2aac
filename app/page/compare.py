"""The tab Compare: one question to two versions, side by side."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.page.shared import LONGEST, PRIVATE, answers_so_far, shown_errors, version_dropdown
from llm.chat import Message
from llm.generation.sampling import GREEDY
from llm.objectives import CHAT

HELP = (
    "Ask two versions of the assistant the same question. Both give their likeliest answer. If there is only one "
    "version, train another with `make run`."
)
LOOK: dict[str, Any] = {"show_label": False, "min_width": 300, "height": 300, "latex_delimiters": []}
"""On a phone the answers stand below each other."""


def compare_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    gr.Markdown(HELP)
    with gr.Row():
        left = version_dropdown(blocks, app.state.versions, CHAT, label="Left version")
        right = version_dropdown(blocks, app.state.versions, CHAT, label="Right version", rank=1)
    box = gr.Textbox(
        "", label="Question for both", lines=2, max_lines=8, max_length=LONGEST, elem_id="compared-question"
    )
    with gr.Row():
        button = gr.Button("Ask both", variant="primary")
        stop = gr.Button("Stop")
    with gr.Row():
        boxes = [gr.Chatbot(buttons=["copy"], elem_id=f"answer-{side}", **LOOK) for side in ("left", "right")]

    async def ask(question: str, left: str | None, right: str | None) -> AsyncIterator[list[Any]]:
        if not question.strip():
            raise gr.Error("Write a question first.", print_exception=False)
        if not left or not right or left == right:
            raise gr.Error("Choose two different versions.", print_exception=False)
        with shown_errors():
            messages = [Message("user", question)]
            answers = answers_so_far(app, (left, right), messages, sampling=GREEDY)
            async with aclosing(answers):
                async for texts in answers:
                    yield [[{"role": "assistant", "content": text}] for text in texts]

    asking = gr.on([button.click, box.submit], ask, inputs=[box, left, right], outputs=boxes, **PRIVATE)
    stop.click(None, cancels=[asking], **PRIVATE)
