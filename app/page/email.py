"""The tab Email: is a mail spam, which words say so, and what is it really?"""

from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.api.classify import Verdict, verdicts_of
from app.clients import network_of
from app.errors import RequestError
from app.feedback import EmailFeedback, labelled
from app.mail_files import read_mails
from app.metrics import EMAILS
from app.page.shared import PRIVATE, keep_feedback, shown_errors, version_dropdown
from app.versions import Loaded
from llm.objectives import CLASSIFY
from tasks.registry.markup import plain
from tasks.served import cleaning_module

EXPLAINED = 10
"""Words that are shown."""
CONSENT = (
    "<small>If you click one of these, this server keeps the subject and body above, your answer, the time and a code "
    "made from your network. A training learns from it once a person has accepted it. Otherwise nothing is "
    "stored.</small>"
)
EXAMPLES = [
    ["You have won", "Congratulations! You have been selected for a free prize of $5,000. Click here to claim it now."],
    ["Lunch on Friday", "Hi Ann,\n\nshall we meet at noon at the usual place? I will bring the slides.\n\nTom"],
]
Row = dict[str, Any]


def email_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    settings = app.state.settings
    version = version_dropdown(blocks, app.state.versions, CLASSIFY)
    subject = gr.Textbox("", label="Subject", max_lines=1, max_length=10_000, elem_id="subject")
    body = gr.Textbox("", label="Body", lines=5, max_lines=16, max_length=settings.body_bytes // 4, elem_id="body")
    gr.Examples(EXAMPLES, [subject, body], label="Examples", example_labels=[title for title, _ in EXAMPLES])
    with gr.Row():
        check = gr.Button("Check this mail", variant="primary")
        file = gr.UploadButton("Check a file (.eml)", file_types=[".eml"])
    result = gr.Markdown(elem_id="verdict", min_height=40)

    async def of_text(name: str | None, subject: str, body: str, request: gr.Request) -> str:
        with shown_errors():
            return _explained(*await _classified(app, name, {"subject": subject, "body": body}, request))

    async def of_file(name: str | None, path: str, request: gr.Request) -> tuple[str, str, str]:
        """The verdict on the mail of a file, and the subject and body that the classifier read."""
        try:
            mails = await run_in_threadpool(lambda: [row for _, row in islice(read_mails([path]), 2)])
        finally:
            Path(path).unlink()  # the server keeps no mail without consent
        with shown_errors():
            if len(mails) > 1:
                raise RequestError("the file has several mails; `threestage classify` checks them all")
            loaded, found = await _classified(app, name, mails[0], request)
            shown, cleaning = _explained(loaded, found), cleaning_module(loaded.folder)
            if cleaning:
                mails = await run_in_threadpool(loaded.cleaner, cleaning.clean_row, mails)
            return shown, mails[0].get("subject", ""), mails[0].get("body", "")

    gr.on([check.click, subject.submit], of_text, [version, subject, body], result, **PRIVATE)
    file.upload(of_file, [version, file], [result, subject, body], **PRIVATE)
    if settings.feedback:
        _feedback(app, version, subject, body)


def _feedback(app: FastAPI, version: gr.Dropdown, subject: gr.Textbox, body: gr.Textbox) -> None:
    """A button for each label of the version."""

    async def labels_of(name: str | None) -> gr.Dataset:
        with shown_errors():
            loaded = await app.state.loader.get(name, CLASSIFY)
        return gr.Dataset(samples=[[_in_words(loaded, label)] for label in loaded.model.config.labels])

    async def correct(name: str | None, subject: str, body: str, place: int, request: gr.Request) -> None:
        with shown_errors():
            loaded = await app.state.loader.get(name, CLASSIFY)
            label = loaded.model.config.labels[place]
            given = EmailFeedback(about="email", label=label, subject=subject, body=body)
            row = await labelled(loaded, given, app.state.settings.queue, network_of(request))
            await run_in_threadpool(keep_feedback, app.state, loaded, row, request)

    labels = gr.Dataset(
        components=[gr.Textbox(visible=False)], samples=[], label="What is this mail really?", type="index"
    )
    gr.Markdown(CONSENT, elem_classes="consent")
    version.change(labels_of, version, labels, show_progress="hidden", **PRIVATE)
    labels.click(correct, [version, subject, body, labels], None, **PRIVATE)


async def _classified(app: FastAPI, name: str | None, mail: Row, request: gr.Request) -> tuple[Loaded, Verdict]:
    """The version and its explained verdict. Raises RequestError for an unreadable mail, and Busy."""
    loaded = await app.state.loader.get(name, CLASSIFY)
    if "error" in mail:
        raise RequestError(mail["error"])
    with loaded.classified_by(app.state.settings.queue, network_of(request)):
        async with loaded.turn:
            (found,) = await run_in_threadpool(verdicts_of, loaded, [mail], EXPLAINED)
            if found.error:  # it may only be too long for an explanation
                (found,) = await run_in_threadpool(verdicts_of, loaded, [mail])
    if found.error:
        raise RequestError(found.error)
    EMAILS.labels(loaded.registered_name).inc()
    return loaded, found


def _in_words(loaded: Loaded, label: str) -> str:
    """A label for people. Of two labels, the classifier looks for the second, and the first is its opposite."""
    labels = loaded.model.config.labels
    name = f"not {labels[1]}" if len(labels) == 2 and label == labels[0] else label
    return f"{name[:1].upper()}{name[1:]}"


def _explained(loaded: Loaded, found: Verdict) -> str:
    """A verdict, its probability and the words that moved it, as Markdown."""
    why = probability_in_words(found, loaded.registered_name, loaded.model.config.threshold)
    parts = [f"## {plain(_in_words(loaded, found.label))}", plain(why)]
    for label in loaded.model.config.labels[::-1]:
        if some := [f"**{plain(each.text)}**" for each in found.moved_by or () if each.label == label]:
            parts.append(f"Looks like {plain(label)}: {', '.join(some)}")
    return "\n\n".join(parts)


def probability_in_words(found: Verdict, version: str, threshold: float | None) -> str:
    """The probability that decided, and the version's threshold."""
    if threshold is None:
        return f"The probability of {found.label} is {found.probability:.1%}; {version} takes the likeliest label."
    label, probability = list((found.probabilities or {}).items())[-1]
    digits = 1 if f"{probability:.1%}" != f"{threshold:.1%}" else 4
    decides = f"above {threshold:.{digits}%} {version} calls a mail {label}"
    return f"The probability of {label} is {probability:.{digits}%}; {decides}."
