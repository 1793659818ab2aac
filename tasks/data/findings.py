"""What reading and cleaning find: rows that can't be read, and rows that were left out, each with its reason."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from llm.errors import UserError
from llm.files import atomic_file

NAMED = 10  # problems that an error names
KEPT = 1_000  # characters of a dropped row
COLUMNS = ["id", "source", "rule", "reason", "text"]


@dataclass(frozen=True)
class Problem:
    """A file or row that can't be read: the stage stops."""

    where: str
    """The file, and the row if the file has rows: `inbox.csv, row 3`."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class Findings:
    """The problems and dropped rows of one dataset."""

    problems: list[Problem] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)
    """By COLUMNS, in the order of the rules."""

    def add_problem(self, where: object, reason: str) -> None:
        """Add a file or row that can't be read."""
        self.problems.append(Problem(str(where), reason))

    def add_error(self, error: UserError) -> None:
        """Add a file that can't be read on; its error begins with its name."""
        where, _, reason = str(error).partition(": ")
        self.add_problem(where, reason)

    def drop(self, rule: str, row_id: str, reason: str, *, source: str = "", text: str = "") -> None:
        """Add a row that a rule left out."""
        self.dropped.append({"id": row_id, "source": source, "rule": rule, "reason": reason, "text": text[:KEPT]})

    def drop_rows(self, table: pd.DataFrame, rule: str, reasons: pd.Series, text: pd.Series) -> pd.DataFrame:
        """The table without the rows that have a reason, which are added with their `text`."""
        is_dropped = reasons.notna()
        for row_id, source, reason, row_text in zip(
            table.loc[is_dropped, "id"],
            table.loc[is_dropped, "source"],
            reasons[is_dropped],
            text[is_dropped],
            strict=True,
        ):
            self.drop(rule, row_id, reason, source=source, text=row_text)
        return table[~is_dropped]

    def counts(self) -> dict[str, int]:
        """The number of rows that each rule left out, by rule."""
        return dict(sorted(Counter(row["rule"] for row in self.dropped).items()))

    def raise_problems(self) -> None:
        """Raise UserError with a line for each of the first NAMED problems, if there are any."""
        if not self.problems:
            return
        lines = list(map(str, self.problems[:NAMED]))
        if len(self.problems) > NAMED:
            lines.append(f"and {len(self.problems) - NAMED} more problems")
        raise UserError("\n  ".join(lines))

    def write(self, path: Path, mask: Callable[[str], str] = str) -> None:
        """Write the dropped rows as a Parquet file, with their texts masked."""
        table = pd.DataFrame(self.dropped, columns=COLUMNS, dtype=str)
        table["text"] = table["text"].map(mask)
        with atomic_file(path) as file:
            table.to_parquet(file, index=False)
