"""Prefect events about a model's versions: they trigger the messages of `deploy/automations.yaml`."""

import logging
import os

from mlflow import MlflowClient

from tasks.registry.server import is_server, tracking_uri, without_secret
from tasks.registry.versions import registered_name, run_id_of
from tasks.stages.hashes import PREFIX
from tasks.stages.prefect import prefect_page
from tasks.stages.ui import address

WAITS, DECIDED = f"{PREFIX}.version.waits", f"{PREFIX}.version.decided"

logger = logging.getLogger(__name__)


def _mlflow_pages() -> str:
    """The address of MLflow's pages, on the tracking server or the one that `make ui` starts."""
    uri = tracking_uri()
    return without_secret(uri, uri).rstrip("/") if is_server(uri) else address("mlflow")


def version_page(name: str, version: str) -> str:
    """The address of a version's page in MLflow."""
    return f"{_mlflow_pages()}/#/models/{name}/versions/{version}"


def announce(model: str, version: str, verdict: str) -> None:
    """Emit an event: a version was compared and waits for a decision."""
    name = registered_name(model)
    client = MlflowClient()
    run = client.get_run(run_id_of(client.get_model_version(name, version))).info
    review = f"{_mlflow_pages()}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/review/review.html"
    emit(WAITS, name, version, model=model, number=version, verdict=verdict, review=review)


def _standing_server() -> str:
    """The address of the standing Prefect server; empty if none is configured."""
    from prefect.settings import PREFECT_API_URL

    from tasks.stages.prefect import TEMPORARY

    api = PREFECT_API_URL.value() or ""
    return "" if api == os.environ.get(TEMPORARY) else api


def emit(event: str, name: str, version: str, **details: str) -> None:
    """Send an event to the standing Prefect server, if one is configured.

    It is one request without retries: unlike `prefect.events.emit_event` it leaves no work for the end of the process.
    If it fails, a warning is logged, and the decision stands.
    """
    if not (api := _standing_server()):
        return
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext
    from prefect.events import Event
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from tasks.stages.prefect import ANSWERS_WITHIN

    payload = {"page": version_page(name, version)} | details
    related: list[dict[str, str]] = []
    context = FlowRunContext.get()
    if context and context.flow_run:
        payload["run"] = prefect_page(str(context.flow_run.id))
        run = f"prefect.flow-run.{context.flow_run.id}"
        related = [{"prefect.resource.id": run, "prefect.resource.role": "flow-run"}]
    title = f"{name} version {version}"
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
        warning = f"PREFECT_API_URL={api} did not take the message about {title}: {reason}"
        logger.warning(without_secret(warning, api))
