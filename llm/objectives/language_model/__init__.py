"""The language model: predict the next token of unlabelled text, and so continue a prompt."""

from llm.formats.model_folder import build_gpt as build
from llm.objectives.language_model.loss import context_at, objective, text_loss, window_loss
from llm.objectives.language_model.serve import check_prompts, continuations, interface, serve

__all__ = [
    "build",
    "check_prompts",
    "context_at",
    "continuations",
    "interface",
    "objective",
    "serve",
    "text_loss",
    "window_loss",
]
