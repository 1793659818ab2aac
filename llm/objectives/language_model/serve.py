"""Prompts, continued."""

from collections.abc import Mapping, Sequence
from typing import Any

import tiktoken

from llm.errors import UserError
from llm.generation.request import Request
from llm.generation.sampling import LIVELY
from llm.generation.text import generate_text, options, request_maker, write_all
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.interface import COMPLETE, Interface
from llm.objectives.rows import InputRow, OutputRow, answer_each, text_of


def interface(config: Mapping[str, Any]) -> Interface:
    """What programs see of a language model."""
    return Interface(
        inputs={"prompt": str},
        outputs={"text": str},
        example={"prompt": "My fellow citizens,"},
        capabilities=(COMPLETE,),
        options=options(LIVELY),
    )


def serve(loaded: LoadedModel[GPT], rows: Sequence[InputRow], **options: Any) -> list[OutputRow]:
    """Continue the prompt of each row; `interface` lists the options."""
    request_for = request_maker(loaded, LIVELY, **options)

    def prepare(row: InputRow) -> Request:
        return request_for(loaded.encoding.encode_ordinary(text_of(row, "prompt")))

    def answer(requests: list[Request]) -> list[OutputRow]:
        return [{"text": text} for text in write_all(loaded, requests)]

    return answer_each(rows, prepare, answer)


def continuations(loaded: LoadedModel[GPT], prompts: Sequence[str], *, tokens: int, seed: int) -> list[str]:
    """Each prompt with its continuation of at most `tokens`, at temperature 0.8 from the nucleus of 0.95."""
    sampling = LIVELY.model_copy(update={"seed": seed})
    texts = []
    for prompt in prompts:
        room = loaded.model.config.context_length - len(loaded.encoding.encode_ordinary(prompt))
        text = generate_text(loaded, prompt, max_new_tokens=min(tokens, room), sampling=sampling)
        texts.append(prompt + text)
    return texts


def check_prompts(encoding: tiktoken.Encoding, prompts: Sequence[str], context_length: int) -> None:
    """Raises UserError for a prompt without tokens, or with no room for another one."""
    for prompt in prompts:
        length = len(encoding.encode_ordinary(prompt))
        if not 0 < length < context_length:
            raise UserError(f"sample prompt {prompt!r}: {length} tokens, of 1 to {context_length - 1}")
