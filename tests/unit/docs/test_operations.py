"""What operators rely on by name: metrics, alerts, events, states."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from structlog.testing import capture_logs

import nexus_auth
from nexus_auth.adapters.observability.counters import FETCH_OUTCOMES, Counters
from nexus_auth.adapters.observability.decision_log import DecisionLog
from nexus_auth.adapters.observability.prometheus import render_metrics
from nexus_auth.adapters.observability.report import Overview
from nexus_auth.domain.decision import Denied
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.reasons import DenialReason
from tests.fakes import FakeClock
from tests.integration.real import require_program
from tests.unit.adapters.observability.watched import BLOCK, a_state, policies

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES: Final = ROOT / "deploy" / "prometheus" / "nexus-auth.rules.yml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "nexus-auth.json"

_LEVELS: Final = {"debug", "info", "warning", "error", "exception", "critical"}


def exposed() -> str:
    """One scrape of a service that knows a block, and has sent requests to both sources."""
    counters = Counters(clock=FakeClock())
    counters.count_pylon_request(200, 0.1)
    counters.count_chain_request(200, 0.1)
    report = counters.report(registry=a_state(block=BLOCK), remembered=0, certificates=())
    return render_metrics(Overview.of(report), policy=policies()).decode()


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Every metric with its kind and labels."""
    text = exposed()
    found: dict[str, tuple[str, set[str]]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        samples = re.findall(rf"^{name}(?:_count)?(?:{{(.*)}})? ", text, re.MULTILINE)
        found[name] = (kind, set(re.findall(r'(\w+)="', samples[0])))
    return found


def table(heading: str, *, columns: int) -> list[list[str]]:
    """The rows of the first table after a heading."""
    rows = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    found = [re.split(r" *\| *", row.strip("| ")) for row in rows if row[:1] == "|"]
    return [row for row in found[2:] if len(row) == columns]


def named_metrics(text: str) -> set[str]:
    """The metrics that a query names, without what Prometheus adds to histograms."""
    names = set(re.findall(r"\bnexus_auth_\w+", text))
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def queries(node: Any) -> Iterator[str]:
    """Every expression of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"expr", "query"} and isinstance(value, str):
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for each in node:
            yield from queries(each)


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def events() -> set[str]:
    """Every event that some line of ours can write."""
    found = set()
    for path in Path(nexus_auth.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in _LEVELS
                and ast.unparse(node.func.value) in {"log", "_log", "self._log"}
            ):
                constants = [
                    each for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)
                ]
                assert constants, f"{path}: an event without a name: {ast.unparse(node)}"
                found |= {str(each.value) for each in constants}
    return found


def test_metrics_are_those_of_the_page() -> None:
    """With their kinds and labels: dashboards and alerts of others depend on them."""
    documented = {
        name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in table("Metrics", columns=4)
    }
    assert documented == metrics()


def test_label_values_are_those_of_the_page() -> None:
    """Closed sets, listed in full."""
    rows = {row[0].strip("`"): row[3] for row in table("Metrics", columns=4)}
    causes = set(re.findall(r"`([a-z-]+)`", rows["nexus_auth_registry_questions_total"]))
    assert causes - {"cause"} == set(FETCH_OUTCOMES)
    states = set(re.findall(r"`([a-z-]+)`", rows["nexus_auth_registry_state"]))
    assert states == {freshness.value for freshness in Freshness}


def test_events_are_those_of_the_page() -> None:
    """Operators search for them; a new one needs its line, a renamed one its mention."""
    section = PAGE.partition("All events:\n")[2]
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))
    documented |= set(re.findall(r"`([a-z_]+)`", section.partition("These are defects")[2]))
    assert documented - {"traceback", "library_message"} == events()


def test_fields_of_a_decision_are_those_of_the_page() -> None:
    """All that a line can have, in both places that list them."""
    denied = Denied(reason=DenialReason.NOT_PERMITTED, detail="x")
    with capture_logs() as lines:
        DecisionLog().decided(
            denied,
            seconds=0.1,
            method=b"GET",
            target=b"/",
            headers=[
                (b"x-nexus-auth-policy", b"validators"),
                (b"x-client-cert-subject", b"O=x"),
                (b"x-client-cert-issuer", b"O=x"),
            ],
        )
    written = set(lines[0]) - {"event", "log_level"}
    fields = PAGE.partition("## Logs\n")[2].partition("\nIn nginx")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", fields, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == written
    (event,) = re.findall(r"^\| `decision` \| info \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", event)) == written


def test_alerts_are_those_of_the_page() -> None:
    """An operator who is woken finds what to do."""
    documented = re.findall(r"^\| `(NexusAuth\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert documented == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_alert_names_what_exists(rule: dict[str, Any]) -> None:
    """An alert on a metric that is never exposed would never fire."""
    assert named_metrics(rule["expr"])
    assert named_metrics(rule["expr"]) <= set(metrics())
    text = exposed()
    for label, value in re.findall(r'(\w+)="([^"]+)"', rule["expr"]):
        assert f'{label}="{value}"' in text
    assert {"summary", "description"} <= rule["annotations"].keys()


def test_dashboard_names_what_exists() -> None:
    """And shows every metric."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    text = exposed()
    shown: set[str] = set()
    for query in queries(dashboard):
        shown |= named_metrics(query)
        for label, value in re.findall(r'(\w+)="([^"]+)"', query):
            assert f'{label}="{value}"' in text
    assert shown == set(metrics())
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(titles) == len({panel["id"] for panel in dashboard["panels"]})


def test_dashboard_takes_any_data_source() -> None:
    """It is imported into a Grafana that we do not know."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    uids = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert uids == {"${datasource}"}


@pytest.mark.parametrize(
    "arguments", [("check", "rules", RULES.name), ("test", "rules", "nexus-auth.test.yml")]
)
def test_prometheus_accepts_the_rules(arguments: tuple[str, ...]) -> None:
    """They are valid, and fire when they should."""
    promtool = require_program("promtool", "apt-get install prometheus")
    done = subprocess.run(
        [str(promtool), *arguments],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_denials_that_alerts_look_at_exist() -> None:
    """The codes are the contract's."""
    codes = {code for rule in rules() for code in re.findall(r'code="([^"]+)"', rule["expr"])}
    assert codes <= {reason.value for reason in DenialReason}
