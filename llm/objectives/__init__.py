"""What is learned: one folder an objective, from the rows that it learns from to the answers that it gives.

A model folder's config.json names its `objective`, which is a package of this folder and has

- `objective(model, …)`: the `Objective` (llm/training/objective.py) that the loop minimises. The metrics of its
  `evaluate` are named `validation_…`, `validation_loss` among them;
- `build(gpt, config)`: a GPT, or a module around it as its `gpt`, from the rest of config.json, where its `describe()`
  wrote it;
- `interface(config)`: the `Interface` of such a model: its columns, its options and what it can do;
- `serve(loaded, rows, **options)`: an answer for each row, or `{"error": reason}` for a row that has none.

Each folder has `loss.py`, `serve.py` and, for a module around the GPT, `model.py`.
"""

from llm.objectives.find import interface_of, load, load_for_inference, objective_package
from llm.objectives.interface import CHAT, CLASSIFY, COMPLETE, GUARD, Interface

__all__ = [
    "CHAT",
    "CLASSIFY",
    "COMPLETE",
    "GUARD",
    "Interface",
    "interface_of",
    "load",
    "load_for_inference",
    "objective_package",
]
