"""The assistant: a GPT that is spoken to by a chat template, and learns from its own turns alone."""

from llm.objectives.assistant.answers import answer_all
from llm.objectives.assistant.examples import Example, encode_example, encode_examples
from llm.objectives.assistant.loss import objective
from llm.objectives.assistant.model import Assistant, Question, build
from llm.objectives.assistant.packing import pack_sequences, row_width
from llm.objectives.assistant.serve import interface, serve

__all__ = [
    "Assistant",
    "Example",
    "Question",
    "answer_all",
    "build",
    "encode_example",
    "encode_examples",
    "interface",
    "objective",
    "pack_sequences",
    "row_width",
    "serve",
]
