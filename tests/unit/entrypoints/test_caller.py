from __future__ import annotations

from datetime import timedelta

import pytest

from nexus_auth import ConfigurationError
from nexus_auth.client import connect, connect_chain


async def test_arguments_are_judged_as_those_of_the_verifier() -> None:
    """What does not fit together is said before anything is opened."""
    with pytest.raises(ConfigurationError, match="netuid"):
        await connect("http://pylon", open_access_token="token").__aenter__()
    with pytest.raises(ConfigurationError, match="endpoint"):
        await connect("pylon").__aenter__()
    with pytest.raises(ConfigurationError, match="netuid"):
        await connect_chain("http://node", netuid=-1).__aenter__()


async def test_keys_that_are_not_kept_are_refused() -> None:
    """A connection outlives the request that it was opened for, and so must its registration."""
    never = timedelta(0)
    with pytest.raises(ConfigurationError, match="max_age"):
        await connect("http://pylon", max_age=never).__aenter__()
    with pytest.raises(ConfigurationError, match="max_age"):
        await connect_chain("http://node", netuid=1, max_age=never).__aenter__()
