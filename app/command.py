"""The command line `threestage`.

Exit codes: 0 all went well; 1 an error, said in a line; 2 a wrong option; 3 some of the mails or questions had no
answer; 75 a training was stopped and can go on; 130 interrupted.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm.errors import UserError

if TYPE_CHECKING:
    from app.settings import Settings
    from app.versions import Loaded, Versions

SOME_FAILED = 3

cli = typer.Typer(
    help="Build, try, serve and review language models made from scratch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 an error, 2 a wrong option, 3 some had no answer, 75 stopped and can go on.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model, `assistant@challenger` or `assistant/3`.")]


def main() -> None:
    """The entry point: what the user can mend is one line."""
    try:
        cli()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


@cli.command()
def run(verbose: Annotated[bool, typer.Option(help="Show the traceback of every error.")] = False) -> None:
    """Bring the models, their evaluations and the registry up to date, as `make run` does."""
    _in_project()
    python = sys.executable
    options = ["--verbose"] if verbose else []
    os.execv(python, [python, "-m", "tasks.stages.lifeline", python, "-m", "flows", *options])


def _in_project() -> None:
    if not Path("dvc.yaml").exists():
        raise UserError(f"there is no dvc.yaml in {Path.cwd()}: go to the project's folder")


@cli.command()
def status(as_json: Json = False) -> None:
    """Which stages are stale and why, which versions the registry has, and which trainings were interrupted."""
    _in_project()
    from app.settings import Settings
    from app.versions import Versions
    from tasks.stages.hashes import stale_stages
    from tasks.training.interrupted import interrupted

    stages, versions, stopped = stale_stages(), Versions(Settings()).listed(), interrupted()
    if as_json:
        found = {
            "stale": stages,
            "versions": [
                {"model": each.named.model, "version": each.named.version, "aliases": list(each.aliases)}
                for each in versions
            ],
            "interrupted": [
                {"stage": each.stage, "step": each.step, "folder": str(each.folder)} for each in stopped
            ],
        }
        typer.echo(json.dumps(found))
        return
    console = Console()
    if stages:
        table = Table(title="Stale stages", title_justify="left")
        table.add_column("stage")
        table.add_column("because these changed")
        for name, reasons in stages.items():
            table.add_row(escape(name), escape(", ".join(reasons)))
        console.print(table)
    else:
        console.print("No stage is stale.")
    table = Table(title="Registry", title_justify="left")
    for column in ("model", "version", "aliases", "description"):
        table.add_column(column)
    for each in versions:
        first = each.description.strip().partition("\n")[0]
        table.add_row(each.named.model, each.named.version, ", ".join(each.aliases), escape(first))
    console.print(table if versions else "The registry is empty; `threestage run` fills it.")
    for each in stopped:
        console.print(f"interrupted: {each}", markup=False)


def _versions(**chosen: Any) -> "Versions":
    from app.settings import Settings
    from app.versions import Versions

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return Versions(Settings(**chosen))


@cli.command()
def chat(
    question: Annotated[list[str] | None, typer.Argument(help="What to ask; without it you talk, or stdin asks.")] = None,
    model: Model = "assistant",
    system: Annotated[str | None, typer.Option(help="What the assistant is told before.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest words.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 256,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes a draw the same each time.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to the assistant. From a pipe each line is a question of its own: `threestage chat < questions.txt`."""
    from app.errors import RequestError
    from llm.chat import Message
    from llm.generation.sampling import Sampling

    alone = question is not None or not sys.stdin.isatty()
    questions: Iterator[str] = iter([" ".join(question)]) if question else _asked(alone)
    versions = _versions(rows=1, queue=0)
    loaded = versions.get(model)
    if not alone:
        sys.stderr.write(f"{loaded.registered_name}; an empty line or Ctrl-D ends\n")
    before = [Message("system", system)] if system else []
    talk, failed = list(before), False
    sampling = Sampling(temperature=temperature, seed=seed)
    try:
        for asked in questions:
            talk = [*(before if alone else talk), Message("user", asked)]
            try:
                answer = asyncio.run(_answer(loaded, talk, sampling, max_tokens, show=not as_json))
            except RequestError as error:
                failed = True
                sys.stderr.write(f"error: {error}\n")
                if as_json:
                    typer.echo(json.dumps({"question": asked, "error": str(error)}))
                talk.pop()
                continue
            if as_json:
                typer.echo(json.dumps({"question": asked, "answer": answer}, ensure_ascii=False))
            talk.append(Message("assistant", answer))
    finally:
        versions.close(0)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _asked(alone: bool) -> Iterator[str]:
    """The lines of stdin; of a person until an empty one."""
    if alone:
        yield from filter(None, (line.strip() for line in sys.stdin))
        return
    import readline  # noqa: F401, lines can be edited and had again

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


async def _answer(loaded: "Loaded", talk: list, sampling: Any, max_tokens: int, *, show: bool) -> str:
    from app.writing import Writing, chat_prompt, ends

    prompt, context = chat_prompt(loaded, talk), loaded.engine.context_length
    new = min(max_tokens, max(1, context - len(prompt)))
    writing = Writing(loaded, [prompt], sampling=sampling, stop_tokens=ends(loaded, chat=True), max_new_tokens=new)
    pieces = []
    async for piece in writing:
        pieces.append(piece.text)
        if show:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    if show:
        sys.stdout.write("\n")
    return "".join(pieces).strip()


@cli.command()
def classify(
    files: Annotated[list[str], typer.Argument(help="Mails as files (.eml or plain text), or - for one on stdin.")],
    model: Model = "classifier",
    explain: Annotated[int, typer.Option(min=0, max=100, help="So many words that moved each decision most.")] = 0,
    as_json: Json = False,
) -> None:
    """Say of each mail what it is, and how sure that is. A file that is no whole message is read as a body."""
    from app.classifying import AT_ONCE, verdicts_of

    rows, verdicts = [], []
    for name in files:
        rows.append(_mail(name))
    loaded = _versions().get(model)
    for first in range(0, len(rows), AT_ONCE):
        part = [row for row in rows[first : first + AT_ONCE]]
        found = iter(verdicts_of(loaded, [row for row in part if "error" not in row], explain))
        verdicts += [row if "error" in row else next(found).model_dump(exclude_none=True) for row in part]
    for name, verdict in zip(files, verdicts, strict=True):
        if as_json:
            typer.echo(json.dumps({"file": name, **verdict}, ensure_ascii=False))
        elif "error" in verdict:
            sys.stderr.write(f"error: {name}: {verdict['error']}\n")
        else:
            typer.echo(f"{verdict['label']}\t{verdict['probability']:.3f}\t{name}")
            for moved in verdict.get("moved_by", ()):
                typer.echo(f"\t{moved['effect']:+.2f}\t{moved['text']}")
    if any("error" in verdict for verdict in verdicts):
        raise typer.Exit(SOME_FAILED)


def _mail(name: str) -> dict[str, str]:
    """A file as a row: a message where it begins with headers, else a body."""
    from app.classifying import message_text

    try:
        content = message_text(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except OSError as error:
        return {"error": error.strerror or str(error)}
    first = content.lstrip("\r\n").partition("\n")[0]
    has_headers = ":" in first and " " not in first.partition(":")[0] or first.startswith("From ")
    return {"message": content} if has_headers else {"body": content}


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="The address that others reach; this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Texts that a version writes at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused with 429.")] = 64,
    int8: Annotated[bool, typer.Option(help="Weights of 8 bits: faster for one text, slower for many.")] = False,
    page: Annotated[bool, typer.Option(help="The web page beside the API.")] = True,
    feedback: Annotated[bool, typer.Option(help="Keep what people say of answers in data/inbox/.")] = True,
    api_keys: Annotated[
        str, typer.Option(envvar="THREESTAGE_API_KEYS", help="Keys, with commas between; without any all may ask.", show_default=False)
    ] = "",
    log_level: Annotated[str, typer.Option(help="critical, error, warning, info or debug.")] = "info",
) -> None:
    """Serve the registry's champions: a web page, OpenAI's API below /v1, /classify, /feedback, /metrics."""
    from app.settings import Settings

    keys = tuple(filter(None, (key.strip() for key in api_keys.split(","))))
    settings = Settings(rows=rows, queue=queue, int8=int8, feedback=feedback, api_keys=keys)
    from app.server import serve as run_server

    run_server(settings, host, port, page=page, log_level=log_level)


if __name__ == "__main__":
    main()
