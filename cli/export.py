"""`threestage export`: a model as files that other programs load."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.shared import Verbose, check_store, tracebacks


class Form(StrEnum):
    """A form of export."""

    HF = "hf"
    GGUF = "gguf"


class Precision(StrEnum):
    """A precision of GGUF's matrices."""

    STORED = "stored"
    FLOAT16 = "float16"
    EIGHT_BITS = "8bit"


def export(
    model: Annotated[
        str,
        typer.Argument(help="NAME, NAME@ALIAS or NAME/VERSION in the registry, or a folder such as models/assistant."),
    ],
    folder: Annotated[Path, typer.Argument(help="Where to write, new or empty.")],
    form: Annotated[
        Form, typer.Option("--to", help="hf for transformers, vLLM and others; gguf for llama.cpp, Ollama, LM Studio.")
    ],
    precision: Annotated[
        Precision | None, typer.Option(help="Of the matrices in a GGUF file; by default as they are stored.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write a model for transformers, llama.cpp or Ollama."""
    if precision and form is Form.HF:
        raise typer.BadParameter("only for --to gguf; hf has the matrices as they are stored", param_hint="--precision")
    if not (Path(model) / "config.json").exists():
        check_store()
    with tracebacks(verbose):
        from app.export import export as write

        write(model, form.value, folder, precision=(precision or Precision.STORED).value)
    size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))} ({size / 1e6:.0f} MB)")
