"""The models as the registry keeps and serves them: an MLflow pyfunc from code over a model folder.

MLflow copies this file and `llm` beside the weights, so that a version runs without this project: nothing else of ours
may be imported here.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from llm.assistant import answer_all
from llm.checkpoint import load_model
from llm.classifier import LABELS, spam_probability
from llm.generate import generate_text


def _sampling(temperature: float, top_p: float | None) -> ParamSchema:
    return ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, 64),
            ParamSpec("temperature", DataType.double, temperature),
            ParamSpec("top_k", DataType.long, None),
            ParamSpec("top_p", DataType.double, top_p),
            ParamSpec("seed", DataType.long, 1),
        ]
    )


SIGNATURES = {
    "foundation": ModelSignature(
        Schema([ColSpec(DataType.string, "prompt")]), Schema([ColSpec(DataType.string, "text")]), _sampling(0.8, 0.95)
    ),
    "classifier": ModelSignature(
        Schema([ColSpec(DataType.string, "subject"), ColSpec(DataType.string, "body")]),
        Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "spam_probability")]),
    ),
    "assistant": ModelSignature(
        Schema([ColSpec(DataType.string, "instruction"), ColSpec(DataType.string, "input", required=False)]),
        Schema([ColSpec(DataType.string, "output")]),
        _sampling(0.0, None),
    ),
}

EXAMPLES = {
    "foundation": {"prompt": ["My fellow citizens,"]},
    "classifier": {"subject": ["Meeting on Friday"], "body": ["Shall we say ten o'clock?"]},
    "assistant": {"instruction": ["What is the opposite of this word?"], "input": ["early"]},
}


class ServedModel(PythonModel):
    """A foundation model, a classifier or an assistant: the folder's config.json says which."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights."""
        folder = Path(context.artifacts["model"])
        self.kind = json.loads((folder / "config.json").read_text())["kind"]
        self.model, self.encoding = load_model(folder)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row; SIGNATURES say which columns come in and go out, and which parameters there are."""
        params = params or {}
        match self.kind:
            case "foundation":
                texts = [generate_text(self.model, self.encoding, prompt, **params) for prompt in model_input["prompt"]]
                return pd.DataFrame({"text": texts})
            case "classifier":
                subjects, bodies = model_input["subject"].tolist(), model_input["body"].tolist()
                probabilities = spam_probability(self.model, self.encoding, subjects, bodies)
                labels = [LABELS[int(probability >= 0.5)] for probability in probabilities]
                return pd.DataFrame({"label": labels, "spam_probability": probabilities})
            case "assistant":
                columns = model_input.reindex(columns=["instruction", "input"]).astype(object).fillna("")
                rows = list(columns.itertuples(index=False, name=None))
                return pd.DataFrame({"output": answer_all(self.model, self.encoding, rows, **params)})
            case kind:
                raise ValueError(f"config.json: kind {kind!r} is not one of foundation, classifier, assistant")


mlflow.models.set_model(ServedModel())
