"""Send messages about failures, dead workers, challengers and decisions: `threestage notify URL`, once an address.

The messages stand in deploy/automations.yaml. Automations of the standing Prefect server send them, so nothing of ours
has to run; its page Automations lists, pauses and deletes them. They send through apprise, which knows Slack, Teams,
e-mail, webhooks and a hundred more by their URLs.
"""

import logging
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import yaml
from apprise import Apprise
from prefect.blocks.abstract import NotificationError
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from llm.errors import UserError
from tasks.params import validated
from tasks.stages.hashes import PREFIX
from tasks.stages.server import prefect_page

MESSAGES = Path(__file__).parents[1] / "deploy" / "automations.yaml"
PAGES = "PREFECT_PAGES"
"""Stands in that file for the address of Prefect's pages."""
TAG = f"{PREFIX}-notification"
BLOCK = SlackWebhook  # Prefect's block for any apprise URL; it can't load the general one again


def automations(name: str, block: UUID) -> list[AutomationCore]:
    """The automations of the file, for the address in a block. Raises UserError if Prefect does not understand one."""
    pages = prefect_page("ID").removesuffix("/runs/flow-run/ID")
    entries = yaml.safe_load(MESSAGES.read_text().replace(PAGES, pages))["automations"]
    for entry in entries:
        entry["name"] += f" to {name}"
        entry["tags"] = [TAG, name]
        for action in entry["actions"]:
            action["block_document_id"] = block
    return [validated(AutomationCore, entry, key=entry["name"], file=MESSAGES) for entry in entries]


def send_first_message(block: SlackWebhook, service: str) -> None:
    """Raises UserError, without the URL, if the address does not take a message."""
    with block.raise_on_failure():
        try:
            block.notify("From now on messages come here.", subject=f"{PREFIX.title()} notifications")
        except NotificationError as error:
            lines = error.log.strip().splitlines() or ["no reason given"]
            raise UserError(f"{service} did not take a first message ({lines[-1]}); nothing was set up") from None


def set_up(url: str, name: str) -> str:
    """Send all messages to an address from now on.

    Raises UserError, without the URL, if the address can't be reached.
    """
    logging.getLogger("apprise").propagate = False  # it would log the URL
    service = Apprise.instantiate(url)
    if service is None:
        forms = "slack://…, mailtos://…, json://HOST:PORT/PATH, or others that `apprise --details` lists"
        raise UserError(f"apprise knows no such URL; it takes {forms}")
    block = BLOCK(url=url)
    send_first_message(block, str(service.service_name))
    document = block.save(f"{PREFIX}-{name}", overwrite=True)
    with get_client(sync_client=True) as client:
        outdated = existing_automations(client, name)
        for automation in automations(name, document):
            client.create_automation(automation)
        for automation in outdated:
            client.delete_automation(automation.id)
    return f"{name}: {service.service_name} gets messages from now on; Prefect's page Automations lists them"


def remove(name: str) -> str:
    """Stop all messages to an address. Raises UserError if there is none of that name."""
    with get_client(sync_client=True) as client:
        outdated = existing_automations(client, name)
        for automation in outdated:
            client.delete_automation(automation.id)
        with suppress(ObjectNotFound):
            slug = BLOCK.get_block_type_slug()
            block = client.read_block_document_by_name(f"{PREFIX}-{name}", slug, include_secrets=False)
            client.delete_block_document(block.id)
    if not outdated:
        raise UserError(f"there is no address {name}; Prefect's page Automations lists those that there are")
    return f"{name} gets no messages any more"


def existing_automations(client: SyncPrefectClient, name: str) -> list[Automation]:
    """The automations on the server that send to an address."""
    return [entry for entry in client.read_automations(limit=200) if {TAG, name} <= set(entry.tags)]
