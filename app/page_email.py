"""The page's mail: is it spam, which words say so, and what a person says to that."""

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
from app.page_shared import PRIVATE, keep_feedback, shown_errors, version_dropdown
from app.versions import Loaded
from llm.objectives import CLASSIFY
from tasks.registry.markup import plain
from tasks.served import cleaning_module

EXPLAINED = 10
"""Words that are shown."""
MOST_MAILS = 64
"""Mails of a file that are checked."""
CONSENT = (
    "<small>If you click one of these, this server keeps the subject and body above, your answer, the time and a code "
    "made from your network. A training learns from it once a person has accepted it. Otherwise nothing is "
    "stored.</small>"
)
EXAMPLES = [
    ["You have won", "Congratulations! You have been selected for a free prize of $5,000. Click here to claim it now."],
    ["Lunch on Friday", "Hi Ann,\n\nshall we meet at noon at the usual place? I will bring the slides.\n\nTom"],
]
FILE_TYPES = [".eml", ".mbox"]


def email_tab(blocks: gr.Blocks, app: FastAPI) -> None:
    """Build the tab inside the open block."""
    versions, settings = app.state.versions, app.state.settings
    version = version_dropdown(blocks, versions, CLASSIFY)
    subject = gr.Textbox("", label="Subject", max_lines=1, max_length=10_000, elem_id="subject")
    body = gr.Textbox("", label="Body", lines=5, max_lines=16, max_length=settings.body_bytes // 4, elem_id="body")
    gr.Examples(EXAMPLES, [subject, body], label="Examples", example_labels=[title for title, _ in EXAMPLES])
    with gr.Row():
        check = gr.Button("Check this mail", variant="primary")
        file = gr.UploadButton("Check a file (.eml or .mbox)", file_types=FILE_TYPES)
    result = gr.Markdown(elem_id="verdict", min_height=40)

    async def of_text(name: str | None, subject: str, body: str, request: gr.Request) -> str:
        with shown_errors():
            loaded, (found,) = await _classified(app, name, [{"subject": subject, "body": body}], request)
            return _explained(loaded, found)

    async def of_file(name: str | None, path: str, request: gr.Request) -> tuple[str, Any, Any]:
        try:
            mails = await run_in_threadpool(lambda: list(islice(read_mails([path]), MOST_MAILS + 1)))
        finally:
            Path(path).unlink()  # the server is to keep no mail that nobody gave it to keep
        with shown_errors():
            if len(mails) == 1:
                return await of_mail(name, mails[0][1], request)
            rows = [row for _, row in mails[:MOST_MAILS] if "error" not in row]
            loaded, found = await _classified(app, name, rows, request)
        verdicts = iter(found)
        lines = [next(verdicts) if "error" not in row else Verdict(error=row["error"]) for _, row in mails[:MOST_MAILS]]
        more = [f"The file has more mails; these are the first {MOST_MAILS}."] if len(mails) > MOST_MAILS else []
        return "\n".join([*_table(loaded, lines), "", *more]), gr.skip(), gr.skip()

    async def of_mail(name: str | None, row: dict[str, Any], request: gr.Request) -> tuple[str, str, str]:
        """The verdict on one mail of a file, and the subject and body that the classifier read."""
        if "error" in row:
            raise RequestError(row["error"])
        loaded, (found,) = await _classified(app, name, [row], request)
        cleaning = cleaning_module(loaded.folder)
        if cleaning and not found.error:
            (row,) = await run_in_threadpool(loaded.cleaner, cleaning.clean_row, [row])
        return _explained(loaded, found), row.get("subject", ""), row.get("body", "")

    gr.on([check.click, subject.submit], of_text, [version, subject, body], result, **PRIVATE)
    file.upload(of_file, [version, file], [result, subject, body], **PRIVATE)
    if not settings.feedback:
        return

    async def label_buttons(name: str | None) -> gr.Dataset:
        with shown_errors():
            loaded = await app.state.loader.get(name, CLASSIFY)
        return gr.Dataset(samples=[[_in_words(loaded, label)] for label in loaded.model.config.labels])

    async def tell(name: str | None, subject: str, body: str, chosen: list[str], request: gr.Request) -> None:
        with shown_errors():
            loaded = await app.state.loader.get(name, CLASSIFY)
            label = next((each for each in loaded.model.config.labels if _in_words(loaded, each) == chosen[0]), "")
            feedback = EmailFeedback(about="email", label=label, subject=subject, body=body)
            row = await labelled(loaded, feedback, settings.queue, network_of(request))
            await run_in_threadpool(keep_feedback, app.state, loaded, row, request)

    labels = gr.Dataset(components=[gr.Textbox(visible=False)], samples=[], label="What is this mail really?")
    gr.Markdown(CONSENT, elem_classes="consent")
    version.change(label_buttons, version, labels, show_progress="hidden", **PRIVATE)
    labels.click(tell, [version, subject, body, labels], None, **PRIVATE)


async def _classified(
    app: FastAPI, name: str | None, rows: list[dict[str, Any]], request: gr.Request
) -> tuple[Loaded, list[Verdict]]:
    """The verdicts on some mails, explained if it is one. Raises RequestError for a wrong version, and Busy."""
    loaded = await app.state.loader.get(name, CLASSIFY)
    explained = EXPLAINED if len(rows) == 1 else 0
    with loaded.classified_by(app.state.settings.queue, network_of(request)):
        async with loaded.turn:
            found = await run_in_threadpool(verdicts_of, loaded, rows, explained)
            if explained and found[0].error:  # it may be too long for an explanation, and for nothing else
                found = await run_in_threadpool(verdicts_of, loaded, rows)
    EMAILS.labels(loaded.registered_name).inc(len(rows))
    return loaded, found


def _in_words(loaded: Loaded, label: str) -> str:
    """A label for people; of two labels the second is what the classifier looks for, so the first is its opposite."""
    labels = loaded.model.config.labels
    name = f"not {labels[1]}" if len(labels) == 2 and label == labels[0] else label
    return f"{name[:1].upper()}{name[1:]}"


def _explained(loaded: Loaded, found: Verdict) -> str:
    """A verdict, its probability and the words that moved it, as Markdown. Raises RequestError without a verdict."""
    if found.error:
        raise RequestError(found.error)
    why = probability_in_words(found, loaded.registered_name, loaded.model.config.threshold)
    words = {
        f"Words for “{_in_words(loaded, found.label)}”": [each for each in found.moved_by or () if each.effect > 0],
        "Words against it": [each for each in found.moved_by or () if each.effect < 0],
    }
    lines = [
        f"{plain(name)}: " + ", ".join(f"**{plain(each.text)}**" for each in some)
        for name, some in words.items()
        if some
    ]
    return "\n\n".join([f"## {plain(_in_words(loaded, found.label))}", plain(why), *lines])


def probability_in_words(found: Verdict, version: str, threshold: float | None) -> str:
    """The probability that decided, and where the version draws the line."""
    if threshold is None:
        return f"The probability of {found.label} is {found.probability:.1%}; {version} takes the likeliest label."
    label, probability = list((found.probabilities or {}).items())[-1]
    # enough digits that the two numbers do not look equal
    digits = next(many for many in range(1, 16) if many == 15 or f"{probability:.{many}%}" != f"{threshold:.{many}%}")
    decides = f"above {threshold:.{digits}%} {version} calls a mail {label}"
    return f"The probability of {label} is {probability:.{digits}%}; {decides}."


def _table(loaded: Loaded, verdicts: list[Verdict]) -> list[str]:
    """A line for each mail of a file, as a table in Markdown."""
    label = loaded.model.config.labels[-1]
    lines = ["| Mail | Verdict | Probability of " + plain(label) + " |", "|--:|:--|--:|"]
    for number, each in enumerate(verdicts, 1):
        if each.error:
            lines.append(f"| {number} | {plain(each.error)} | |")
        else:
            lines.append(f"| {number} | {plain(_in_words(loaded, each.label))} | {each.probabilities[label]:.1%} |")
    return lines
