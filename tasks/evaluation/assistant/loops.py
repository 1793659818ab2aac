"""How often answers run in circles."""

from collections.abc import Mapping, Sequence

from llm.objectives.assistant.loops import has_loop


def loop_shares(answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The share of answers with a loop: `loops` and `baseline_loops`, by whose they are: "" or "baseline_".

    Whoever has no answers has no share.
    """
    return {f"{who}loops": sum(map(has_loop, texts)) / len(texts) for who, texts in answers.items() if texts}
