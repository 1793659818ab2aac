"""The page's mail: is it spam, which words say so, and what a person says to that."""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.classifying import Verdict, in_words, verdicts_of
from app.errors import RequestError
from app.feedback import EmailFeedback, labelled
from app.limits import network_of
from app.metrics import EMAILS
from app.page_parts import AT_ONCE, PRIVATE, PROBLEMS, answering, default, of_objective, sentence, thank, warn
from app.versions import Loaded
from llm.applications.classifier import Classifier
from tasks.data.formats.mails import message_bytes
from tasks.registry.markup import plain

EXPLAINED = 10
"""Words that are shown."""
CONSENT = (
    "If you say what this mail is, this server keeps its subject and body, what you say, the time and a code made from "
    "your network, and a training learns from it once a person has accepted it; else it keeps nothing."
)


class _Labelled(EmailFeedback):
    """The same of a mail from a file, whose bytes say their charset."""

    message: str | bytes | None = None


Checked = dict[str, Any]
"""A mail that was checked: its `row`, the `version` that did, and its `labels`."""


def email_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings = app.state.versions, app.state.settings
    line = gr.Markdown()
    subject = gr.Textbox("", label="Subject", max_lines=1, max_length=10_000, elem_id="subject")
    body = gr.Textbox("", label="Body", lines=6, max_lines=16, max_length=settings.body_bytes // 4, elem_id="body")
    check = gr.Button("Check this mail", variant="primary")
    file = gr.File(label="Or a message as your mail program saves it (.eml)", file_types=[".eml"], height=120)
    with gr.Column(elem_id="verdict"):
        problem = gr.Markdown(visible=False)
        words = gr.Markdown(visible=False, elem_classes="words", elem_id="words")
    checked = gr.State()
    outputs = [problem, words, checked]

    async def verdict(row: dict[str, Any], request: gr.Request) -> tuple[Any, ...]:
        try:
            loaded, found = await _classified(app, row, network_of(request))
        except PROBLEMS as error:
            warn(error)
            return gr.Markdown(sentence(error), visible=True), gr.Markdown(visible=False), None
        return (
            gr.Markdown(visible=False),
            gr.Markdown(_shown(found, loaded), visible=True),
            {"row": row, "version": str(loaded.named), "labels": list(loaded.model.config.labels)},
        )

    async def of_text(subject: str, body: str, request: gr.Request) -> tuple[Any, ...]:
        return await verdict({"subject": subject, "body": body}, request)

    async def of_file(path: str, request: gr.Request) -> tuple[Any, ...]:
        message = message_bytes(Path(path).read_bytes())
        Path(path).unlink()  # the server is to keep no mail that nobody gave it to keep
        return await verdict({"message": message}, request)

    def opened() -> str:
        try:
            return f"Decides: **{answering(of_objective(versions, 'classifier'))[1]}**"
        except PROBLEMS as error:
            return sentence(error)

    gr.on([check.click, subject.submit], of_text, [subject, body], outputs, **PRIVATE)
    file.upload(of_file, file, outputs, **PRIVATE)
    blocks.load(opened, None, line, **AT_ONCE)
    if not settings.feedback:
        return

    async def tell(checked: Checked, label: str, request: gr.Request) -> None:
        try:
            loaded = await app.state.loader.get(checked["version"])
            said = _Labelled(about="email", label=label, **checked["row"])
            row = await labelled(loaded, said, settings.queue, network_of(request))
            await run_in_threadpool(thank, app.state, loaded, row, request)
        except PROBLEMS as error:
            warn(error)

    @gr.render(inputs=checked, triggers=[checked.change], show_progress="hidden", concurrency_limit=None)
    def buttons(checked: Checked | None) -> None:
        if not checked:
            return
        with gr.Row():
            for label, text in zip(checked["labels"], what_it_is(checked["labels"]), strict=True):

                async def told(request: gr.Request, checked: Checked = checked, label: str = label) -> None:
                    await tell(checked, label, request)

                gr.Button(text).click(told, None, None, **PRIVATE)
        gr.Markdown(CONSENT, elem_classes="consent")


def what_it_is(labels: list[str]) -> list[str]:
    """A sentence a label; of two the last is what is looked for, as `threshold` has it."""
    if len(labels) == 2:
        return [f"This is not {labels[1]}", f"This is {labels[1]}"]
    return [f"This is {label}" for label in labels]


async def _classified(app: FastAPI, row: dict[str, Any], network: str | None) -> tuple[Loaded, Verdict]:
    """A mail's verdict with its strongest words. Raises RequestError for one that can't be read, and Busy."""
    loaded = await default(app.state, "classifier")
    if not isinstance(loaded.model, Classifier):
        raise RequestError(f"{loaded.named} is no classifier", "model", "not_a_classifier")
    with loaded.classified_by(app.state.settings.queue, network):
        async with loaded.turn:
            (found,) = await run_in_threadpool(verdicts_of, loaded, [row], EXPLAINED)
            if found.error:  # it may be too long for an explanation, and for nothing else
                (found,) = await run_in_threadpool(verdicts_of, loaded, [row])
    if found.error:
        raise RequestError(found.error)
    EMAILS.labels(loaded.registered_name).inc()
    return loaded, found


def _shown(found: Verdict, loaded: Loaded) -> str:
    """A verdict and the words that moved it, as Markdown in which they are but text."""
    labels = list(found.probabilities or ())
    others = [label for label in labels if label != found.label]
    against = others[0] if len(others) == 1 else f"not {found.label}"
    rows = [
        f"| {plain(each.text)} | {found.label if each.effect > 0 else against} | {abs(each.effect):.2f} |"
        for each in found.moved_by or ()
    ]
    why = in_words(found, loaded.registered_name, loaded.model.config.threshold)
    said = plain(f"{found.label}"[:1].upper() + f"{found.label}"[1:])
    head = ["| Words that moved it most | speak for | by (log-odds) |", "|:--|:--|--:|"]
    return "\n".join([f"## {said}", "", plain(why), "", *(head + rows if rows else ())])
