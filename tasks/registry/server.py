"""MLflow's store: its address, whether its server answers, and its errors on one line."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import HTTPError, RequestException

from llm.errors import UserError

ANSWERS_WITHIN = 20
"""Seconds for the first answer of a tracking server, which may be busy, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.

MLflow itself tries for minutes."""
REASON_LENGTH = 300
UNAUTHORIZED, FORBIDDEN, TOO_MANY_REQUESTS, SERVER_ERRORS = 401, 403, 429, 500
VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"

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
    """Raise UserError, on one line, if a tracking server refuses, and ServerAwayError if it goes away."""
    try:
        yield
    except (MlflowException, RequestException) as error:  # downloads of artifacts raise the second
        uri = tracking_uri()
        if not is_server(uri):
            raise
        status = _status(error, uri)
        if status in (UNAUTHORIZED, FORBIDDEN):
            raise UserError(_refusal(uri, status)) from error
        if _is_trouble(status):
            reason = f"it went away ({_line(error, uri)}); try again when it answers"
            raise ServerAwayError(f"{shown_address(uri)}: {reason}") from error
        raise UserError(f"{shown_address(uri)}: {_line(error, uri)}") from error


def check_server(uri: str) -> None:
    """Send one request with a short timeout, with the credentials and certificates of MLflow's client.

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
        raise ServerAwayError(f"{shown_address(uri)}: nobody answers ({reason}); start it, or unset it") from None
    assert answer is not None  # MLflow has no annotation, and not all its branches return for Databricks
    if answer.status_code in (UNAUTHORIZED, FORBIDDEN):
        raise UserError(_refusal(uri, answer.status_code))
    if not answer.ok:
        kind = ServerAwayError if _is_trouble(answer.status_code) else UserError
        raise kind(f"{shown_address(uri)}: it answers {answer.status_code} {answer.reason}")


def _status(error: MlflowException | RequestException, uri: str) -> int:
    """The HTTP status behind an error; 0 for an error that is not about the server."""
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    if isinstance(error, RestException):
        return error.get_http_status_code()
    if isinstance(error, RequestException) or isinstance(error.__cause__ or error.__context__, RequestException):
        return SERVER_ERRORS
    if isinstance(error.__cause__, MlflowException):  # such as one that a model may have been deleted
        return _status(error.__cause__, uri)
    status = error.get_http_status_code()
    if _is_trouble(status) and not _is_away(uri):  # MLflow's client also uses it for its own errors
        return 0
    return status


def _is_away(uri: str) -> bool:
    """Whether the server does not answer now."""
    try:
        check_server(uri)
    except ServerAwayError:
        return True
    except UserError:
        return False
    return False


def _is_trouble(status: int) -> bool:
    return status >= SERVER_ERRORS or status == TOO_MANY_REQUESTS


def _refusal(uri: str, status: int) -> str:
    user = get_default_host_creds(uri).username
    if status == FORBIDDEN:
        way_out = "who runs it can allow it; without THREESTAGE_NAMESPACE the names are your own"
        return f"{shown_address(uri)}: it refuses {user or 'you'} this (403); {way_out}"
    way_out = f"one of {VARIABLES} is wrong" if user else f"set {VARIABLES}, or MLFLOW_TRACKING_TOKEN"
    return f"{shown_address(uri)}: it refuses (401); {way_out}"


def _line(error: BaseException, uri: str) -> str:
    return without_secret(" ".join(str(error).split()), uri)[:REASON_LENGTH]
