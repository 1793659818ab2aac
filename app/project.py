"""The folder in which commands on the pipeline run."""

from pathlib import Path

from llm.errors import UserError


def in_project() -> None:
    """Raise UserError outside of a project's folder."""
    if not Path("dvc.yaml").exists():
        raise UserError(f"there is no dvc.yaml in {Path.cwd()}: go to the project's folder")
