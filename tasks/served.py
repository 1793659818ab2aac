"""The models as the registry keeps and serves them: an MLflow pyfunc from code over a model folder.

MLflow copies this file beside the weights, with `llm` and the text cleaning that the model's config.json names, so that
a version runs without this project: nothing else of ours may be imported here.
"""

from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from llm.formats.model_folder import read_config
from llm.objectives import load_for_inference, objective_module, outputs

TYPES = {str: DataType.string, int: DataType.long, float: DataType.double}
ERROR = "error"


def cleaning_module(folder: Path) -> Any:
    """The module that turns what people send into what the model reads; None where it reads what it gets."""
    name = read_config(folder).get("cleaning")
    return import_module(name) if name else None


def _columns(types: dict[str, type | UnionType]) -> Schema:
    """Columns with their types; a type or None is a column that may be left out."""
    kinds = {name: get_args(kind) or (kind,) for name, kind in types.items()}
    return Schema([ColSpec(TYPES[kind[0]], name, required=len(kind) == 1) for name, kind in kinds.items()])


def signature(folder: Path) -> ModelSignature:
    """What a model folder takes and gives. A row that can't be answered has its reason in the column `error`."""
    module, cleaning = objective_module(folder), cleaning_module(folder)
    options = [ParamSpec(name, TYPES[kind], default) for name, (kind, default) in module.OPTIONS.items()]
    answers = {name: kind | None for name, kind in outputs(folder).items()}
    return ModelSignature(
        _columns(cleaning.INPUTS if cleaning else module.INPUTS),
        _columns(answers | {ERROR: str | None}),
        ParamSchema(options) if options else None,
    )


def example(folder: Path) -> pd.DataFrame:
    """A row to try."""
    return pd.DataFrame([objective_module(folder).EXAMPLE])


def _or_none(value: Any) -> Any:
    """None for what stands in a table where there is nothing, such as NaN, which JSON does not know."""
    if isinstance(value, str):
        return value
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


class ServedModel(PythonModel):
    """Any model folder: its config.json says which objective answers, and what cleans a row before."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights."""
        folder = Path(context.artifacts["model"])
        self.module, self.cleaning = objective_module(folder), cleaning_module(folder)
        self.columns = [*outputs(folder), ERROR]
        self.model, self.encoding = load_for_inference(folder)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row by itself: one that can't be answered says why, and leaves the others alone."""
        table = model_input.itertuples(index=False, name=None)  # of one row in half the time of to_dict
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
        found = self.module.serve(self.model, self.encoding, list(clean.values()), **(params or {}))
        for number, answer in zip(clean, found, strict=True):
            answers[number] = answer
        table = [[_or_none(answer.get(name)) for name in self.columns] for answer in answers]
        return pd.DataFrame(table, columns=self.columns, dtype=object)


mlflow.models.set_model(ServedModel())
