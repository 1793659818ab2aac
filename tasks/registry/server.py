"""MLflow's store by its address: whether a tracking server answers, and what it refuses, said in a line."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import HTTPError, RequestException

from llm.errors import UserError

ANSWERS_WITHIN = 5
"""Seconds that a tracking server has for its first answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT says how many; MLflow
itself tries for minutes."""
REASON_LENGTH = 300
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
"""This status and all above say that the server itself is in trouble."""


T = TypeVar("T")


class ServerAwayError(UserError):
    """A tracking server that does not answer, or not now: later the same may work."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def is_server(uri: str) -> bool:
    """Whether an address is a tracking server's, which others use, too."""
    return uri.startswith(("http:", "https:"))


def place(uri: str) -> str:
    """The address for people."""
    return f"MLFLOW_TRACKING_URI={without_secret(uri, uri)}"


def is_missing(error: MlflowException) -> bool:
    """Whether a store says that it holds nothing of that name; any other error says nothing about that."""
    return error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def if_there(ask: Callable[[], T]) -> T | None:
    """What a store answers; None where it holds nothing of that name."""
    try:
        return ask()
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


@contextmanager
def server_errors() -> Iterator[None]:
    """Say in a line what a tracking server's client raises where the server goes away or refuses."""
    try:
        yield
    except (MlflowException, RequestException) as error:  # the second of artifacts
        if not is_server(tracking_uri()):
            raise
        raise _said(error) from error


def check_server(uri: str) -> None:
    """Ask once, briefly, as MLflow's client does, with its credentials and certificates.

    Raises UserError for a server that refuses, and ServerAwayError for one that does not answer.
    """
    try:
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "GET",
            max_retries=0,
            timeout=MLFLOW_HTTP_REQUEST_TIMEOUT.get() if MLFLOW_HTTP_REQUEST_TIMEOUT.is_set() else ANSWERS_WITHIN,
            raise_on_status=False,
            params={"max_results": 1},
        )
    except MlflowException as error:
        reason = _line(error.__cause__ or error.__context__ or error, uri)
        raise ServerAwayError(f"{place(uri)}: nobody answers ({reason}); start it, or unset it") from None
    if answer.status_code in (401, 403):
        raise UserError(_refused(uri, answer.status_code))
    if not answer.ok:
        kind = ServerAwayError if _is_trouble(answer.status_code) else UserError
        raise kind(f"{place(uri)}: it answers {answer.status_code} {answer.reason}")


def _answers(uri: str) -> bool:
    """Whether a server answers now, if only that it refuses."""
    try:
        check_server(uri)
    except UserError as error:
        return not isinstance(error, ServerAwayError)
    return True


def _said(error: MlflowException | RequestException) -> UserError:
    """What an error of a client means for who asked."""
    uri = tracking_uri()
    match error:
        case HTTPError(response=answer) if answer is not None:
            status = answer.status_code
        case RestException():
            status = error.get_http_status_code()
        case RequestException():
            status = None
        case MlflowException(__cause__=MlflowException() as behind):  # "may have been deleted" for any failure
            return _said(behind)
        case _:
            behind = error.__cause__ or error.__context__
            status = None if isinstance(behind, RequestException) else error.get_http_status_code()
            # MLflow's word for all that it does not know better, such as a file that it could not fetch
            if status is not None and _is_trouble(status) and _answers(uri):
                return UserError(f"{place(uri)}: {_line(error, uri)}")
    if status is None or _is_trouble(status):
        return ServerAwayError(f"{place(uri)}: it went away ({_line(error, uri)}); try again when it answers")
    return UserError(_refused(uri, status) if status in (401, 403) else f"{place(uri)}: {_line(error, uri)}")


def _is_trouble(status: int) -> bool:
    return status >= SERVER_ERRORS or status == TOO_MANY_REQUESTS


def _refused(uri: str, status: int) -> str:
    user = get_default_host_creds(uri).username
    if status == 403:
        asked = "what was asked for" if user is None else f"{user} what was asked for"
        way_out = "who runs it can allow it; without THREESTAGE_NAMESPACE the names are your own"
        return f"{place(uri)}: it refuses {asked} (403); {way_out}"
    variables = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    way_out = f"set {variables}, or MLFLOW_TRACKING_TOKEN" if user is None else f"one of {variables} is wrong"
    return f"{place(uri)}: it refuses (401); {way_out}"


def without_secret(text: str, uri: str) -> str:
    """A text without the user and password that may stand in a server's address."""
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    return text.replace(f"{secret}@", "") if secret else text


def _line(error: BaseException, uri: str) -> str:
    return without_secret(" ".join(str(error).split()), uri)[:REASON_LENGTH]
