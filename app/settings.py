"""The server's settings and limits: options of `threestage serve`, or environment variables."""

from pathlib import Path

from pydantic import Field

from llm.config import Config


class Settings(Config):
    """Settings of the server; only `guard` changes an answer."""

    api_keys: tuple[str, ...] = ()
    """A request needs one of these keys; without any, everybody may ask."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of the server besides `localhost` and addresses. With keys, any name is accepted."""
    rows: int = Field(default=32, gt=0)
    """Texts that one version writes at once."""
    queue: int = Field(default=64, ge=0)
    """Requests that may wait for a row of a version, or for its classifier; the next one gets 429."""
    context_length: int = Field(default=2048, gt=0)
    """Tokens of the longest text, prompt included, if the model has more; bounds the memory of a row."""
    request_seconds: float = Field(default=300, gt=0)
    """Time from the first byte of a request to the last byte of its answer."""
    body_bytes: int = Field(default=4_000_000, gt=0)
    """Size of the largest request."""
    poll_seconds: float = Field(default=3, gt=0)
    """Time between two looks at the registry's aliases."""
    upload_bytes: int = Field(default=100_000_000, gt=0)
    """Bytes of files that the page may hold at once, until they are read."""
    guard: bool = True
    """Whether a registered guard reads what users ask, and may answer instead of the assistant."""
    feedback: bool = True
    """Whether the page and the API accept feedback."""
    quarantine: Path = Path("data/feedback")
    """Where feedback waits until a person accepts or drops it."""
    feedback_a_client: int = Field(default=200, gt=0)
    """Rows of feedback that one client, a network or a key, may leave in a day."""
    feedback_rows: int = Field(default=10_000, gt=0)
    """Rows of feedback that may wait."""
    feedback_bytes: int = Field(default=50_000_000, gt=0)
    """Bytes of feedback that may wait."""
