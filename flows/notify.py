"""Tell people of failures, dead workers, challengers and decisions: `python -m flows.notify URL`, once for each place.

Automations of the standing Prefect server do it, so that nothing of ours has to run. It sends through apprise, which
knows Slack, Teams, e-mail, webhooks and a hundred more by their URLs.
"""

import logging
import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from getpass import getpass

from apprise import Apprise
from prefect.blocks.abstract import NotificationError
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
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
POOL = "local"  # of prefect.yaml
WORKER_GONE = timedelta(minutes=5)  # after Prefect missed three of a worker's heartbeats, which takes about two more
TAG = f"{PREFIX}-notification"
BLOCK = SlackWebhook  # Prefect's block for any URL of apprise's; the general one it can't load again
RUN = "{% if event.payload.run %}\n{{ event.payload.run }}{% endif %}"
LIST, REMOVE = "list", "remove"
MORE = """\
A URL has apprise's form; `-` asks for it, or reads it from a pipe:
  slack://TOKEN_A/TOKEN_B/TOKEN_C or https://hooks.slack.com/services/…
  mailtos://USER:PASSWORD@HOST?to=ADDRESS
  json://HOST:PORT/PATH, jsons:// with TLS: a webhook
It is a secret: Prefect encrypts it, and nothing shows it again.

`list` shows the places and their messages; `remove` removes the place --name.
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
        "worker": Kind(
            f"a work pool {POOL} that no worker has polled for some minutes",
            EventTrigger(
                after={"prefect.work-pool.not-ready"},
                expect={"prefect.work-pool.ready"},
                match={"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": POOL},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                within=WORKER_GONE,
            ),
            f"No worker polls the work pool {POOL}",
            f"Runs that are due wait for one: `prefect worker start --pool {POOL}` on the training machine.",
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


def _reach(url: str, what: str) -> tuple[str, SlackWebhook]:
    """The service of a URL, and Prefect's block for it, which has sent a first message.

    Raises UserError, which does not repeat the URL, where that is none or where the message does not arrive.
    """
    logging.getLogger("apprise").propagate = False  # it would log the URL
    found = Apprise.instantiate(url)
    if found is None:
        known = "slack://…, mailtos://…, json://HOST:PORT/PATH, or others that `apprise --details` lists"
        raise UserError(f"apprise knows no such URL; it takes {known}")
    service, block = str(found.service_name), BLOCK(url=url)
    with block.raise_on_failure():
        try:
            block.notify(f"From now on messages come here about {what}.", subject=f"{PREFIX.title()} notifications")
        except NotificationError as error:
            reason = (error.log.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{service} did not take a first message ({reason}); nothing was set up") from None
    return service, block


def _automations(client: SyncPrefectClient, name: str = TAG) -> list[Automation]:
    return [each for each in client.read_automations(limit=200) if {TAG, name} <= {*each.tags}]


def set_up(url: str, name: str, on: Collection[str]) -> str:
    """Send a place messages of these kinds, and no others any more. Raises UserError where it can't be reached."""
    chosen = {kind: each for kind, each in _kinds().items() if kind in on}
    what = "; ".join(each.what for each in chosen.values())
    service, block = _reach(url, what)
    document = block.save(f"{PREFIX}-{name}", overwrite=True)
    with get_client(sync_client=True) as client:
        before = _automations(client, name)
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
    return f"{name}: {service} gets messages about {what}"


def listed() -> str:
    """The places and their messages, a line each."""
    with get_client(sync_client=True) as client:
        found = sorted(_automations(client), key=lambda each: each.name)
    lines = [f"{each.name}{'' if each.enabled else ' (paused)'}. {each.description}" for each in found]
    return "\n".join(lines) or "nobody gets messages: `python -m flows.notify URL`"


def remove(name: str) -> str:
    """Send a place nothing any more. Raises UserError where there is none of that name."""
    with get_client(sync_client=True) as client:
        found = _automations(client, name)
        for each in found:
            client.delete_automation(each.id)
        with suppress(ObjectNotFound):
            slug = BLOCK.get_block_type_slug()
            block = client.read_block_document_by_name(f"{PREFIX}-{name}", slug, include_secrets=False)
            client.delete_block_document(block.id)
    if not found:
        raise UserError(f"there is no {name}; `python -m flows.notify list` names them")
    return f"{name} gets no messages any more"


def _parse() -> Namespace:
    kinds = _kinds()
    parser = ArgumentParser(
        prog="python -m flows.notify",
        description="\n".join(["Send messages about", *(f"  {name}: {each.what}" for name, each in kinds.items())]),
        epilog=MORE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("word", metavar="URL", help=f"where to; or `{LIST}`, or `{REMOVE}`")
    parser.add_argument("--on", nargs="+", choices=kinds, default=list(kinds), metavar="KIND", help="of these; all")
    parser.add_argument("--name", default="team", help="of the place, where there are several (team)")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()
    if options.name == TAG or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", options.name):
        parser.error(f"--name: {options.name!r} is not of lower-case letters, digits and single dashes")
    return options


def main() -> int:
    """Set up, list or remove a place; the exit code."""
    options = _parse()

    def work() -> None:
        if not PREFECT_API_URL.value():
            raise UserError("a standing Prefect server sends the messages: set PREFECT_API_URL (`make ui` starts one)")
        with prefect_server():
            if options.word == LIST:
                done = listed()
            elif options.word == REMOVE:
                done = remove(options.name)
            else:
                asked = options.word == "-"  # so that the URL stands in no history and no list of processes
                url = (getpass("URL: ") if sys.stdin.isatty() else sys.stdin.readline()) if asked else options.word
                done = set_up(url.strip(), options.name, options.on)
        sys.stdout.write(f"{done}\n")

    return run_command(work, STATE / "notify" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
