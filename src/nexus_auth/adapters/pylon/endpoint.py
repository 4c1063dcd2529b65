"""Where Pylon is: its base URL."""

from __future__ import annotations

from urllib.parse import urlsplit


def parse_endpoint(text: str) -> str:
    """Reads a base URL, such as `http://pylon:8000`, without white space and slash at its end.

    Raises:
        ValueError: When it is none, or has a query, a fragment or credentials in it, which would
            show in messages. The text is not repeated.
    """
    problem = "expected a base URL such as http://pylon:8000"
    text = text.strip()
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        raise ValueError(problem) from None
    # Searched in the text, because urlsplit drops line breaks, and a ? or # with nothing behind
    # it, which would swallow the path.
    if not usable or not text.isprintable() or not set(text).isdisjoint(" ?#"):
        raise ValueError(problem)
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong into the URL; use the token settings")
    # A scheme counts in any case (RFC 3986 §3.1); in lower case it is compared most easily.
    return f"{parts.scheme}{text[len(parts.scheme) :]}".rstrip("/")
