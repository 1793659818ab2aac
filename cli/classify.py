"""`threestage classify`: is it spam? Mails in files and mailboxes."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.shared import SOME_FAILED, Json, Model, check_store, loaded_version, print_json, to_person

if TYPE_CHECKING:
    from app.mail_files import Place


def classify(
    files: Annotated[list[str], typer.Argument(help="Messages, mailboxes (mbox), texts, or - for one on stdin.")],
    model: Model = None,
    explain: Annotated[int, typer.Option(min=0, max=100, help="So many phrases that moved each decision most.")] = 0,
    as_json: Json = False,
) -> None:
    """Print the label of each mail, and how probable it is.

    Of two labels, such as ham and spam, the number is the probability of the second. A mail gets that label above a
    threshold, which need not be one half; a model with two bounds is `unsure` between them. A line on stderr names
    these numbers, and so does --json.
    """
    check_store()
    if not any(name == "-" or Path(name).is_file() for name in files):  # before a model loads, which takes seconds
        for name in files:
            _print_error(name, "there is no such file", as_json)
        raise typer.Exit(SOME_FAILED)
    from app.api.classify import AT_ONCE, verdicts_of
    from app.mail_files import read_mails
    from llm.objectives import CLASSIFY

    failed = False
    with loaded_version(model, CLASSIFY) as loaded:
        config = loaded.model.config
        bounds = config.model_dump(include={"threshold", "unsure"}, exclude_none=True)
        if bounds and not as_json:
            low, high = config.unsure or (config.threshold, config.threshold)
            decides = f"{loaded.registered_name} calls a mail {config.labels[-1]} above {high:.3f}"
            between = f", and is unsure above {low:.3f}" if config.unsure else ""
            to_person(f"the number is the probability of {config.labels[-1]}: {decides}{between}")
        mails = read_mails(files)
        while part := list(islice(mails, AT_ONCE)):
            verdicts = iter(verdicts_of(loaded, [row for _, row in part if "error" not in row], explained=explain))
            for origin, row in part:
                verdict = row if "error" in row else next(verdicts).model_dump(exclude_none=True)
                if "error" in verdict:
                    failed = True
                else:
                    verdict |= bounds
                _print(origin, verdict, as_json)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _print_error(origin: str, reason: str, as_json: bool) -> None:
    if as_json:
        print_json({"file": origin, "error": reason})
    else:
        to_person(f"error: {origin}: {reason}")


def _print(origin: "Place", verdict: dict[str, Any], as_json: bool) -> None:
    if as_json:
        fields = {name: value for name, value in origin._asdict().items() if value is not None}
        print_json(fields | verdict)
    elif "error" in verdict:
        to_person(f"error: {origin}: {verdict['error']}")
    else:
        probability = verdict["probability"]
        if "threshold" in verdict:  # the last of two labels decides
            probability = list(verdict["probabilities"].values())[-1]
        typer.echo(f"{verdict['label']}\t{probability:.3f}\t{origin}")
        for phrase in verdict.get("moved_by", ()):
            typer.echo(f"\tlike {phrase['label']}\t{phrase['text']!r}")
