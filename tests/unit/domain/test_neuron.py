from __future__ import annotations

from typing import Any

import pytest

from nexus_auth.domain.neuron import Neuron, StakeKind


def a_neuron(**deviation: Any) -> Neuron:
    """A neuron with three different stakes, and the deviations that are named."""
    facts: dict[str, Any] = {"uid": 7, "alpha": 1.0, "tao": 2.0, "total": 3.0, **deviation}
    return Neuron(validator_permit=False, active=False, **facts)


@pytest.mark.parametrize(("kind", "stake"), [("alpha", 1.0), ("tao", 2.0), ("total", 3.0)])
def test_each_kind_of_stake_is_its_own(kind: str, stake: float) -> None:
    """A minimum of one kind says nothing of another."""
    assert a_neuron().stake(StakeKind(kind)) == stake


@pytest.mark.parametrize("deviation", [{"uid": 0}, {"uid": 65535}, {"alpha": 0.0, "total": 1e308}])
def test_every_place_and_every_amount_is_taken(deviation: dict[str, Any]) -> None:
    """A uid has sixteen bits; a stake may be nothing."""
    a_neuron(**deviation)


@pytest.mark.parametrize(
    "deviation",
    [
        {"uid": -1},
        {"uid": 65536},
        *({kind: amount} for kind in StakeKind for amount in (-1e-9, float("nan"), float("inf"))),
    ],
)
def test_what_cannot_be_is_refused(deviation: dict[str, Any]) -> None:
    """And named: whatever kind of stake it is, NaN compares false with everything."""
    (name,) = deviation
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        a_neuron(**deviation)
