"""The tab Chat: a conversation with one version of the assistant, and thumbs for its answers."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.api.feedback import LONGEST as LONGEST_FEEDBACK
from app.api.feedback import AnswerFeedback
from app.api.schema import ChatMessage
from app.generation import NEW_TOKENS
from app.page.shared import (
    LONGEST,
    PRIVATE,
    PROBLEMS,
    answers_so_far,
    is_by_guard,
    keep_feedback,
    sentence,
    shown_errors,
    version_dropdown,
    without_mark,
)
from llm.chat import Message
from llm.generation.sampling import Sampling
from llm.objectives import CHAT

EXAMPLES = (
    "What is the capital of France?",
    "Write a short email that invites my team to lunch on Thursday at noon.",
    "Give me three tips for better sleep.",
)
CONSENT = (
    "<small>If you click a thumb, this server keeps the conversation up to that answer, the answer, your opinion, the "
    "time and your network. A training learns from it once a person has accepted it. Otherwise it "
    "stores nothing. Your browser keeps your conversations, until you clear them.</small>"
)
PICTURES = re.compile(r"(?:^## Pictures\s+)?^!\[[^\]]*\]\([^)]*\)\s*", re.MULTILINE)
"""The pictures of a model card: files that the page does not have."""


def chat_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    settings = app.state.settings
    version = version_dropdown(blocks, app.state.versions, CHAT)
    system = gr.Textbox(
        "", label="System prompt", info="Empty: the model's own.", lines=2, max_length=LONGEST, render=False
    )
    options = [
        gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: the same answer each time.", render=False),
        gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="Draw among the likeliest words.", render=False),
        gr.Slider(
            1,
            settings.context_length,
            min(NEW_TOKENS, settings.context_length),
            step=1,
            label="Longest answer",
            info="In tokens.",
            render=False,
        ),
        gr.Textbox("", label="Seed", info="Empty: another draw each time.", max_length=18, render=False),
    ]

    async def answer(
        question: str,
        history: list[dict[str, Any]],
        name: str | None,
        instead: str,
        temperature: float,
        top_p: float,
        longest: float,
        seed: str,
    ) -> AsyncIterator[str]:
        try:
            messages = [*conversation(instead, history), Message("user", question)]
            sampling = Sampling(temperature=temperature, top_p=top_p if top_p < 1 else None, seed=seed.strip() or None)
            texts = answers_so_far(app, [name], messages, sampling=sampling, longest=int(longest))
            async with aclosing(texts):
                async for (text,) in texts:
                    yield text
        except PROBLEMS as error:
            gr.Warning(sentence(error))  # after an error, Gradio's chat takes no more questions

    chat = gr.ChatInterface(
        answer,
        chatbot=gr.Chatbot(
            show_label=False,
            height="50vh",
            latex_delimiters=[],
            buttons=["copy", "copy_all"],
            placeholder="Ask the assistant something, or try an example.",
            elem_id="chat",
        ),
        textbox=gr.Textbox(
            "",
            label="Your question",
            placeholder="Your question; Enter sends it",
            max_length=LONGEST,
            submit_btn="Send",
            stop_btn="Stop",
            autofocus=True,
            elem_id="question",
        ),
        examples=[[question] for question in EXAMPLES],
        additional_inputs=[version, system, *options],
        additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False),
        editable=True,
        fill_height=False,
        save_history=True,
        analytics_enabled=False,
        **PRIVATE,
    )
    chat.saved_conversations.secret = "threestage"  # not a new one at each start of the server, which could read none
    # Another version begins another conversation; the one before stays in the list.
    shown = [chat.chatbot, chat.chatbot_state, chat.chatbot_value, chat.conversation_id]
    version.change(lambda: ([], [], [], None), outputs=shown, queue=False, show_progress="hidden", **PRIVATE)
    if settings.feedback:
        _feedback(app, chat.chatbot, version=version, system=system)
    with gr.Accordion("About this version", open=False) as about:
        card = gr.Markdown(latex_delimiters=[], max_height=400, elem_id="card")

    async def read_card(name: str | None) -> str:
        with shown_errors():
            loaded = await app.state.versions.wait_for(name, CHAT)
        return PICTURES.sub("", loaded.card or "This version has no model card.")

    # By the queue, the page sometimes missed the card that it asked for right after an answer.
    about.expand(read_card, inputs=version, outputs=card, queue=False, **PRIVATE)


def _feedback(app: FastAPI, chatbot: gr.Chatbot, *, version: gr.Dropdown, system: gr.Textbox) -> None:
    """Thumbs for an answer, and a better one instead of a bad one."""
    gr.Markdown(CONSENT, elem_classes="consent")
    judged = gr.State()
    better = gr.Textbox(
        "", label="What should the answer have been?", visible=False, submit_btn="Send", max_length=LONGEST_FEEDBACK
    )
    Turns = list[dict[str, Any]]

    async def keep(
        request: gr.Request,
        turns: Turns,
        name: str | None,
        instead: str,
        *,
        number: int,
        good: bool,
        better: str | None = None,
    ) -> None:
        """Keep feedback on the answer that is the turn of that number."""
        messages = [*conversation(instead, turns[: number - 1]), Message("user", text_of(turns[number - 1]))]
        feedback = AnswerFeedback(
            about="answer",
            messages=[ChatMessage(role=message.role, content=message.content) for message in messages],
            answer=without_mark(text_of(turns[number])),
            good=good,
            better=better,
            model=name,
        )
        await keep_feedback(app.state, feedback, request)

    async def judge(
        turns: Turns, name: str | None, instead: str, data: gr.LikeData, request: gr.Request
    ) -> tuple[Any, int]:
        number = data.index[0] if isinstance(data.index, list | tuple) else data.index
        if isinstance(data.liked, bool):  # not if a person took the thumb back
            with shown_errors():
                await keep(request, turns, name, instead, number=number, good=data.liked)
        return gr.Textbox("", visible=data.liked is False), number

    async def correct(
        turns: Turns, name: str | None, instead: str, number: int, better: str, request: gr.Request
    ) -> Any:
        if better.strip():
            with shown_errors():
                await keep(request, turns, name, instead, number=number, good=False, better=better)
        return gr.Textbox("", visible=not better.strip())

    about = [chatbot, version, system]
    chatbot.like(judge, inputs=about, outputs=[better, judged], show_progress="hidden", **PRIVATE)
    better.submit(correct, inputs=[*about, judged, better], outputs=better, show_progress="hidden", **PRIVATE)


def conversation(system: str, turns: list[dict[str, Any]]) -> list[Message]:
    """The system prompt, and the questions of Gradio's turns that the assistant answered, with its answers."""
    messages = [Message("system", system)] if system.strip() else []
    for question, answer in pairwise(turns):
        is_answered = (question["role"], answer["role"]) == ("user", "assistant")
        if is_answered and not is_by_guard(text_of(answer)):
            messages += [Message("user", text_of(question)), Message("assistant", text_of(answer))]
    return messages


def text_of(turn: dict[str, Any]) -> str:
    """The text of one of Gradio's turns."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
