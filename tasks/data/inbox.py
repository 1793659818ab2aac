"""Where people leave files: a dataset's inbox, and which files below a folder are data."""

from pathlib import Path

from llm.files import write_atomic

INBOX = Path("data/inbox")
FEEDBACK = "feedback.jsonl"  # its file with accepted feedback
IN_INBOX = "inbox/"  # prefix of the id and source of its rows
IGNORED = "*\n!.gitignore\n!*.dvc\n"  # git keeps the folder and DVC's pointers to its contents


def open_inbox(dataset: str) -> Path:
    """The folder for accepted feedback and people's own rows of a dataset; it is created if it is missing."""
    folder = INBOX / dataset
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", IGNORED)
    return folder


def files_below(folder: Path, glob: str = "**/*") -> list[Path]:
    """The files below a folder that match a glob, sorted: without hidden ones, those in hidden folders, and DVC's
    pointers. Links to folders are not followed."""
    return [path for path in sorted(folder.glob(glob)) if path.is_file() and _is_data(path.relative_to(folder))]


def _is_data(path: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.parts)
    return not is_hidden and path.suffix != ".dvc"
