"""Conversations that survive a reload: the browser stores them, the server does not."""

from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app.page.conversations import KEPT, NEW, Conversation, Conversations, Turn, read_conversations, stored_turns
from app.page.shared import PRIVATE, read_versions
from app.versions import Versions
from llm.objectives import CHAT

STORAGE = "threestage-conversations"
"""The key in the browser's storage. Gradio encrypts the value, but every program on the page can read it."""
STORED = (
    f"<small>This browser keeps your last {KEPT} conversations until you delete them, even if you log out. This server "
    "does not store them.</small>"
)


@dataclass(frozen=True)
class ConversationFields:
    """What the page shows of a conversation besides its turns."""

    storage: gr.BrowserState
    choice: gr.Dropdown
    version: gr.Dropdown
    system: gr.Textbox


QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", **PRIVATE}


def conversation_dropdown() -> gr.Dropdown:
    """The choice of a conversation."""
    return gr.Dropdown([("New conversation", NEW)], value=NEW, label="Conversation", filterable=False)


def conversation_storage() -> gr.BrowserState:
    """Conversations in the browser's storage."""
    return gr.BrowserState(storage_key=STORAGE, secret=STORAGE)


def saved(stored: Any, conversation: Conversation) -> tuple[dict[str, Any], gr.Dropdown]:
    """The storage and the choice, once the page shows a conversation."""
    conversations = read_conversations(stored).save(conversation)
    return conversations.model_dump(), conversations.dropdown()


def history_controls(blocks: gr.Blocks, versions: Versions, chat: gr.ChatInterface, fields: ConversationFields) -> None:
    """Show the conversation that this browser had open, open others, and build the buttons that delete.

    A conversation belongs to one version: opening it chooses that version, and another version begins a new one.
    """
    gr.Markdown(STORED, elem_classes="stored")
    with gr.Row():
        delete = gr.Button("Delete this conversation", size="sm", min_width=140)
        delete_all = gr.Button("Delete all conversations", size="sm", min_width=140)
    storage = fields.storage
    version = fields.version
    turns = [chat.chatbot, chat.chatbot_state, chat.chatbot_value]
    shown = [storage, fields.choice, version, fields.system, *turns]
    show = partial(_show, versions)
    events = list(blocks.fns.values())
    answers = [event.get_config() for event in events if event.types_generator]
    blocks.load(show, inputs=[storage, version], outputs=shown, **QUIET)

    switched = gr.State(False)
    switches = gr.Textbox(visible="hidden")
    switch: dict[str, Any] = {"outputs": [storage, switched, switches], **QUIET}
    fields.choice.input(_choose, inputs=[storage, fields.choice], **switch)
    version.change(_begin, inputs=[storage, version, chat.chatbot], **switch)
    gr.on([delete.click, chat.chatbot.clear], _delete_shown, inputs=storage, **switch)
    delete_all.click(_delete_all, **switch)
    switches.change(show, inputs=[storage, version], outputs=shown, cancels=answers, **QUIET)
    for event in events:
        if event.outputs == [chat.chatbot_state, chat.chatbot_value]:  # a cancelled answer shows its turns until then
            after = Dependency(None, event.get_config(), event._id, event.fn)
            again = partial(_show_switched, versions)
            after.then(again, inputs=[storage, version, switched], outputs=[*shown, switched], **QUIET)

    save: dict[str, Any] = {"inputs": [storage, chat.chatbot, version, fields.system], **QUIET}
    chat.textbox.stop(_save, outputs=[storage, fields.choice], **save)
    chat.chatbot.undo(_save_undone, outputs=[storage, fields.choice], **save)


def _show(versions: Versions, stored: Any, name: str | None) -> list[Any]:
    """What the page shows of the open conversation. A new one is with the version of that name, or the default."""
    conversations = read_conversations(stored)
    conversation = conversations.shown
    values: list[Any]
    if conversation is None:
        values = [read_versions(versions, CHAT, chosen=name), gr.skip(), [], [], []]
    else:
        texts = list(conversation.turns)
        values = [read_versions(versions, CHAT, chosen=conversation.version), conversation.system, texts, texts, texts]
    return [conversations.model_dump(), conversations.dropdown(), *values]


def _show_switched(versions: Versions, stored: Any, name: str | None, switched: Any) -> list[Any]:
    """The same after the end of an answer, if another conversation was opened meanwhile."""
    if not switched:
        return [gr.skip()] * 8
    return [*_show(versions, stored, name), False]


def _switch(conversations: Conversations) -> list[Any]:
    """Store what is open now, and tell the page so."""
    return [conversations.model_dump(), True, token_hex(8)]


def _choose(stored: Any, number: int) -> list[Any]:
    conversations = read_conversations(stored)
    if number == (0 if conversations.shown else NEW):  # a list that loses the focus says its value again
        return [gr.skip()] * 3
    return _switch(conversations.choose(number))


def _begin(stored: Any, name: str | None, turns: list[Turn]) -> list[Any]:
    conversations = read_conversations(stored)
    if not turns or (conversations.shown and conversations.shown.version == name):
        return [gr.skip()] * 3
    return _switch(conversations.choose(NEW))


def _delete_shown(stored: Any) -> list[Any]:
    return _switch(read_conversations(stored).delete())


def _delete_all() -> list[Any]:
    return _switch(Conversations())


def _save(stored: Any, turns: list[Turn], name: str | None, instead: str) -> tuple[Any, gr.Dropdown]:
    return saved(stored, Conversation(version=name, system=instead, turns=stored_turns(turns)))


def _save_undone(
    stored: Any, turns: list[Turn], name: str | None, instead: str, data: gr.UndoData
) -> tuple[Any, gr.Dropdown]:
    number = data.index[0] if isinstance(data.index, list | tuple) else data.index
    return _save(stored, turns[:number], name, instead)
