"""Which requests may have trailers among their headers."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_auth.adapters.starlette.trailers import HEAD_ONLY, may_hold_trailers


@pytest.mark.parametrize(
    ("headers", "extensions", "expected"),
    [
        ([], None, False),
        ([(b"content-length", b"3")], {}, False),
        ([(b"transfer-encoding", b"chunked")], None, True),
        ([(b"Transfer-Encoding", b"chunked")], {"tls": {}}, True),
        ([(b"transfer-encoding", b"gzip, chunked")], {}, True),
        ([(b"transfer-encoding", b"chunked")], {HEAD_ONLY: {}}, False),
    ],
)
def test_chunked_request_may_have_trailers_unless_the_server_promises(
    headers: list[tuple[bytes, bytes]], extensions: dict[str, Any] | None, *, expected: bool
) -> None:
    """Nothing but a chunked body has any in HTTP/1.1."""
    assert may_hold_trailers({"headers": headers, "extensions": extensions}) is expected
    assert may_hold_trailers({"headers": headers}) is (expected or extensions == {HEAD_ONLY: {}})
