"""The page that a retrain leaves in Prefect: its failures, stages, versions, shared results and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.registry.markup import plain, table

LONGEST = 900  # characters of a line


class StageRun(NamedTuple):
    """A stage of a run, as a row of its page."""

    stage: str
    outcome: str
    why: str
    """Why it was stale."""
    seconds: str


@dataclass
class Page:
    """What happened in a run so far."""

    failures: list[str]
    stages: list[StageRun] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """By registered name."""
    shared: list[str] = field(default_factory=list)
    review: str = ""
    """The address of the run that compared."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Of the review, by model."""

    def markdown(self, title: str) -> str:
        """The page, with a section for each part that there is."""
        lines = [f"# {title}"]
        if self.failures:
            lines += section("What failed", bullets(self.failures))
        if self.stages:
            header = ("stage", "what became of it", "why it was stale", "seconds")
            lines += section("Stages", table(header, self.stages, right={3}))
        if self.versions:
            lines += section("In the registry", table(("model", "version"), self.versions.items()))
        if self.shared:
            lines += section("Shared", bullets(self.shared))
        if self.review:
            lines += section("Challenger against champion", self._review())
        return "\n".join(lines) + "\n"

    def _review(self) -> list[str]:
        lines = [f"[The run that compared]({self.review})"]
        for model, outcome in self.outcomes.items():
            first, *details = [plain(line, LONGEST) for line in outcome.splitlines()]
            lines.append(f"- **{plain(model)}**: {first}")
            lines += [f"  - {detail}" for detail in details]
        return lines


def section(heading: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {heading}", "", *lines]


def bullets(texts: Sequence[str]) -> list[str]:
    return [f"- {plain(text, LONGEST)}" for text in texts]
