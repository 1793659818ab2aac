"""Which column of a table is which of ours."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from llm.errors import UserError
from tasks.data.problems import RowError

REPEATING = {"label_num"}  # columns that repeat another column as numbers
logger = logging.getLogger(__name__)


def columns_of(
    names: Iterable[str], usual: Mapping[str, Sequence[str]], configured: Mapping[str, str]
) -> dict[str, str]:
    """Map our columns to a table's, by the parameters or else by their usual names, in upper or lower case.

    A table that has all of our names, such as feedback, ignores the parameters. Missing columns are left out. If
    several columns have usual names of the same one, the first counts, and the log says so. Raises RowError if the
    table lacks a column of the parameters, and UserError if the parameters name an unknown column of ours.
    """
    if strangers := configured.keys() - usual.keys():
        raise UserError(f"columns: {min(strangers)!r} is not one of {', '.join(usual)}")
    names = list(names)
    folded = {name.strip().casefold(): name for name in reversed(names)}
    has_our_names = all(ours in folded for ours in usual)
    columns: dict[str, str] = {}
    for ours, usual_names in usual.items():
        matching = [folded[name] for name in usual_names if name in folded]
        if configured.get(ours) in names:
            columns[ours] = configured[ours]
        elif ours in configured and not has_our_names:
            raise RowError(f"columns.{ours}: there is no column {configured[ours]!r}, only {', '.join(names)}")
        elif matching:
            columns[ours] = matching[0]
            if len(matching) > 1 and matching[1].casefold() not in REPEATING:
                _log_choice(ours, tuple(matching))
    return columns


@cache
def _log_choice(ours: str, matching: tuple[str, ...]) -> None:
    """Log the choice, once a process."""
    unused = " or ".join(map(repr, matching[1:]))
    choice = f"the {ours} is taken from the column {matching[0]!r}, not from {unused}"
    logger.warning("%s: `columns` may say otherwise", choice)
