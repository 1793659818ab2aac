"""Send messages about failures, dead workers, challengers and decisions: `threestage notify URL`, once an address.

Automations of the standing Prefect server send the messages, so nothing of ours has to run; its page Automations lists,
pauses and deletes them. They send through apprise, which knows Slack, Teams, e-mail, webhooks and a hundred more by
their URLs.
"""

import logging
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from apprise import Apprise
from prefect.blocks.abstract import NotificationError
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from llm.errors import UserError
from tasks.registry.events import DECIDED, WAITS
from tasks.stages.hashes import PREFIX
from tasks.stages.server import prefect_page

FAILED = ("Failed", "Crashed", "TimedOut")  # Prefect's names for the states of a failed run
FINISHED = ("Completed", "Failed", "TimedOut")  # and of one that ended by itself
RETRAIN = "retrain"
WATCHED = (RETRAIN, "smoke")  # flows; they fail when one of their stages does
OVERDUE = timedelta(hours=26)  # a night, and two hours more
ONCE_IN = timedelta(hours=1)  # several processes may report one crashed run: send one message
POOL = "local"  # of prefect.yaml
WORKER_GONE = timedelta(minutes=5)  # Prefect needs about two more to notice three missed heartbeats
TAG = f"{PREFIX}-notification"
BLOCK = SlackWebhook  # Prefect's block for any apprise URL; it can't load the general one again


class Message(NamedTuple):
    """The trigger of a message, and its text: Jinja templates over Prefect's `event` and `flow_run`."""

    trigger: EventTrigger
    subject: str
    body: str


def messages() -> dict[str, Message]:
    """The messages that are sent, by a short name."""
    page = prefect_page("RUN").replace("RUN", "{{ flow_run.id }}")  # not %r: it would quote a template
    run = "{% if event.payload.run %}\n{{ event.payload.run }}{% endif %}"
    failure = EventTrigger(
        expect={f"prefect.flow-run.{name}" for name in FAILED},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(WATCHED)},
        for_each={"prefect.resource.id"},
        within=ONCE_IN,
    )
    worker = EventTrigger(
        after={"prefect.work-pool.not-ready"},
        expect={"prefect.work-pool.ready"},
        match={"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": POOL},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=WORKER_GONE,
    )
    finished = {f"prefect.flow-run.{name}" for name in FINISHED}
    overdue = EventTrigger(
        after=finished,
        expect=finished,
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": RETRAIN},
        posture=Posture.Proactive,
        within=OVERDUE,
    )
    return {
        "failure": Message(
            failure, "{{ flow_run.name }}: {{ flow_run.state.name }}", f"{{{{ flow_run.state.message }}}}\n{page}"
        ),
        "worker": Message(
            worker,
            f"No worker polls the work pool {POOL}",
            f"Runs that are due wait for one: `prefect worker start --pool {POOL}` on the training machine.",
        ),
        "overdue": Message(
            overdue,
            f"A {RETRAIN} is overdue",
            f"None has finished for {OVERDUE / timedelta(hours=1):g} hours. Do the worker and the training machine "
            "run? `threestage overdue` names the last one.",
        ),
        "challenger": Message(
            EventTrigger(expect={WAITS}),
            "{{ event.resource.name }} waits for a decision",
            "{{ event.payload.verdict }}\n{{ event.payload.page }}" + run,
        ),
        "decision": Message(
            EventTrigger(expect={DECIDED}),
            "{{ event.resource.name }} {{ event.payload.outcome }}",
            "by {{ event.payload.by }}: {{ event.payload.reason }}\n{{ event.payload.page }}" + run,
        ),
    }


def set_up(url: str, name: str) -> str:
    """Send all messages to an address from now on.

    Raises UserError, without the URL, if the address can't be reached.
    """
    logging.getLogger("apprise").propagate = False  # it would log the URL
    if (service := Apprise.instantiate(url)) is None:
        forms = "slack://…, mailtos://…, json://HOST:PORT/PATH, or others that `apprise --details` lists"
        raise UserError(f"apprise knows no such URL; it takes {forms}")
    block = BLOCK(url=url)
    with block.raise_on_failure():
        try:
            block.notify("From now on messages come here.", subject=f"{PREFIX.title()} notifications")
        except NotificationError as error:
            reason = (error.log.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(
                f"{service.service_name} did not take a first message ({reason}); nothing was set up"
            ) from None
    document = block.save(f"{PREFIX}-{name}", overwrite=True)
    with get_client(sync_client=True) as client:
        outdated = _automations(client, name)
        for kind, message in messages().items():
            send = SendNotification(block_document_id=document, subject=message.subject, body=message.body)
            title, tags = f"{PREFIX}: {kind} to {name}", [TAG, name]
            client.create_automation(AutomationCore(name=title, tags=tags, trigger=message.trigger, actions=[send]))
        for automation in outdated:
            client.delete_automation(automation.id)
    return f"{name}: {service.service_name} gets messages from now on; Prefect's page Automations lists them"


def remove(name: str) -> str:
    """Stop all messages to an address. Raises UserError if there is none of that name."""
    with get_client(sync_client=True) as client:
        automations = _automations(client, name)
        for automation in automations:
            client.delete_automation(automation.id)
        with suppress(ObjectNotFound):
            slug = BLOCK.get_block_type_slug()
            block = client.read_block_document_by_name(f"{PREFIX}-{name}", slug, include_secrets=False)
            client.delete_block_document(block.id)
    if not automations:
        raise UserError(f"there is no address {name}; Prefect's page Automations lists those that there are")
    return f"{name} gets no messages any more"


def _automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    automations = client.read_automations(limit=200)
    return [automation for automation in automations if {TAG, name} <= set(automation.tags)]
