"""The folder data/inbox/<dataset>/, in which people leave rows: accepted feedback, and files of their own."""

from pathlib import Path

from llm.files import write_atomic

INBOX = Path("data/inbox")
IGNORED = "*\n!.gitignore\n!*.dvc\n"  # git keeps the folder and DVC's pointers to its contents


def open_inbox(dataset: str) -> Path:
    """The inbox of a dataset, which is created if it is missing."""
    folder = INBOX / dataset
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", IGNORED)
    return folder
