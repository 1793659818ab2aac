"""Errors of a request, each with its HTTP status."""

# ruff: noqa: N818, what is so with a request is the better name

from llm.errors import UserError


class RequestError(UserError):
    """A request that can't be answered as it is; `status` is HTTP's, `code` a word for programs."""

    status = 400
    code = "invalid_request"

    def __init__(self, reason: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(reason)
        self.param = param
        """The part of the request that is wrong."""
        self.code = code or self.code


class NotFound(RequestError):
    """A model or a version that is not there."""

    status, code = 404, "model_not_found"


class Busy(RequestError):
    """Too much waits already: try again in `retry_after` seconds."""

    status, code = 429, "busy"

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Gone(RequestError):
    """The client has left, and reads no answer."""

    status, code = 499, "client_left"


class Failed(RequestError):
    """The model failed at this text: a bug, or no memory."""

    status, code = 500, "failed"


class Timeout(RequestError):
    """A request that took longer than it may."""

    status, code = 504, "timeout"


class Unavailable(RequestError):
    """The model can't answer now: it is not loaded yet, or the server is about to end."""

    status, code = 503, "unavailable"
