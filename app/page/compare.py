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
        chosen = [
            version_dropdown(blocks, app.state.versions, CHAT, f"{side} version", place)
            for place, side in enumerate(("Left", "Right"))
        ]
    box = gr.Textbox(
        "", label="Question for both", lines=2, max_lines=8, max_length=LONGEST, elem_id="compared-question"
    )
    with gr.Row():
        button, stop = gr.Button("Ask both", variant="primary"), gr.Button("Stop")
    with gr.Row():
        answers = [gr.Chatbot(buttons=["copy"], elem_id=f"answer-{side}", **LOOK) for side in ("left", "right")]

    async def ask(question: str, left: str | None, right: str | None, request: gr.Request) -> AsyncIterator[list[Any]]:
        if not question.strip():
            raise gr.Error("Write a question first.", print_exception=False)
        if not left or not right or left == right:
            raise gr.Error("Choose two different versions.", print_exception=False)
        with shown_errors():
            messages = [Message("user", question)]
            async with aclosing(answers_so_far(app, (left, right), messages, GREEDY, request)) as both:
                async for texts in both:
                    yield [[{"role": "assistant", "content": text}] for text in texts]

    asking = gr.on([button.click, box.submit], ask, [box, *chosen], answers, **PRIVATE)
    stop.click(None, cancels=[asking], **PRIVATE)
