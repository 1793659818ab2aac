"""deploy/Dockerfile as its instructions."""

import shlex

from projects import ROOT


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    instructions: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        word, _, arguments = line.strip().partition(" ")
        if word == "FROM":
            stage = arguments.split(" AS ")[1]
            instructions[stage] = []
        if word and word[0] != "#":
            instructions.setdefault(stage, []).append((word, arguments))
    return instructions


STAGES = stages()


def of(stage: str, word: str) -> list[str]:
    """The arguments of a stage's instructions of one kind."""
    return [arguments for instruction, arguments in STAGES[stage] if instruction == word]


def without_options(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("--")]


def copied(stage: str) -> list[list[str]]:
    """The words of the instructions that copy files of the project into a stage."""
    copies = [shlex.split(arguments) for arguments in of(stage, "COPY") if not arguments.startswith("--from=")]
    return [without_options(words) for words in copies]
