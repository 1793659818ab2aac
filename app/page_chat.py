"""The page's chat: questions and answers in turn, kept by the browser; the server has them in memory for a while."""

import html
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.feedback import AnswerFeedback, answer_row
from app.limits import network_of
from app.page_parts import (
    AT_ONCE,
    PRIVATE,
    PROBLEMS,
    Answering,
    answering,
    default,
    named_with_aliases,
    of_objective,
    sentence,
    thank,
    together,
    warn,
)
from app.registry import Named
from app.schema import ChatMessage
from app.versions import Loaded, Versions
from app.writing import NEW_TOKENS, Writing, chat_prompt, ends
from llm.chat import Message
from llm.generation.sampling import Sampling

EXAMPLES = (
    "What is the capital of France?",
    "Rewrite in the passive voice: The chef cooks the meal every day.",
    "Name three animals that live in the sea.",
)
CONSENT = (
    "If you use the thumbs, this server keeps the conversation up to that answer, the answer, what you say about it, "
    "the time and a code made from your network, and a training learns from it once a person has accepted it; else it "
    "keeps nothing."
)
LONGEST = 100_000
"""Characters of a question."""
PICTURES = re.compile(r"(?:^## Pictures\s+)?^!\[[^\]]*\]\([^)]*\)\s*", re.MULTILINE)
HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=[#A-Za-z])")
"""What begins a tag or a character reference."""

Turn = dict[str, str]
"""`role` and `content`; an answer has its `version` and the `system` prompt, too."""
Step = tuple[Any, Any, Any, Any]
"""What becomes of the conversation as it is shown, as it is kept, of the question's box, and of the version's line."""


def chat_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings, running = app.state.versions, app.state.settings, Answering()
    longest, cleared = settings.context_length, set[str]()
    history = gr.BrowserState([], storage_key="threestage-chat", secret="threestage")
    line = gr.Markdown(elem_id="version")
    chatbot = gr.Chatbot(
        label="Conversation",
        height="55vh",
        editable="user",
        render_markdown=False,
        allow_tags=False,
        latex_delimiters=[],
        buttons=[],
        examples=[{"text": each} for each in EXAMPLES],
        elem_id="chat",
    )
    box = gr.Textbox(
        "",
        placeholder="Ask something; Enter sends",
        label="Your question",
        show_label=False,
        max_lines=8,
        max_length=LONGEST,
        submit_btn="Send",
        autofocus=True,
        elem_id="question",
    )
    if settings.feedback:
        _thumbs(app, history, chatbot)
    with gr.Accordion("Settings", open=False):
        system = gr.Textbox(
            "", label="System prompt", info="Empty: the model's own.", lines=2, max_length=LONGEST, elem_id="system"
        )
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 takes the likeliest token.")
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="The likeliest with this share may be drawn.")
        with gr.Row():
            most = gr.Slider(1, longest, min(NEW_TOKENS, longest), step=1, label="Most tokens", elem_id="most")
            seed = gr.Number(None, label="Seed", info="Empty: another draw each time.", precision=0, minimum=0)
    with gr.Accordion("Model card", open=False) as about:
        card = gr.Markdown(latex_delimiters=[], elem_id="card")

    async def respond(
        kept: list[Turn], before: list[Turn], question: str, chosen: tuple[Any, ...], request: gr.Request
    ) -> AsyncIterator[Step]:
        """The answer to a question after some turns, as it grows; where there is none, what was kept stays."""
        browser = request.session_hash
        if not question.strip() or (writings := running.begin(browser)) is None:
            yield shown(kept), gr.skip(), gr.skip(), gr.skip()
            return
        asked = [*before, {"role": "user", "content": question}]
        done, named = kept, None
        try:
            yield shown(asked), asked, gr.Textbox("", submit_btn=False, stop_btn="Stop"), gr.skip()
            loaded = await default(app.state, "assistant")
            prompt = await run_in_threadpool(_prompt, loaded, asked, chosen[0])
            named = loaded.named
            if running.goes_on(browser, writings):
                writings.append(_written(loaded, prompt, chosen, settings.request_seconds, network_of(request)))
                about = {"role": "assistant", "version": str(named), "system": chosen[0]}
                async with aclosing(together([loaded], writings)) as texts:
                    async for (text,) in texts:
                        done = [*asked, about | {"content": text}]
                        yield shown(done), gr.skip(), gr.skip(), gr.skip()
        except PROBLEMS as error:
            warn(error)
        finally:
            running.end(browser, writings)
        if browser in cleared:  # while the answer was written
            cleared.discard(browser)
            kept = done = []
        back = {"value": question} if done is kept and before is kept else {}
        free = gr.Textbox(**back, submit_btn="Send", stop_btn=False)
        yield shown(done), done, free, await run_in_threadpool(_line, versions, named)

    async def ask(request: gr.Request, kept: Any, question: str, *chosen: Any) -> AsyncIterator[Step]:
        kept = turns(kept)
        async with aclosing(respond(kept, kept, question, chosen, request)) as steps:
            async for step in steps:
                yield step

    async def ask_example(request: gr.Request, data: gr.SelectData, kept: Any, *chosen: Any) -> AsyncIterator[Step]:
        kept = turns(kept)
        async with aclosing(respond(kept, kept, data.value["text"], chosen, request)) as steps:
            async for step in steps:
                yield step

    async def retry(request: gr.Request, data: gr.RetryData, kept: Any, *chosen: Any) -> AsyncIterator[Step]:
        kept, place = turns(kept), _place(data)
        question = kept[place]["content"] if place < len(kept) else ""
        async with aclosing(respond(kept, kept[:place], question, chosen, request)) as steps:
            async for step in steps:
                yield step

    async def edit(request: gr.Request, data: gr.EditData, kept: Any, *chosen: Any) -> AsyncIterator[Step]:
        """Another question in the place of one; the turns that came after it go."""
        kept, question = turns(kept), html.unescape(str(data.value))
        async with aclosing(respond(kept, kept[: _place(data)], question, chosen, request)) as steps:
            async for step in steps:
                yield step

    def opened(kept: Any) -> Step:
        """As the browser left it; a question whose answer it did not wait for is back in the box."""
        left = kept[-1] if isinstance(kept, list) and kept and _is_turn(kept[-1]) else {}
        question = left["content"] if left.get("role") == "user" else ""
        kept = turns(kept)
        return shown(kept), kept, gr.Textbox(question, submit_btn="Send", stop_btn=False), _line(versions)

    async def clear(request: gr.Request) -> list[Turn]:  # in the loop, where answers come to their end
        if running.stopped(request.session_hash):
            cleared.add(request.session_hash)
        return []

    outputs = [chatbot, history, box, line]
    controls = [system, temperature, top_p, most, seed]
    box.submit(ask, [history, box, *controls], outputs, **PRIVATE)
    chatbot.example_select(ask_example, [history, *controls], outputs, **PRIVATE)
    chatbot.retry(retry, [history, *controls], outputs, **PRIVATE)
    chatbot.edit(edit, [history, *controls], outputs, **PRIVATE)
    chatbot.clear(clear, None, history, **AT_ONCE)
    box.stop(running.stop, None, None, **AT_ONCE)
    about.expand(lambda: _card(versions), None, card, **PRIVATE)
    blocks.load(opened, history, outputs, **AT_ONCE)


def _thumbs(app: FastAPI, history: gr.BrowserState, chatbot: gr.Chatbot) -> None:
    """What people say of an answer: good, bad, or what it should have been."""
    gr.Markdown(CONSENT, elem_classes="consent")
    place = gr.State()
    with gr.Group(visible=False) as asking:
        better = gr.Textbox(
            "",
            label="What should the answer have been?",
            max_lines=8,
            max_length=10_000,
            submit_btn="Keep",
            elem_id="better",
        )

    def keep(kept: list[Turn], number: int, good: bool, instead: str | None, request: gr.Request) -> None:
        if not 0 < number < len(kept):
            return
        answer = kept[number]
        before = [{"role": "system", "content": answer["system"]}] if answer.get("system") else []
        before += [{"role": each["role"], "content": each["content"]} for each in kept[:number]]
        try:
            messages = [ChatMessage(**each) for each in before]
            said = AnswerFeedback(
                about="answer", messages=messages, answer=answer["content"], good=good, better=instead
            )
            loaded = app.state.versions.get(answer.get("version") or "assistant")
            thank(app.state, loaded, answer_row(loaded, said), request)
        except PROBLEMS as error:
            warn(error)

    def judge(request: gr.Request, data: gr.LikeData, kept: Any) -> tuple[Any, Any, int]:
        bad = data.liked is False
        if isinstance(data.liked, bool):  # else it was taken back
            keep(turns(kept), _place(data), data.liked, None, request)
        return gr.Group(visible=bad), gr.Textbox("", autofocus=bad), _place(data)

    def correct(request: gr.Request, kept: Any, number: int, instead: str) -> tuple[Any, Any]:
        if not instead.strip():
            return gr.skip(), gr.skip()
        keep(turns(kept), number, False, instead, request)
        return gr.Group(visible=False), ""

    chatbot.like(judge, history, [asking, better, place], **PRIVATE)
    better.submit(correct, [history, place, better], [asking, better], **PRIVATE)


def turns(kept: Any) -> list[Turn]:
    """What a browser kept, as far as it is whole turns: each question with its answer."""
    whole: list[Turn] = []
    for each in kept if isinstance(kept, list) else ():
        if not _is_turn(each) or each["role"] != ("user", "assistant")[len(whole) % 2]:
            break
        whole.append(each)
    return whole[: len(whole) // 2 * 2]


def _is_turn(each: Any) -> bool:
    return isinstance(each, dict) and all(isinstance(each.get(name), str) for name in ("role", "content"))


def shown(kept: list[Turn]) -> list[dict[str, Any]]:
    """Turns as the page shows them: their text as it is, also where it looks like HTML."""
    return [{"role": each["role"], "content": [{"type": "text", "text": as_text(each["content"])}]} for each in kept]


def as_text(text: str) -> str:
    """HTML that shows this text."""
    return HTML.sub(lambda found: html.escape(found[0]), text)


def _place(data: gr.EventData) -> int:
    """Which turn an event is about."""
    return data.index[0] if isinstance(data.index, list | tuple) else data.index


def _prompt(loaded: Loaded, asked: list[Turn], system: str) -> list[int]:
    before = [Message("system", system)] if system.strip() else []
    return chat_prompt(loaded, [*before, *(Message(each["role"], each["content"]) for each in asked)])


def _written(
    loaded: Loaded, prompt: list[int], chosen: tuple[Any, ...], seconds: float, network: str | None
) -> Writing:
    """The answer, as long as was asked for or as there is room, by the settings that were chosen."""
    _, temperature, top_p, most, seed = chosen
    room = loaded.engine.context_length - len(prompt) if loaded.engine else 0
    sampling = Sampling(temperature=temperature, top_p=top_p if top_p < 1 else None, seed=seed)
    return Writing(
        loaded,
        [prompt],
        sampling=sampling,
        stop_tokens=ends(loaded, chat=True),
        max_new_tokens=max(1, min(int(most), room)),
        seconds=seconds,
        network=network,
    )


def _line(versions: Versions, named: Named | None = None) -> str:
    """Which version answered, or else would."""
    try:
        found = of_objective(versions, "assistant")
    except PROBLEMS as error:
        return sentence(error)
    answered = [named_with_aliases(each) for each in found if each.named == named]
    return f"Answers: **{answered[0] if answered else answering(found)[1]}**"


def _card(versions: Versions) -> str:
    """The model card of the version that answers, without its pictures; its description where it has no card."""
    try:
        found, nobody = answering(of_objective(versions, "assistant"))
        if found is None:
            return nobody
        card = versions.registry.card(found.named)
    except PROBLEMS as error:
        return sentence(error)
    if card is None:
        return found.description or "This version has neither a card nor a description."
    return PICTURES.sub("", card)
