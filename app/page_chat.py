"""The page's chat: a conversation with one version of the assistant, and what a person thinks of its answers."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.api.schema import ChatMessage
from app.clients import network_of
from app.feedback import AnswerFeedback, answer_row
from app.generation import NEW_TOKENS, Generation, chat_prompt, ends
from app.page_shared import PRIVATE, PROBLEMS, keep_feedback, sentence, shown_errors, texts_so_far, version_dropdown
from llm.chat import Message
from llm.generation.sampling import Sampling
from llm.objectives import CHAT

EXAMPLES = (
    "What is the capital of France?",
    "Rewrite in the passive voice: The chef cooks the meal every day.",
    "Name three animals that live in the sea.",
)
CONSENT = (
    "<small>If you click a thumb, this server keeps the conversation up to that answer, the answer, your opinion, the "
    "time and a code made from your network. A training learns from it once a person has accepted it. Otherwise "
    "nothing is stored.</small>"
)
LONGEST = 100_000
"""Characters of a question."""
PICTURES = re.compile(r"(?:^## Pictures\s+)?^!\[[^\]]*\]\([^)]*\)\s*", re.MULTILINE)


def chat_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings = app.state.versions, app.state.settings
    version = version_dropdown(blocks, versions, CHAT)
    system = gr.Textbox("", label="System prompt", info="Empty: the model's own.", lines=2, max_length=LONGEST)
    options = [
        gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: the same answer each time."),
        gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="Draw among the likeliest words with this probability."),
        gr.Slider(1, settings.context_length, min(NEW_TOKENS, settings.context_length), step=1, label="Longest answer"),
        gr.Textbox("", label="Seed", info="Empty: another draw each time.", max_length=18),
    ]
    for each in (system, *options):
        each.unrender()  # the chat shows them in its accordion

    async def answer(
        question: str,
        history: list[dict[str, Any]],
        name: str | None,
        instead: str,
        temperature: float,
        top_p: float,
        longest: float,
        seed: str,
        request: gr.Request,
    ) -> AsyncIterator[str]:
        try:
            loaded = await app.state.loader.get(name, CHAT)
            before = [Message("system", instead)] if instead.strip() else []
            messages = [*before, *answered(history), Message("user", question)]
            prompt = await run_in_threadpool(chat_prompt, loaded, messages)
            room = loaded.engine.context_length - len(prompt)
            generation = Generation(
                loaded,
                [prompt],
                sampling=Sampling(
                    temperature=temperature, top_p=top_p if top_p < 1 else None, seed=seed.strip() or None
                ),
                stop_tokens=ends(loaded, chat=True),
                max_new_tokens=max(1, min(int(longest), room)),
                seconds=settings.request_seconds,
                network=network_of(request),
            )
            async with aclosing(texts_so_far([loaded], [generation])) as texts:
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
            placeholder="Your question; Enter sends it",
            max_length=LONGEST,
            submit_btn="Send",
            stop_btn="Stop",
            autofocus=True,
            elem_id="question",
        ),
        examples=[[each] for each in EXAMPLES],
        additional_inputs=[version, system, *options],
        additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False),
        editable=True,
        fill_height=False,
        analytics_enabled=False,
        **PRIVATE,
    )
    conversation = [chat.chatbot, chat.chatbot_state, chat.chatbot_value]
    version.change(lambda: ([], [], []), None, conversation, queue=False, show_progress="hidden", **PRIVATE)
    if settings.feedback:
        _feedback(app, chat.chatbot, version, system)
    with gr.Accordion("About this version", open=False) as about:
        card = gr.Markdown(latex_delimiters=[], max_height=400, elem_id="card")

    def read_card(name: str | None) -> str:
        with shown_errors():
            found = versions.registry.card(versions.registry.find(name, CHAT))
        return PICTURES.sub("", found or "This version has no model card.")

    about.expand(read_card, version, card, **PRIVATE)


def _feedback(app: FastAPI, chatbot: gr.Chatbot, version: gr.Dropdown, system: gr.Textbox) -> None:
    """Good, bad, or what an answer should have been."""
    gr.Markdown(CONSENT, elem_classes="consent")
    place = gr.State()
    better = gr.Textbox(
        "", label="What should the answer have been?", visible=False, submit_btn="Send", max_length=10_000
    )

    def keep(number: int, good: bool, better: str | None, *about: Any) -> None:
        history, name, instead, request = about
        with shown_errors():
            loaded = app.state.versions.get(name, CHAT)
            before = [Message("system", instead)] if instead.strip() else []
            messages = [*before, *answered(history[: number - 1]), Message("user", text_of(history[number - 1]))]
            feedback = AnswerFeedback(
                about="answer",
                messages=[ChatMessage(role=each.role, content=each.content) for each in messages],
                answer=text_of(history[number]),
                good=good,
                better=better,
            )
            keep_feedback(app.state, loaded, answer_row(loaded, feedback), request)

    def judge(
        history: list[dict[str, Any]], name: str | None, instead: str, data: gr.LikeData, request: gr.Request
    ) -> tuple[Any, int]:
        number = data.index[0] if isinstance(data.index, list | tuple) else data.index
        if isinstance(data.liked, bool):  # else it was taken back
            keep(number, data.liked, None, history, name, instead, request)
        return gr.Textbox("", visible=data.liked is False), number

    def correct(
        history: list[dict[str, Any]], name: str | None, instead: str, text: str, number: int, request: gr.Request
    ) -> Any:
        if text.strip():
            keep(number, False, text, history, name, instead, request)
        return gr.Textbox("", visible=not text.strip())

    about = [chatbot, version, system]
    chatbot.like(judge, about, [better, place], show_progress="hidden", **PRIVATE)
    better.submit(correct, [*about, better, place], better, show_progress="hidden", **PRIVATE)


def answered(history: list[dict[str, Any]]) -> list[Message]:
    """The questions of a conversation that were answered, with their answers."""
    return [
        Message(each["role"], text_of(each))
        for question, answer in pairwise(history)
        if (question["role"], answer["role"]) == ("user", "assistant")
        for each in (question, answer)
    ]


def text_of(turn: dict[str, Any]) -> str:
    """The text of a turn as Gradio has it."""
    content = turn["content"]
    return content if isinstance(content, str) else "".join(each.get("text", "") for each in content)
