"""Models in Python: `load("assistant").chat("What is a noun?")`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from app.export import find_model
from llm.chat import Chat, Message, prompt_tokens, turn_ends
from llm.errors import UserError
from llm.formats.huggingface import load_pretrained
from llm.formats.model_folder import read_config
from llm.formats.tokenizer_files import read_chat_template
from llm.generation.packed import pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import GREEDY, LIVELY
from llm.generation.text import request_maker, write_all
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives import load_for_inference, objective_package


@dataclass(frozen=True)
class Model:
    """A model that answers. What it can't do raises UserError: a classifier writes no text, and so on."""

    name: str
    loaded: LoadedModel[nn.Module]
    chat_form: Chat | None = None
    """The form of a conversation; None for a model that holds none."""
    objective: str | None = None
    """The package of llm/objectives that made it; None for weights of others."""
    cleaning: str | None = None
    """The package that cleans the rows of a classifier."""

    def complete(self, prompt: str, **options: float) -> str:
        """Continue a text. Options are `max_new_tokens`, `temperature`, `top_p`, `top_k`, `seed` and so on."""
        request_for = request_maker(self._gpt(), LIVELY, **options)
        (text,) = write_all(self._gpt(), [request_for(self.loaded.encoding.encode_ordinary(prompt))])
        return text

    def chat(self, messages: str | Sequence[Mapping[str, str]], **options: float) -> str:
        """Answer a question, or the last of several messages, each with `role` and `content`."""
        if self.chat_form is None:
            raise UserError(f"{self.name} has no form for a conversation; `complete` continues a text")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        turns = [Message(message["role"], message["content"]) for message in messages]
        request = self._request(turns, self.chat_form, options)
        (text,) = write_all(self._gpt(), [request])
        return text.strip()

    def classify(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The label of a row, such as `{"subject": …, "body": …}` or `{"message": …}`, cleaned as in the training.

        Raises UserError for a row that can't be read.
        """
        if self.objective != "classifier":
            raise UserError(f"{self.name} is no classifier")
        if self.cleaning:
            cleaning = import_module(self.cleaning)
            try:
                row = cleaning.clean_row(row)
            except cleaning.RowError as error:
                raise UserError(str(error)) from None
        (answer,) = import_module(f"llm.objectives.{self.objective}").serve(self.loaded, [row])
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def _gpt(self) -> LoadedModel[GPT]:
        if not isinstance(self.loaded.model, GPT):
            raise UserError(f"{self.name} writes no text")
        return LoadedModel(self.loaded.model, self.loaded.encoding)

    def _request(self, turns: Sequence[Message], chat: Chat, options: Mapping[str, float]) -> Request:
        encoding = self.loaded.encoding
        request = request_maker(self._gpt(), GREEDY, **options)(prompt_tokens(encoding, chat, turns))
        sampling = request.sampling.with_default_penalty(chat.text_penalty)
        return replace(request, stop_tokens=turn_ends(encoding, chat), sampling=sampling)


def load(name: str) -> Model:
    """A registered model by its name (`assistant`, `assistant@challenger`, `assistant/3`), a folder of ours such as
    `models/assistant`, or a folder in Hugging Face's layout or GGUF file of anybody.

    Raises UserError for a name and a path that nothing has.
    """
    path = Path(name)
    if path.suffix == ".gguf" or _is_published(path):
        model, encoding = load_pretrained(path)
        template = read_chat_template(path)
        chat = None if template is None else Chat(template=template)
        return Model(path.name, LoadedModel(pack_for_inference(model), encoding), chat)
    with find_model(name) as exported:
        config = read_config(exported.folder)
        objective_package(exported.folder)  # raises for an unknown one
        chat = config.get("chat")  # published weights may have a template, too
        return Model(
            name=exported.name,
            loaded=load_for_inference(exported.folder),
            chat_form=None if chat is None else Chat.model_validate(chat),
            objective=config["objective"],
            cleaning=config.get("cleaning"),
        )


def _is_published(folder: Path) -> bool:
    """Whether a folder is in Hugging Face's layout: its config.json names no objective."""
    return (folder / "config.json").exists() and '"model_type"' in (folder / "config.json").read_text(encoding="utf-8")
