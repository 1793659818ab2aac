"""MLflow's store: its address, whether its server answers, and its errors on one line."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from requests import RequestException

from llm.errors import UserError

ANSWERS_WITHIN = 20
"""Seconds for the first answer of a tracking server, which may be busy, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.

MLflow itself tries for minutes."""
REASON_LENGTH = 300
TOO_MANY_REQUESTS, SERVER_ERRORS = 429, 500

P = ParamSpec("P")
T = TypeVar("T")


class ServerAwayError(UserError):
    """The tracking server does not answer now; a retry may work."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def is_server(uri: str) -> bool:
    """Whether an address is a tracking server's, which is shared."""
    return uri.startswith(("http:", "https:"))


def without_secret(text: str, uri: str) -> str:
    """A text without the user and password of a server's address."""
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    return text.replace(f"{secret}@", "") if secret else text


def shown_address(uri: str) -> str:
    """The address for people."""
    return f"MLFLOW_TRACKING_URI={without_secret(uri, uri)}"


def is_missing(error: MlflowException) -> bool:
    """Whether an error of a store means that the name is unknown."""
    return error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def if_there(ask: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
    """The result of `ask` with these arguments; None if the store does not know the name."""
    try:
        return ask(*arguments, **options)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


@contextmanager
def server_errors() -> Generator[None]:
    """Raise UserError, on one line, if a tracking server refuses, and ServerAwayError if a retry may help."""
    try:
        yield
    except (MlflowException, RequestException) as error:  # downloads of artifacts raise the second
        uri = tracking_uri()
        if not is_server(uri):
            raise
        line = without_secret(" ".join(str(error).split()), uri)[:REASON_LENGTH]
        if _may_pass(error):
            raise ServerAwayError(f"{shown_address(uri)}: {line}; try again when it answers") from error
        raise UserError(f"{shown_address(uri)}: {line}") from error


def check_server(uri: str) -> None:
    """Send one request, without retries and with a short timeout. Raises as `server_errors`."""
    path = "/api/2.0/mlflow/experiments/search"
    with server_errors():
        answer = http_request(
            get_default_host_creds(uri),
            path,
            "GET",
            max_retries=0,
            timeout=MLFLOW_HTTP_REQUEST_TIMEOUT.get() if MLFLOW_HTTP_REQUEST_TIMEOUT.is_set() else ANSWERS_WITHIN,
            raise_on_status=False,
            params={"max_results": 1},
        )
        verify_rest_response(answer, path)


def _may_pass(error: MlflowException | RequestException) -> bool:
    """Whether a server is away, fails or has too much to do."""
    if isinstance(error.__cause__, MlflowException):  # such as one that a model may have been deleted
        return _may_pass(error.__cause__)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:
        status = SERVER_ERRORS if error.response is None else error.response.status_code
    return status >= SERVER_ERRORS or status == TOO_MANY_REQUESTS
