"""Models in the registry: an MLflow pyfunc from code over a model folder.

MLflow copies this file next to the weights, with `llm` and the text cleaning that the model's config.json names, so
that a version runs without this project: nothing else of the project may be imported here.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from llm.formats.model_folder import read_config
from llm.objectives import interface_of, load_for_inference, objective_package

TYPES = {str: DataType.string, int: DataType.long, float: DataType.double}
ERROR = "error"


def cleaning_module(folder: Path) -> Any:
    """The package that cleans rows before the model reads them; None if it reads them as they are."""
    name = read_config(folder).get("cleaning")
    return import_module(name) if name else None


def _columns(types: Mapping[str, type | UnionType]) -> Schema:
    """Columns with their types; a column of type `T | None` is optional."""
    columns: list[ColSpec | TensorSpec] = []
    for name, kind in types.items():
        optional_types = get_args(kind)
        column_type: Any = optional_types[0] if optional_types else kind
        columns.append(ColSpec(TYPES[column_type], name, required=not optional_types))
    return Schema(columns)


def signature(folder: Path) -> ModelSignature:
    """The inputs and outputs of a model folder. A row without an answer has the reason in the column `error`."""
    interface = interface_of(folder)
    cleaning = cleaning_module(folder)
    options = [ParamSpec(name, TYPES[kind], default) for name, (kind, default) in interface.options.items()]
    answers = {name: kind | None for name, kind in interface.outputs.items()}
    inputs = _columns(cleaning.INPUTS if cleaning else interface.inputs)
    outputs = _columns(answers | {ERROR: str | None})
    return ModelSignature(inputs, outputs, ParamSchema(options)) if options else ModelSignature(inputs, outputs)


def example(folder: Path) -> pd.DataFrame:
    """A row to try the model with."""
    return pd.DataFrame([interface_of(folder).example])


def _or_none(value: Any) -> Any:
    """None for a missing value such as NaN, which JSON lacks; other values unchanged."""
    if isinstance(value, str):
        return value
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


class ServedModel(PythonModel):
    """Any model folder: its config.json names the objective that answers, and the cleaning of rows."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights."""
        folder = Path(context.artifacts["model"])
        self.objective = objective_package(folder)
        self.cleaning = cleaning_module(folder)
        self.columns = [*interface_of(folder).outputs, ERROR]
        self.loaded = load_for_inference(folder)
        self.model, self.encoding = self.loaded  # a review asks versions of any age for these names

    # pyrefly: ignore[bad-override]  # MLflow annotates no result, which reads as None
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row by itself: if one fails, its `error` says why, and the others are still answered."""
        table = model_input.itertuples(index=False, name=None)  # takes half the time of to_dict for one row
        rows = [dict(zip(model_input.columns, map(_or_none, values), strict=True)) for values in table]
        answers: list[dict[str, Any]] = [{} for _ in rows]
        clean: dict[int, dict[str, Any]] = {}
        for number, row in enumerate(rows):
            if self.cleaning is None:
                clean[number] = row
                continue
            try:
                clean[number] = self.cleaning.clean_row(row)
            except self.cleaning.RowError as error:
                answers[number] = {ERROR: str(error)}
        served = self.objective.serve(self.loaded, list(clean.values()), **(params or {}))
        for number, answer in zip(clean, served, strict=True):
            answers[number] = answer
        return pd.DataFrame([self._values(answer) for answer in answers], columns=self.columns, dtype=object)

    def _values(self, answer: dict[str, Any]) -> list[Any]:
        """The values of an answer in the order of the columns."""
        return [_or_none(answer.get(name)) for name in self.columns]


mlflow.models.set_model(ServedModel())
