"""Conversations that survive a reload: the browser stores them, the server does not."""

from dataclasses import dataclass
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
    system = fields.system
    turns = [chat.chatbot, chat.chatbot_state, chat.chatbot_value]
    shown = [storage, fields.choice, version, system, *turns]
    switched = gr.State(False)
    switches = gr.Textbox(visible="hidden")
    switching = [storage, switched, switches]
    events = list(blocks.fns.values())
    answers = [event.get_config() for event in events if event.types_generator]
    after_answers = [
        Dependency(None, event.get_config(), event._id, event.fn)
        for event in events
        if event.outputs == [chat.chatbot_state, chat.chatbot_value]
    ]

    def show(stored: Any, name: str | None) -> list[Any]:
        """Values of `shown`. A new conversation is with the version of that name, or the default."""
        conversations = read_conversations(stored)
        conversation = conversations.shown
        if conversation is None:
            values = [read_versions(versions, CHAT, chosen=name), gr.skip(), [], [], []]
        else:
            texts = [list(conversation.turns)] * len(turns)
            values = [read_versions(versions, CHAT, chosen=conversation.version), conversation.system, *texts]
        return [conversations.model_dump(), conversations.dropdown(), *values]

    def switch(conversations: Conversations) -> list[Any]:
        """Values of `switching`."""
        return [conversations.model_dump(), True, token_hex(8)]

    def choose(stored: Any, number: int) -> list[Any]:
        conversations = read_conversations(stored)
        if number == (0 if conversations.shown else NEW):  # a field that loses the focus says its value again
            return [gr.skip()] * len(switching)
        return switch(conversations.choose(number))

    def begin(stored: Any, name: str | None, said: list[Turn]) -> list[Any]:
        conversations = read_conversations(stored)
        if not said or (conversations.shown and conversations.shown.version == name):
            return [gr.skip()] * len(switching)
        return switch(conversations.choose(NEW))

    def delete_shown(stored: Any) -> list[Any]:
        return switch(read_conversations(stored).delete())

    def delete_kept() -> list[Any]:
        return switch(Conversations())

    def show_switched(is_switched: bool, stored: Any, name: str | None) -> list[Any]:
        return [False, *(show(stored, name) if is_switched else [gr.skip()] * len(shown))]

    def save_stopped(stored: Any, said: list[Turn], name: str | None, instead: str) -> tuple[Any, gr.Dropdown]:
        return saved(stored, Conversation(version=name, system=instead, turns=stored_turns(said)))

    def save_undone(
        stored: Any, said: list[Turn], name: str | None, instead: str, data: gr.UndoData
    ) -> tuple[Any, gr.Dropdown]:
        number = data.index[0] if isinstance(data.index, list | tuple) else data.index
        return save_stopped(stored, said[:number], name, instead)

    blocks.load(show, inputs=[storage, version], outputs=shown, **QUIET)
    change: dict[str, Any] = {"outputs": switching, **QUIET}
    fields.choice.input(choose, inputs=[storage, fields.choice], **change)
    version.change(begin, inputs=[storage, version, chat.chatbot], **change)
    gr.on([delete.click, chat.chatbot.clear], delete_shown, inputs=storage, **change)
    delete_all.click(delete_kept, **change)
    switches.change(show, inputs=[storage, version], outputs=shown, cancels=answers, **QUIET)
    for event in after_answers:  # a cancelled answer shows its turns until then
        event.then(show_switched, inputs=[switched, storage, version], outputs=[switched, *shown], **QUIET)
    save: dict[str, Any] = {"inputs": [storage, chat.chatbot, version, system], "outputs": [storage, fields.choice]}
    chat.textbox.stop(save_stopped, **save, **QUIET)
    chat.chatbot.undo(save_undone, **save, **QUIET)
