"""Prefect events about a model's versions, for the notifications of `flows/notify.py`."""

import logging
import os

import httpx

from tasks.registry.server import is_server, tracking_uri, without_secret
from tasks.stages.hashes import PREFIX
from tasks.stages.server import prefect_page
from tasks.stages.ui import address

WAITS, DECIDED = f"{PREFIX}.version.waits", f"{PREFIX}.version.decided"

logger = logging.getLogger(__name__)


def version_page(name: str, version: str) -> str:
    """The address of a version's page in MLflow, on the tracking server or the one that `make ui` starts."""
    uri = tracking_uri()
    pages = without_secret(uri, uri).rstrip("/") if is_server(uri) else address("mlflow")
    return f"{pages}/#/models/{name}/versions/{version}"


def emit(event: str, name: str, version: str, **details: str) -> None:
    """Send an event to the standing Prefect server, if one is configured.

    It is one request without retries: unlike `prefect.events.emit_event` it leaves no work for the end of the process.
    If it fails, a warning is logged, and the decision stands.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from tasks.stages.server import ANSWERS_WITHIN, TEMPORARY

    api = PREFECT_API_URL.value()
    if not api or api == os.environ.get(TEMPORARY):
        return
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext
    from prefect.events import Event

    context, title = FlowRunContext.get(), f"{name} version {version}"
    payload, related = {"page": version_page(name, version)} | details, []
    if context and context.flow_run:
        payload["run"] = prefect_page(str(context.flow_run.id))
        run = f"prefect.flow-run.{context.flow_run.id}"
        related = [{"prefect.resource.id": run, "prefect.resource.role": "flow-run"}]
    resource = {"prefect.resource.id": f"{PREFIX}.version.{name}.{version}", "prefect.resource.name": title}
    happened = Event(event=event, resource=resource, related=related, payload=payload)
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": ANSWERS_WITHIN}, sync_client=True) as client,
        ):
            client.request("POST", "/events", json=[happened.model_dump(mode="json")])
    except (httpx.HTTPError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        logger.warning(without_secret(f"PREFECT_API_URL={api} does not hear of {title}: {reason}", api))
