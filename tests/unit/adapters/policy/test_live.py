from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog.testing

from nexus_auth.adapters.policy import live as module
from nexus_auth.adapters.policy.live import POLL_SECONDS, LivePolicies
from nexus_auth.adapters.policy.parsing import PolicyInvalid, build_policies
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.unit.adapters.registry.sources import until

pytestmark = pytest.mark.virtual_time

OPEN = "[policies.open]\n"
STAKE = "[policies.stake]\nmin_stake = { total = 1 }\n"
BROKEN = "[policies.open]\nallowed = []\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that lets every registered hotkey in."""
    path = tmp_path / "policy.toml"
    path.write_text(OPEN)
    return path


def replace(path: Path, text: str) -> None:
    """Replaces a file in one step, as a careful tool does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def live(path: Path, *, neurons_problem: str | None = None) -> LivePolicies:
    """Policies that look at their file as often as those of the service."""
    return LivePolicies(path, clock=FakeClock(), neurons_problem=neurons_problem)


def test_fixed_policies_tell_of_themselves() -> None:
    """Settings make policies as well; there is nothing to watch."""
    policies = LivePolicies(build_policies(), clock=FakeClock())
    assert policies() is policies()
    state = policies.health()
    assert (state.source, state.names, state.problem) == ("settings", ("registered",), None)
    assert state.loaded_at == NOW
    with structlog.testing.capture_logs() as lines:
        policies.reload()
    assert [line["event"] for line in lines] == ["nothing_to_reload"]


def test_broken_file_is_told_of_at_the_start(path: Path) -> None:
    """There is no old policy yet that could be kept."""
    path.write_text(BROKEN)
    with pytest.raises(PolicyInvalid, match=r"policies\.open\.allowed"):
        live(path)
    path.unlink()
    with pytest.raises(PolicyInvalid, match="No such file"):
        live(path)


@pytest.mark.parametrize("way", ["replaced", "written in place", "linked anew"])
async def test_changed_file_comes_into_force(path: Path, tmp_path: Path, way: str) -> None:
    """However it is changed, without a signal."""
    if way == "linked anew":
        path.rename(tmp_path / "one")
        path.symlink_to("one")
    policies = live(path)
    await policies.start()
    assert policies().default == "open"
    match way:
        case "replaced":
            replace(path, STAKE)
        case "written in place":
            path.write_text(STAKE)
        case _:
            (tmp_path / "two").write_text(STAKE)
            (tmp_path / "link").symlink_to("two")
            (tmp_path / "link").replace(path)
    await until(lambda: policies().default == "stake")
    assert policies.needs_neurons()
    await policies.aclose()
    replace(path, OPEN)
    await asyncio.sleep(5 * POLL_SECONDS)
    assert policies().default == "stake"


async def test_broken_file_keeps_the_old_policy_and_says_so_once(path: Path) -> None:
    """In the log and in the state, until it is mended."""
    policies = live(path)
    await policies.start()
    before = policies()
    with structlog.testing.capture_logs() as lines:
        replace(path, BROKEN)
        await until(lambda: policies.health().problem is not None)
        assert "policies.open.allowed" in str(policies.health().problem)
        path.unlink()
        await until(lambda: "No such file" in str(policies.health().problem))
        await asyncio.sleep(5 * POLL_SECONDS)
        assert policies() is before
        replace(path, STAKE)
        await until(lambda: policies.health().problem is None)
    assert policies().default == "stake"
    assert [line["event"] for line in lines] == [
        "policy_reload_failed",
        "policy_reload_failed",
        "policy_reloaded",
    ]
    await policies.aclose()


async def test_file_that_is_still_being_written_is_left_alone(path: Path) -> None:
    """The first half of a file can be valid and lack the rules of the second."""
    policies = live(path)
    await policies.start()
    path.write_text("[policies.half]\n")
    for number in range(40):
        await asyncio.sleep(POLL_SECONDS / 5)
        with path.open("a") as file:
            file.write(f"# line {number}\n")
    assert policies().default == "open"
    with path.open("a") as file:
        file.write("deny = []\n")
    await until(lambda: policies().default == "half")
    assert policies().policies["half"].rules
    await policies.aclose()


async def test_signal_has_an_unchanged_file_read_again(path: Path) -> None:
    """SIGHUP does not wait for a change to be seen."""
    policies = live(path)
    await policies.start()
    await asyncio.sleep(0)
    replace(path, STAKE)
    policies.reload()
    await until(lambda: policies().default == "stake", seconds=POLL_SECONDS / 2)
    await policies.aclose()


async def test_first_need_of_neurons_is_announced(path: Path) -> None:
    """Nothing is known of them until somebody asks."""
    told: list[bool] = []

    async def on_need() -> None:
        told.append(policies.needs_neurons())
        await asyncio.Event().wait()  # Pylon takes its time; the file is watched all the same.

    policies = live(path)
    await policies.start(on_need=on_need)
    replace(path, STAKE)
    await until(lambda: bool(told))
    replace(path, STAKE + "require_active = true\n")
    await until(lambda: len(policies().policies["stake"].rules) > 1)
    assert told == [True]
    await policies.aclose()


async def test_policy_that_cannot_get_its_facts_is_refused(path: Path) -> None:
    """Where no neurons are fetched, a rule that looks at them would refuse everybody."""
    policies = live(path, neurons_problem="which need this")
    await policies.start()
    replace(path, STAKE)
    await until(lambda: policies.health().problem is not None)
    assert "looks at neurons, which need this" in str(policies.health().problem)
    assert policies().default == "open"
    await policies.aclose()
    with pytest.raises(PolicyInvalid, match="looks at neurons"):
        live(path, neurons_problem="which need this")


async def test_defect_does_not_end_the_watching(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the next change counts again."""
    policies = live(path)
    await policies.start()

    def crash(_path: Path) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_policies", crash)
        policies.reload()
        await until(lambda: policies.health().problem == "reading it crashed: RuntimeError")
    replace(path, STAKE)
    await until(lambda: policies().default == "stake")
    await policies.aclose()
