"""The page for reviewers: one question to two versions, side by side."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.clients import network_of
from app.generation import Generation, chat_prompt, ends
from app.page_shared import PRIVATE, shown_errors, texts_so_far, version_choices
from llm.chat import Message
from llm.generation.sampling import GREEDY
from llm.objectives import CHAT

WIDE = 300
"""Pixels of a column; on a phone they stand below each other."""
HELP = "Ask two versions of the assistant the same question. Both give the answer that they find likeliest."
ONE = "**There is only one version yet.** Train another with `make run`, and compare them here."


def compare_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings = app.state.versions, app.state.settings
    note = gr.Markdown(HELP, elem_id="compare-note")
    with gr.Row():
        chosen = [gr.Dropdown(label=f"{side} version", filterable=False, min_width=WIDE) for side in ("Left", "Right")]
    box = gr.Textbox(
        "", label="Question for both", lines=2, max_lines=8, max_length=100_000, elem_id="compared-question"
    )
    with gr.Row():
        button, stop = gr.Button("Ask both", variant="primary", interactive=False), gr.Button("Stop")
    with gr.Row():
        look: dict[str, Any] = {"show_label": False, "min_width": WIDE, "height": 300, "latex_delimiters": []}
        answers = [gr.Chatbot(buttons=["copy"], elem_id=f"answer-{side}", **look) for side in ("left", "right")]

    async def ask(question: str, left: str, right: str, request: gr.Request) -> AsyncIterator[list[Any]]:
        if not question.strip():
            raise gr.Error("Write a question first.", print_exception=False)
        if left == right:
            raise gr.Error("Choose two different versions.", print_exception=False)
        with shown_errors():
            loaded = [await app.state.loader.get(name, CHAT) for name in (left, right)]
            asked = [Message("user", question)]
            prompts = [await run_in_threadpool(chat_prompt, each, asked) for each in loaded]
            generations: list[Generation] = []
            try:
                for each, prompt in zip(loaded, prompts, strict=True):
                    options = {"seconds": settings.request_seconds, "network": network_of(request)}
                    stops = ends(each, chat=True)
                    generations.append(Generation(each, [prompt], sampling=GREEDY, stop_tokens=stops, **options))
                async with aclosing(texts_so_far(loaded, generations)) as both:
                    async for texts in both:
                        yield [[{"role": "assistant", "content": text}] for text in texts]
            finally:
                for generation in generations:
                    generation.close()

    def opened() -> list[Any]:
        """The version in use against the one that waits for approval, or against the newest other one."""
        with shown_errors():
            choices, by_alias = version_choices(versions, CHAT)
        first = list(dict.fromkeys([*by_alias, *(name for _, name in choices)]))[:2]
        pair = first + [None] * (2 - len(first))
        ready = len(first) == 2
        dropdowns = [gr.Dropdown(choices=choices, value=name) for name in pair]
        return [HELP if ready else ONE, *dropdowns, gr.Button(interactive=ready)]

    asking = gr.on([button.click, box.submit], ask, [box, *chosen], answers, **PRIVATE)
    stop.click(None, cancels=[asking], **PRIVATE)
    blocks.load(opened, None, [note, *chosen, button], queue=False, show_progress="hidden", **PRIVATE)
