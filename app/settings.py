"""What the server may do, and how much at once: options of `threestage serve`, or the environment."""

import hmac
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from llm.config import Config


def host_of(url: str) -> str:
    """The host that a URL, or a host with or without its port, names, in small letters; empty where it names none."""
    try:
        return (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_key(given: str, keys: Sequence[str]) -> bool:
    """Whether a client gave one of the keys. It compares with every key, so that the time says nothing."""
    right = [hmac.compare_digest(given.strip().encode(errors="replace"), each.encode()) for each in keys]
    return any(right)


class Settings(Config):
    """How the server runs; nothing here changes an answer."""

    api_keys: tuple[str, ...] = ()
    """Who asks must name one of them; none lets everybody in."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the server is asked beside `localhost` and addresses. With keys, any name does."""
    rows: int = Field(default=32, gt=0)
    """Texts that one version writes at once."""
    queue: int = Field(default=64, ge=0)
    """Requests that may wait for a row of a version, or for its classifier; the next is refused with 429."""
    client_share: float = Field(default=0.25, gt=0, le=1)
    """Share of these places that one client network may hold: an IPv4 /24 or an IPv6 /64."""
    context_length: int = Field(default=2048, gt=0)
    """Tokens of the longest text, prompt included, where the model has more; bounds the memory of a row."""
    request_seconds: float = Field(default=300, gt=0)
    """Time that a request has from its first byte to its answer's last."""
    body_bytes: int = Field(default=4_000_000, gt=0)
    """Size of the largest request."""
    poll_seconds: float = Field(default=3, gt=0)
    """Time between two looks at the registry's aliases."""
    feedback: bool = True
    """Whether the page and the API take what people say of an answer."""
    quarantine: Path = Path("data/feedback")
    """Where that waits until a person accepts or drops it."""
    feedback_a_client: int = Field(default=200, gt=0)
    """Rows of feedback that one client, a network or a key, may leave in a day."""
    feedback_rows: int = Field(default=10_000, gt=0)
    """Rows of feedback that may wait."""
    feedback_bytes: int = Field(default=50_000_000, gt=0)
    """Bytes that they may have together; those of one client a tenth of that."""
    reviewer_keys: tuple[str, ...] = ()
    """Keys that open the Feedback tab; without any, the page cannot accept or drop rows."""
