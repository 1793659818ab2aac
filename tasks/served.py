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
from llm.generate import generate
from llm.sampling import GREEDY, LIVELY, Sampling
from llm.tokenizer import decode, stop_tokens


def _sampling(default: Sampling) -> ParamSchema:
    return ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, 64),
            ParamSpec("temperature", DataType.double, default.temperature),
            ParamSpec("top_k", DataType.long, default.top_k),
            ParamSpec("top_p", DataType.double, default.top_p),
            ParamSpec("min_p", DataType.double, default.min_p),
            ParamSpec("repetition_penalty", DataType.double, default.repetition_penalty),
            ParamSpec("seed", DataType.long, 1),
        ]
    )


SIGNATURES = {
    "foundation": ModelSignature(
        Schema([ColSpec(DataType.string, "prompt")]), Schema([ColSpec(DataType.string, "text")]), _sampling(LIVELY)
    ),
    "classifier": ModelSignature(
        Schema([ColSpec(DataType.string, "subject"), ColSpec(DataType.string, "body")]),
        Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "spam_probability")]),
    ),
    "assistant": ModelSignature(
        Schema([ColSpec(DataType.string, "instruction"), ColSpec(DataType.string, "input", required=False)]),
        Schema([ColSpec(DataType.string, "output")]),
        _sampling(GREEDY),
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
        params = dict(params or {})
        max_new_tokens = params.pop("max_new_tokens", 64)
        match self.kind:
            case "foundation":
                prompts = self.encoding.encode_ordinary_batch(model_input["prompt"].tolist())
                tokens = generate(
                    self.model,
                    prompts,
                    max_new_tokens=max_new_tokens,
                    sampling=Sampling(**(LIVELY.model_dump() | params)),
                    stop_tokens=stop_tokens(self.encoding),
                )
                return pd.DataFrame({"text": [decode(self.encoding, text) for text in tokens]})
            case "classifier":
                subjects, bodies = model_input["subject"].tolist(), model_input["body"].tolist()
                probabilities = spam_probability(self.model, self.encoding, subjects, bodies)
                labels = [LABELS[int(probability >= 0.5)] for probability in probabilities]
                return pd.DataFrame({"label": labels, "spam_probability": probabilities})
            case "assistant":
                columns = model_input.reindex(columns=["instruction", "input"]).astype(object).fillna("")
                rows = list(columns.itertuples(index=False, name=None))
                sampling = Sampling(**params)
                texts = answer_all(self.model, self.encoding, rows, max_new_tokens=max_new_tokens, sampling=sampling)
                return pd.DataFrame({"output": texts})
            case kind:
                raise ValueError(f"config.json: kind {kind!r} is not one of foundation, classifier, assistant")


mlflow.models.set_model(ServedModel())
