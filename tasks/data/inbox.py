"""The folder data/inbox/<dataset>/, in which people leave rows: accepted feedback, and files of their own."""

from pathlib import Path

from llm.files import write_atomic

INBOX = Path("data/inbox")
IN_INBOX = "inbox/"  # prefix of the id and source of its rows
IGNORED = "*\n!.gitignore\n!*.dvc\n"  # git keeps the folder and DVC's pointers to its contents


def open_inbox(dataset: str) -> Path:
    """Create the inbox of a dataset and the folder for the project's own content, if they are missing.

    Returns the inbox.
    """
    own_content = INBOX.parent / dataset
    own_content.mkdir(parents=True, exist_ok=True)
    if not any(own_content.iterdir()):
        write_atomic(own_content / ".gitkeep", "")
    folder = INBOX / dataset
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        write_atomic(folder / ".gitignore", IGNORED)
    return folder
