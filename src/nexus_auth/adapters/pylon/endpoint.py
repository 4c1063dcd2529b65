"""Where Pylon is: its base URL."""

from __future__ import annotations

from urllib.parse import urlsplit


def parse_endpoint(text: str) -> str:
    """Reads a base URL, such as `http://pylon:8000`; white space around it and a slash go.

    Raises:
        ValueError: When it is none, or has a query, a fragment or credentials in it, which would
            show in messages. The text is not repeated.
    """
    problem = "expected a base URL such as http://pylon:8000"
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        raise ValueError(problem) from None
    if not usable or parts.query or parts.fragment:
        raise ValueError(problem)
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong into the URL; use the token settings")
    return text.strip().rstrip("/")
