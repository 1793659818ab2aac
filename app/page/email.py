"""The tab Email: is a mail spam, which phrases make it look so, and what is it really?"""

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.api.classify import Verdict, verdicts_of
from app.api.feedback import EmailFeedback
from app.errors import RequestError
from app.mail_files import read_mails
from app.metrics import EMAILS
from app.page.shared import PRIVATE, keep_feedback, shown_errors, version_dropdown
from app.versions import LoadedVersion
from llm.objectives import CLASSIFY
from llm.objectives.classifier import UNSURE
from llm.objectives.classifier.explanations import SHOWN
from tasks.registry.markup import plain
from tasks.served import cleaning_module

EXPLAINED = 6
"""Phrases that are shown."""
WORDS = {"ham": "real mail"}
"""Labels that people call otherwise."""
CONSENT = (
    "<small>If you click one of these, this server keeps the subject and body above, your answer, the time and your "
    "network. A training learns from it once a person has accepted it. Otherwise nothing is "
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

    async def of_text(name: str | None, subject: str, body: str) -> str:
        with shown_errors():
            mail = {"subject": subject, "body": body}
            _, verdict = await _classified(app, name, mail)
            return _explained(verdict)

    async def of_file(name: str | None, path: str) -> tuple[str, str, str]:
        """The verdict on the mail of a file, and the subject and body that the classifier read."""
        try:
            mails = await run_in_threadpool(first_mails, path)
        finally:
            Path(path).unlink()  # the server keeps no mail without consent
        with shown_errors():
            if len(mails) > 1:
                raise RequestError("the file has several mails; `threestage classify` checks them all")
            loaded, verdict = await _classified(app, name, mails[0])
            cleaning = cleaning_module(loaded.folder)
            if cleaning:
                mails = await run_in_threadpool(loaded.cleaner, cleaning.clean_row, mails)
            return _explained(verdict), mails[0].get("subject", ""), mails[0].get("body", "")

    gr.on([check.click, subject.submit], of_text, inputs=[version, subject, body], outputs=result, **PRIVATE)
    file.upload(of_file, inputs=[version, file], outputs=[result, subject, body], **PRIVATE)
    if settings.feedback:
        _feedback(app, version, subject=subject, body=body)


def first_mails(path: str) -> list[Row]:
    """The first mails of a file, two at most."""
    return [row for _, row in islice(read_mails([path]), 2)]


def _feedback(app: FastAPI, version: gr.Dropdown, *, subject: gr.Textbox, body: gr.Textbox) -> None:
    """A button for each label of the version."""

    async def labels_of(name: str | None) -> gr.Dataset:
        with shown_errors():
            loaded = await app.state.versions.wait_for(name, CLASSIFY)
        return gr.Dataset(samples=[[_name(label, first=True)] for label in loaded.model.config.labels])

    async def correct(name: str | None, subject: str, body: str, number: int, request: gr.Request) -> None:
        with shown_errors():
            loaded = await app.state.versions.wait_for(name, CLASSIFY)
            label = loaded.model.config.labels[number]
            correction = EmailFeedback(about="email", label=label, subject=subject, body=body, model=name)
            await keep_feedback(app.state, correction, request)

    labels = gr.Dataset(
        components=[gr.Textbox(visible=False)], samples=[], label="What is this mail really?", type="index"
    )
    gr.Markdown(CONSENT, elem_classes="consent")
    version.change(labels_of, inputs=version, outputs=labels, show_progress="hidden", **PRIVATE)
    labels.click(correct, inputs=[version, subject, body, labels], **PRIVATE)


async def _classified(app: FastAPI, name: str | None, mail: Row) -> tuple[LoadedVersion, Verdict]:
    """The version and its explained verdict. Raises RequestError for an unreadable mail, and Busy."""
    loaded = await app.state.versions.wait_for(name, CLASSIFY)
    if "error" in mail:
        raise RequestError(mail["error"])
    with loaded.classified_by(app.state.settings.queue):
        async with loaded.turn:
            (verdict,) = await run_in_threadpool(partial(verdicts_of, loaded, [mail], explained=EXPLAINED))
            if verdict.error:  # it may only be too long for an explanation
                (verdict,) = await run_in_threadpool(verdicts_of, loaded, [mail])
    if verdict.error:
        raise RequestError(verdict.error)
    EMAILS.labels(loaded.registered_name).inc()
    return loaded, verdict


def _explained(verdict: Verdict) -> str:
    """A verdict and the phrases that moved it, as Markdown."""
    parts = list(map(plain, in_words(verdict)))
    parts[0] = f"## {parts[0]}"
    for label in sorted(verdict.probabilities or {}, key=lambda label: label != verdict.leaning):
        phrases = [f"“{plain(phrase.text, SHOWN)}”" for phrase in verdict.moved_by or () if phrase.label == label]
        if phrases:
            parts.append(f"**Looks like {plain(_name(label))}:** {', '.join(phrases)}")
    if verdict.moved_by is None:
        parts.append("This mail is too long to name phrases.")
    elif not verdict.moved_by:
        parts.append("No phrase stands out.")
    return "\n\n".join(parts)


def in_words(verdict: Verdict) -> list[str]:
    """A verdict for people: a heading, and a sentence if its label has less than half of the probability."""
    probabilities = verdict.probabilities or {}
    *_, last = probabilities
    if verdict.label == UNSURE:
        return [f"Not sure ({_percent(probabilities[last])} % {_name(last)}): look at it yourself"]
    heading = f"{_name(verdict.label, first=True)} ({_percent(verdict.probability)} %)"
    if _percent(verdict.probability) >= 50:
        return [heading]
    if len(probabilities) > 2:
        return [heading, "Nothing else is likelier."]
    if verdict.label == last:
        return [heading, f"This version calls a mail {_name(last)} even below 50 %, so that it misses less."]
    return [heading, f"This version calls a mail {_name(last)} only when it is surer, to spare other mail."]


def _percent(probability: float) -> int:
    """Never 0 or 100: no mail is certain."""
    return min(99, max(1, round(100 * probability)))


def _name(label: str, *, first: bool = False) -> str:
    """A label as people call it; `first` in a line it has a capital."""
    name = WORDS.get(label, label)
    return f"{name[:1].upper()}{name[1:]}" if first else name
