"""The command line `threestage`.

Exit codes: 0 all went well; 1 an error, said in a line; 2 a wrong option; 3 some of the mails or questions had no
answer; 130 interrupted, and 143 terminated: what was stopped goes on with the next call.
"""

import codecs
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from app.data import data
from app.feedback_command import feedback
from app.pipeline import AS_IT_IS, FLOWS, Json, hand_over, in_project
from llm.errors import UserError

if TYPE_CHECKING:  # libraries are loaded by the commands that need them: --help takes a moment
    from app.mail_files import Place
    from app.versions import Loaded

ERROR, SOME_FAILED, INTERRUPTED = 1, 3, 130
SHOWN = 3
"""Reasons of a stage that `status` names; --json has all."""
EXTRA = ("fastapi", "gradio", "prometheus_client", "uvicorn")


class OneLine(TyperGroup):
    """What the user can mend is one line; Ctrl-C and a reader who has had enough are none."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command; its end is an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            _say(f"error: {error}")
            raise typer.Exit(ERROR) from None
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise
            _say(f"error: {error.name} is not installed; pip install -e '.[app]'")
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in its buffer
            raise typer.Exit from None


cli = typer.Typer(
    cls=OneLine,
    help="Build, try and serve language models made from scratch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done; 1 an error; 2 a wrong option; 3 some mails or questions had no answer; 130 "
    "interrupted, and 143 terminated: what was stopped goes on with the next call.",
)

Model = Annotated[
    str, typer.Option("--model", "-m", help="By name its champion, else its challenger; or NAME@ALIAS, NAME/VERSION.")
]


def main() -> None:
    """The entry point."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    cli()


def _say(line: str) -> None:
    """To a person, whatever becomes of the answers."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.write(f"{line}\n")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"threestage {version('threestage')}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for name, (module, summary) in FLOWS.items():
    cli.command(name, help=summary, context_settings=AS_IT_IS, add_help_option=False)(hand_over(module))
cli.add_typer(data, name="data")
cli.add_typer(feedback, name="feedback")


@cli.command()
def status(as_json: Json = False) -> None:
    """Show stale stages and why, registered versions, interrupted trainings."""
    in_project()
    from tasks.stages.graph import changes
    from tasks.stages.params import check_outline

    try:
        stale, stopped = changes(), []
    except UserError:
        check_outline()  # which says it better than DVC, where it is the reason
        raise
    if any(Path(".threestage/stages").glob("*/*/")):
        from tasks.training.interrupted import interrupted  # which loads torch

        stopped = interrupted()
    if as_json:
        found = {
            "stale": stale,
            "versions": _registered(),
            "interrupted": [{"stage": each.stage, "step": each.step, "folder": str(each.folder)} for each in stopped],
        }
        typer.echo(json.dumps(found))
        return
    typer.echo("stale stages; `threestage run` runs them:" if stale else "no stage is stale")
    width = max(map(len, stale), default=0)
    for name, reasons in stale.items():
        more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        typer.echo(f"  {name:{width}}  {', '.join(reasons[:SHOWN])}{more}")
    for each in stopped:
        typer.echo(f"interrupted: {each}")
    versions = _registered()
    typer.echo("the registry has these versions:" if versions else "the registry is empty")
    for row in versions:
        despite = [f"approved despite {' and '.join(row['despite'])}"] if "despite" in row else []
        known = ", ".join([*row["aliases"], *despite])
        typer.echo(f"  {row['model']}/{row['version']}  {row['created']}  {known}".rstrip())


def _registered() -> list[dict[str, Any]]:
    """All versions, by model and the newest first; without a store none, and none is made."""
    if _missing_store():
        return []
    from datetime import UTC, datetime

    from mlflow import MlflowClient

    from tasks.registry.decide import model_state
    from tasks.registry.tracking import configure_tracking, server_errors
    from tasks.registry.versions import own_models, versions

    found = []
    with server_errors():
        configure_tracking()
        client = MlflowClient()
        for model, registered in own_models(client):
            now = model_state(model)
            for each in versions(client, registered.name):
                created = datetime.fromtimestamp(each.creation_timestamp / 1000, UTC)
                row = {"model": model, "version": str(each.version)}
                row["aliases"] = sorted(name for name, of in registered.aliases.items() if str(of) == str(each.version))
                if despite := now.despite(row["version"]):
                    row["despite"] = list(despite)
                found.append(row | {"created": created.isoformat(" ", "minutes")})
    return found


def _missing_store() -> Path | None:
    """The file of a local store that nobody made yet."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = Path(uri.removeprefix("sqlite:///"))
    return path if uri.startswith("sqlite:///") and not path.exists() else None


def _check_store() -> None:
    if path := _missing_store():
        raise UserError(f"{path.absolute()}: there is no registry; `threestage run` makes it, in the project's folder")


@contextmanager
def _loaded(model: str) -> Iterator["Loaded"]:
    """A version to ask one thing at a time. Raises UserError where there is none."""
    _check_store()
    from app.settings import Settings
    from app.versions import Versions

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    versions = Versions(Settings(rows=1, queue=1))  # one may wait for one that was stopped to leave
    try:
        yield versions.get(model)
    finally:
        with _undisturbed():  # Python must not end under a thread that computes
            versions.close(0)


@contextmanager
def _undisturbed() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cli.command()
def chat(
    question: Annotated[list[str] | None, typer.Argument(help="What to ask; without it, stdin asks.")] = None,
    model: Model = "assistant",
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest words.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 256,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Makes a draw the same each time.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to the assistant.

    On a terminal it remembers the conversation; Ctrl-C stops an answer, an empty line ends. From a pipe each line is a
    question of its own.
    """
    conversation = not question and sys.stdin.isatty()
    with _loaded(model) as loaded:
        from app.errors import RequestError
        from app.terminal_chat import answer, piped_questions, typed_questions
        from llm.chat import Message
        from llm.generation.sampling import Sampling

        if conversation:
            _say(f"{loaded.registered_name}; an empty line ends")
        before, failed = [Message("system", system)] if system else [], False
        messages, sampling = list(before), Sampling(temperature=temperature, seed=seed)
        for asked in [" ".join(question)] if question else typed_questions() if conversation else piped_questions():
            messages = [*(messages if conversation else before), Message("user", asked)]
            try:
                found = answer(
                    loaded, messages, len(before), sampling, max_tokens, show=not as_json, stops=conversation
                )
            except RequestError as error:
                failed, result = True, {"error": str(error)}
                _say(f"error: {error}")
                messages.pop()
            else:
                result = {"answer": found.text, "finish": found.finish}
                messages.append(Message("assistant", found.text))
            if as_json:
                typer.echo(_json({"model": loaded.registered_name, "question": asked, **result}))
    if failed and not conversation:
        raise typer.Exit(SOME_FAILED)


@cli.command()
def classify(
    files: Annotated[
        list[str], typer.Argument(help="Messages, mailboxes (mbox), texts, tables of mails, or - for one on stdin.")
    ],
    model: Model = "classifier",
    explain: Annotated[int, typer.Option(min=0, max=100, help="So many words that moved each decision most.")] = 0,
    as_json: Json = False,
) -> None:
    """Say of each mail what it is, and how probable that is.

    A row of a table (JSON, JSON lines, CSV, Parquet) has `subject` and `body`, or the whole `message`. Of two labels,
    such as ham and spam, the number is the probability of the second. A mail gets that label above a threshold, which
    was chosen on validation and need not be one half: the first line on stderr names it, and so does --json.
    """
    from app.classifying import AT_ONCE, verdicts_of
    from app.mail_files import read_mails
    from llm.objectives.classifier import Classifier

    failed = False
    with _loaded(model) as loaded:
        if not isinstance(loaded.model, Classifier):
            raise UserError(f"{loaded.named} is no classifier; --model names one")
        limit = loaded.model.config.threshold
        threshold = {} if limit is None else {"threshold": limit}
        label = loaded.model.config.labels[-1]
        if threshold and not as_json:
            decides = f"{loaded.registered_name} calls a mail {label} above {limit:.3f}"
            _say(f"the number is the probability of {label}: {decides}")
        mails = read_mails(files)
        while part := list(islice(mails, AT_ONCE)):
            verdicts = iter(verdicts_of(loaded, [row for _, row in part if "error" not in row], explain))
            for place, row in part:
                said = row if "error" in row else next(verdicts).model_dump(exclude_none=True)
                if "error" in said:
                    failed = True
                else:
                    said |= threshold
                _print_verdict(place, said, as_json)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _json(row: dict[str, Any]) -> str:
    """In JSON's own escapes where the output takes no other characters than its own."""
    return json.dumps(row, ensure_ascii=codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8")


def _print_verdict(place: "Place", said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        where = {name: value for name, value in place._asdict().items() if value is not None}
        typer.echo(_json({**where, **said}))
    elif "error" in said:
        _say(f"error: {place}: {said['error']}")
    else:
        *_, of_last = said["probabilities"].values()
        typer.echo(f"{said['label']}\t{of_last if 'threshold' in said else said['probability']:.3f}\t{place}")
        for moved in said.get("moved_by", ()):
            typer.echo(f"\t{moved['effect']:+.2f}\t{moved['text']!r}")


@cli.command()
def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Texts that a version writes at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused with 429.")] = 64,
    client_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of these places that one network may hold; 1 is all.")
    ] = 0.25,
    page: Annotated[bool, typer.Option(help="The web page beside the API.")] = True,
    take_feedback: Annotated[
        bool, typer.Option("--feedback/--no-feedback", help="Keep what people say of answers, in data/feedback/.")
    ] = True,
    api_keys: Annotated[
        str, typer.Option(envvar="THREESTAGE_API_KEYS", show_default=False, help="KEY,KEY; without any, all may ask.")
    ] = "",
    reviewer_keys: Annotated[
        str,
        typer.Option(
            envvar="THREESTAGE_REVIEWER_KEYS",
            show_default=False,
            help="KEY,KEY; with one of them a person may accept feedback on the page.",
        ),
    ] = "",
    allowed_hosts: Annotated[
        str,
        typer.Option(
            envvar="THREESTAGE_ALLOWED_HOSTS",
            show_default=False,
            help="NAME,NAME: what the server is called beside localhost and its addresses.",
        ),
    ] = "",
    log_level: Annotated[Literal["error", "warning", "info", "debug"], typer.Option(help="How much to log.")] = "info",
) -> None:
    """Serve champions: a page, OpenAI's API, /classify, /feedback."""
    _check_store()
    from app.server import serve as run_server
    from app.settings import Settings, host_of

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("app").setLevel(log_level.upper())
    keys, reviewers, names = (
        tuple(filter(None, map(str.strip, text.split(",")))) for text in (api_keys, reviewer_keys, allowed_hosts)
    )
    for name in names:
        if not host_of(name) or "*" in name:
            raise UserError(f"--allowed-hosts: {name!r} is no name of a host, such as model.example")
    bounds = {"rows": rows, "queue": queue, "client_share": client_share}
    known = {"api_keys": keys, "reviewer_keys": reviewers, "allowed_hosts": (*names, host)}
    settings = Settings(**bounds, **known, feedback=take_feedback)
    run_server(settings, host, port, page=page, log_level=log_level)


if __name__ == "__main__":
    main()
