"""The page for reviewers: one question to two versions, side by side, and blind where wished."""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.limits import network_of
from app.page_parts import (
    AT_ONCE,
    PRIVATE,
    PROBLEMS,
    Answering,
    aliased,
    named_with_aliases,
    of_objective,
    sentence,
    together,
    warn,
)
from app.versions import Loaded
from app.writing import Writing, chat_prompt, ends
from llm.chat import Message
from llm.generation.sampling import GREEDY
from tasks.registry.decide import CHAMPION
from tasks.registry.register import CHALLENGER

VOTES = ("A is better", "B is better", "No difference")
SIDES = ("A", "B")
WIDE = 300
"""Pixels of a column; on a phone they stand below each other."""
HELP = "Both take the likeliest tokens, as they were evaluated. Votes are counted on this page alone, and kept nowhere."

Pair = list[str]
"""The versions behind A and B."""


def compare_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings, running = app.state.versions, app.state.settings, Answering()
    note = gr.Markdown(visible=False, elem_id="champion")
    with gr.Row():
        chosen = [gr.Dropdown(label=f"{name} version", min_width=WIDE) for name in ("One", "Other")]
    blind = gr.Checkbox(label="Blind: which is which is told after the vote", value=True, elem_id="blind")
    box = gr.Textbox(
        "",
        label="Question for both",
        max_lines=8,
        max_length=100_000,
        submit_btn="Ask both",
        elem_id="compared-question",
    )
    with gr.Row():
        answers = [
            gr.Textbox(label=side, lines=6, max_lines=20, interactive=False, min_width=WIDE, elem_id=f"answer-{side}")
            for side in SIDES
        ]
    with gr.Row():
        votes = [gr.Button(text, interactive=False, min_width=100) for text in VOTES]
    told = gr.Markdown(elem_id="told")
    gr.Markdown(HELP)
    pair, tally = gr.State([]), gr.State({})

    async def ask(request: gr.Request, question: str, hidden: bool, *names: str) -> AsyncIterator[tuple[Any, ...]]:
        browser = request.session_hash
        if not question.strip() or (writings := running.begin(browser)) is None:
            yield (gr.skip(),) * 8
            return
        order = list(names)
        if hidden:
            random.shuffle(order)
        labels = SIDES if hidden else [f"{side}: {name}" for side, name in zip(SIDES, order, strict=True)]
        failed = False
        try:
            begun = [gr.Textbox("", label=label) for label in labels]
            yield gr.Textbox(submit_btn=False, stop_btn="Stop"), *begun, *_votes(False), "", []
            loaded = [await app.state.loader.get(name or "assistant") for name in order]
            asked = [Message("user", question)]
            prompts = [await run_in_threadpool(chat_prompt, each, asked) for each in loaded]
            if running.goes_on(browser, writings):
                for each, prompt in zip(loaded, prompts, strict=True):
                    writings.append(_written(each, prompt, settings.request_seconds, network_of(request)))
                async with aclosing(together(loaded, writings)) as texts:
                    async for both in texts:
                        yield gr.skip(), *both, *(gr.skip(),) * 5
        except PROBLEMS as error:
            failed = True
            for writing in writings:
                writing.close()
            warn(error)
        finally:
            running.end(browser, writings)
        done = [] if failed else order
        yield (
            gr.Textbox(submit_btn="Ask both", stop_btn=False),
            gr.skip(),
            gr.skip(),
            *_votes(not failed),
            gr.skip(),
            done,
        )

    def vote(pair: Pair, tally: dict[str, int], choice: str) -> tuple[Any, ...]:
        if not pair:
            return (gr.skip(),) * 7
        names = [f"{side} was {name}." for side, name in zip(SIDES, pair, strict=True)]
        winner = dict(zip(VOTES, pair, strict=False)).get(choice, "no difference")
        tally = tally | {winner: tally.get(winner, 0) + 1}
        counted = ", ".join(f"{name} {count}" for name, count in sorted(tally.items()))
        labels = [gr.Textbox(label=f"{side}: {name}") for side, name in zip(SIDES, pair, strict=True)]
        return *labels, *_votes(False), f"{' '.join(names)} Votes: {counted}.", [], tally

    def opened() -> tuple[Any, ...]:
        """What there is to compare, the champion with the challenger where nobody says otherwise."""
        try:
            found = of_objective(versions, "assistant")
        except PROBLEMS as error:
            return gr.Markdown(sentence(error), visible=True), gr.Dropdown(choices=[]), gr.Dropdown(choices=[])
        choices = [(named_with_aliases(each), str(each.named)) for each in found]
        champion, challenger = aliased(found, CHAMPION), aliased(found, CHALLENGER)
        one = champion or challenger or (found[0] if found else None)
        other = next((each for each in [challenger, *found] if each and each != one), one)
        values = [str(each.named) if each else None for each in (one, other)]
        lines = [] if champion else ["There is no champion of the assistant yet."]
        lines += [] if len(found) > 1 else [f"There {'is one version' if found else 'are no versions'} to compare."]
        said = gr.Markdown(" ".join(lines), visible=bool(lines))
        return said, *(gr.Dropdown(choices=choices, value=value) for value in values)

    outputs = [box, *answers, *votes, told, pair]
    box.submit(ask, [box, blind, *chosen], outputs, **PRIVATE)
    box.stop(running.stop, None, None, **AT_ONCE)
    for button in votes:
        button.click(vote, [pair, tally, button], [*answers, *votes, told, pair, tally], **PRIVATE)
    blocks.load(opened, None, [note, *chosen], **AT_ONCE)


def _votes(open_: bool) -> list[Any]:
    return [gr.Button(interactive=open_) for _ in VOTES]


def _written(loaded: Loaded, prompt: list[int], seconds: float, network: str | None) -> Writing:
    stop = ends(loaded, chat=True)
    return Writing(loaded, [prompt], sampling=GREEDY, stop_tokens=stop, seconds=seconds, network=network)
