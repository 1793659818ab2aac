"""Identify clients: their network, their key, and the host in a URL."""

import hmac
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit


def network_of(request: Any) -> str | None:
    """The network that a request comes from: an IPv4 /24 or an IPv6 /64, as one person may have all of its addresses.

    Anything else is returned as it is.
    """
    host = request.client.host if request.client else None
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return host
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ip_network(f"{address}/{24 if address.version == 4 else 64}", strict=False))


def is_key(given: str, keys: Sequence[str]) -> bool:
    """Whether a client gave one of the keys. The time does not depend on which."""
    right = [hmac.compare_digest(given.strip().encode(errors="replace"), each.encode()) for each in keys]
    return any(right)


def host_of(url: str) -> str:
    """The host in a URL, or in a host with or without a port, in small letters; empty if there is none."""
    try:
        return (urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""
