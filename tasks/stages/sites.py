"""The Host and Origin headers that a server on this machine answers to.

A page of another site can have a browser send requests here. If the page's own name leads to this machine's address
(DNS rebinding), that name is the Host; across sites, the browser sends the page's site as the Origin.
"""

from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit


def host_of(url: str) -> str:
    """The host in a URL, or in a host with or without a port, in small letters; empty if there is none."""
    try:
        return (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_own_name(host: str, names: Collection[str] = ()) -> bool:
    """Whether a Host header is an address, `localhost` or one of `names`: no other site's page has such a name."""
    name = host_of(host)
    if name in names or name.rpartition(".")[2] == "localhost":  # no name server is asked for it
        return True
    with suppress(ValueError):
        return bool(ip_address(name))
    return False


def is_same_site(origin: str, host: str) -> bool:
    """Whether an Origin header is that of the server's own page, at the request's Host."""
    return origin.partition("//")[2].lower() == host.lower()
