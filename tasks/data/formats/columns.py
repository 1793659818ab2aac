"""Which column of a table is which of ours."""

from collections.abc import Iterable, Mapping, Sequence

from llm.errors import UserError
from tasks.data.problems import RowError


def columns_of(
    names: Iterable[str], usual: Mapping[str, Sequence[str]], configured: Mapping[str, str]
) -> dict[str, str]:
    """Map our columns to a table's, by the parameters or else by their usual names, in upper or lower case.

    A table that has all of our names, such as feedback, ignores the parameters. Missing columns are left out. Of
    several usual names the first in the list counts. Raises RowError if the
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
    return columns
