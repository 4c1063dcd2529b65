"""The addresses of the nodes, and the name of their chain, as the settings have them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

MAX_ENDPOINTS: Final = 8
"""Ours: one is tried after another, each with a time limit of its own."""

_GENESIS: Final = re.compile(r"0x[0-9a-f]{64}")


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Reads the addresses of nodes, separated by commas, the preferred one first.

    Raises:
        ValueError: When one is no `http`, `https`, `ws` or `wss` URL, or has a fragment or
            credentials in it, which would show in messages; when one comes twice, or there are
            too many. The text is not repeated.
    """
    endpoints = tuple(_parse_endpoint(each.strip()) for each in text.split(","))
    if len(set(endpoints)) != len(endpoints) or len(endpoints) > MAX_ENDPOINTS:
        raise ValueError(f"expected up to {MAX_ENDPOINTS} different addresses")
    return endpoints


def _parse_endpoint(text: str) -> str:
    problem = "expected wss://node:443 or http://node:9944, several separated by commas"
    try:
        parts = urlsplit(text)
        is_known = parts.scheme in {"http", "https", "ws", "wss"}
        is_usable = is_known and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(problem) from None
    if not is_usable or not text.isprintable() or not set(text).isdisjoint(" #"):
        raise ValueError(problem)
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong into the address of a node")
    # A scheme counts in any case (RFC 3986 §3.1).
    return f"{parts.scheme}{text[len(parts.scheme) :]}"


def node_name(endpoint: str) -> str:
    """A node in a log or a message: by its host and port, since its path may hold a secret."""
    return urlsplit(endpoint).netloc


def parse_genesis(text: str) -> str:
    """Reads the hash of block 0, which names a chain.

    Raises:
        ValueError: When it is none.
    """
    if _GENESIS.fullmatch(text.lower()) is None:
        raise ValueError("expected the hash of block 0: 0x and 64 hexadecimal digits")
    return text.lower()
