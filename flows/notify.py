"""Tell people of failures, new challengers and decisions: `python -m flows.notify URL`, once for each place.

Automations of the standing Prefect server do it, so that nothing of ours has to run. It sends through apprise, which
knows Slack, Teams, e-mail, webhooks and a hundred more by their URLs.
"""

import logging
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from getpass import getpass

from apprise import Apprise
from prefect.blocks.abstract import NotificationError
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from llm.errors import UserError
from tasks.registry.events import DECIDED, WAITS
from tasks.stages.command import run_command
from tasks.stages.hashes import PREFIX
from tasks.stages.lock import STATE
from tasks.stages.server import prefect_page, prefect_server

FAILED = ("Failed", "Crashed", "TimedOut")  # what Prefect calls the ends of a run that nobody wanted
WATCHED = ("retrain", "smoke")  # flows; the stages that they run fail with them
ONCE_IN = timedelta(hours=1)  # a run that is said to have crashed by several tells of it once
TAG = f"{PREFIX}-notification"
BLOCK = SlackWebhook  # Prefect's block for any URL of apprise's; the general one it can't load again
RUN = "{% if event.payload.run %}\n{{ event.payload.run }}{% endif %}"
LIST, REMOVE = "list", "remove"
MORE = """\
URL says where to, in apprise's form; `-` asks for it, or reads it from a pipe:
  slack://TOKEN_A/TOKEN_B/TOKEN_C or https://hooks.slack.com/services/…
  mailtos://USER:PASSWORD@HOST?to=ADDRESS
  json://HOST:PORT/PATH, jsons:// with TLS: a webhook, also one in your own network
It is a secret: Prefect keeps it, encrypted, and nothing shows it again.

  python -m flows.notify list                      the places, and what they hear of
  python -m flows.notify remove [--name NAME]      tell a place nothing any more

exit codes: 0 done; 1 an error, said in a line; 2 a wrong option
"""


@dataclass(frozen=True)
class Kind:
    """Something that people may want to hear of."""

    what: str
    trigger: EventTrigger
    subject: str
    body: str
    """As Jinja templates over Prefect's `event` and `flow_run`."""


def _kinds() -> dict[str, Kind]:
    page = prefect_page("RUN").replace("RUN", "{{ flow_run.id }}")  # which would quote a template
    flow = {"prefect.resource.role": "flow", "prefect.resource.name": list(WATCHED)}
    return {
        "failure": Kind(
            f"a run of {' or '.join(WATCHED)} that failed or crashed",
            EventTrigger(
                expect={f"prefect.flow-run.{name}" for name in FAILED},
                match_related=flow,
                for_each={"prefect.resource.id"},
                within=ONCE_IN,
            ),
            "{{ flow_run.name }}: {{ flow_run.state.name }}",
            f"{{{{ flow_run.state.message }}}}\n{page}",
        ),
        "challenger": Kind(
            "a version that was compared and waits for a decision",
            EventTrigger(expect={WAITS}),
            "{{ event.resource.name }} waits for a decision",
            "{{ event.payload.verdict }}\n{{ event.payload.page }}" + RUN,
        ),
        "decision": Kind(
            "a version that was approved, rejected or rolled back",
            EventTrigger(expect={DECIDED}),
            "{{ event.resource.name }} {{ event.payload.outcome }}",
            "by {{ event.payload.by }}: {{ event.payload.reason }}\n{{ event.payload.page }}" + RUN,
        ),
    }


def _service(url: str) -> str:
    """What apprise calls the service of a URL. Raises UserError, which does not repeat it, for one that is none."""
    logging.getLogger("apprise").propagate = False  # it would say the URL
    found = Apprise.instantiate(url)
    if found is None:
        known = "slack://…, mailtos://…, json://HOST:PORT/PATH, or others that `apprise --details` lists"
        raise UserError(f"this URL is none that apprise can send to; it takes {known}")
    return str(found.service_name)


def _check(block: SlackWebhook, service: str, what: str) -> None:
    """Say to the place itself what it will hear of. Raises UserError where that doesn't arrive."""
    with block.raise_on_failure():
        try:
            block.notify(f"From now on you hear here of {what}.", subject=f"{PREFIX.title()} notifications")
        except NotificationError as error:
            reason = (error.log.strip().splitlines() or ["no reason given"])[-1]
            way_out = "nothing was set up; --unchecked does it where only the Prefect server reaches the place"
            raise UserError(f"{service} did not take a first message ({reason}); {way_out}") from None


def _automations(client: SyncPrefectClient) -> list[Automation]:
    return [each for each in client.read_automations(limit=200) if TAG in each.tags]


def set_up(url: str, name: str, on: Collection[str], *, unchecked: bool = False) -> str:
    """Have a place hear of some kinds of what happens, whatever it heard of before; what there is to say of it.

    Raises UserError for a URL that is none, and, unless `unchecked`, where a first message does not arrive.
    """
    service, block = _service(url), BLOCK(url=url)
    chosen = {kind: each for kind, each in _kinds().items() if kind in on}
    what = "; ".join(each.what for each in chosen.values())
    if not unchecked:
        _check(block, service, what)
    document = block.save(f"{PREFIX}-{name}", overwrite=True)
    with get_client(sync_client=True) as client:
        before = [each for each in _automations(client) if name in each.tags]
        for kind, each in chosen.items():
            automation = AutomationCore(
                name=f"{PREFIX}: {kind} to {name}",
                description=f"By {service}: {each.what}.",
                tags=[TAG, name],
                trigger=each.trigger,
                actions=[SendNotification(block_document_id=document, subject=each.subject, body=each.body)],
            )
            client.create_automation(automation)
        for each in before:
            client.delete_automation(each.id)
    return f"{name}: {service} hears of {what}"


def listed() -> str:
    """Who hears of what, a line each."""
    with get_client(sync_client=True) as client:
        found = sorted(_automations(client), key=lambda each: each.name)
    lines = [f"{each.name}{'' if each.enabled else ' (paused)'}. {each.description}" for each in found]
    return "\n".join(lines) or "nobody is told anything: `python -m flows.notify URL`"


def remove(name: str) -> str:
    """Have a place hear nothing any more. Raises UserError where there is none of that name."""
    with get_client(sync_client=True) as client:
        found = [each for each in _automations(client) if name in each.tags]
        for each in found:
            client.delete_automation(each.id)
        try:
            slug = BLOCK.get_block_type_slug()
            block = client.read_block_document_by_name(f"{PREFIX}-{name}", slug, include_secrets=False)
        except ObjectNotFound:
            if not found:
                raise UserError(f"there is no {name}; `python -m flows.notify list` names them") from None
        else:
            client.delete_block_document(block.id)
    return f"{name} hears nothing any more"


def _given(word: str) -> str:
    """The URL that a word names; `-` is one to ask for, which then stands in no history and no list of processes."""
    if word == "-":
        word = getpass("URL: ") if sys.stdin.isatty() else sys.stdin.readline()
    return word.strip()


def _parse() -> Namespace:
    kinds = _kinds()
    parser = ArgumentParser(
        prog="python -m flows.notify",
        description="\n".join(["Tell people of", *(f"  {name}: {each.what}" for name, each in kinds.items())]),
        epilog=MORE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("word", metavar="URL", help=f"where to; or `{LIST}`, or `{REMOVE}`")
    parser.add_argument("--on", nargs="+", choices=kinds, default=list(kinds), metavar="KIND", help="of these; all")
    parser.add_argument("--name", default="team", help="what the place is called, where there are several (team)")
    parser.add_argument("--unchecked", action="store_true", help="send no first message from here")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", options.name):
        parser.error(f"--name: {options.name!r} is not of lower-case letters, digits and single dashes")
    if options.name == TAG:
        parser.error(f"--name: {TAG} stands for all places")
    return options


def main() -> int:
    """Set up, list or remove a place; the exit code."""
    options = _parse()

    def work() -> None:
        if not PREFECT_API_URL.value():
            raise UserError("a standing Prefect server is what tells: set PREFECT_API_URL to it (`make ui` starts one)")
        with prefect_server():
            if options.word == LIST:
                said = listed()
            elif options.word == REMOVE:
                said = remove(options.name)
            else:
                said = set_up(_given(options.word), options.name, options.on, unchecked=options.unchecked)
        sys.stdout.write(f"{said}\n")

    return run_command(work, STATE / "notify" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
