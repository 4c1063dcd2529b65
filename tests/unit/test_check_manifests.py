"""The script that checks manifests against published schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.check_manifests import manifests, problems_of, schemas_in

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["mode"],
            "properties": {
                "mode": {"type": "string", "enum": ["a", "b"]},
                "port": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        }
    },
}


def problems(folder: Path, **spec: Any) -> list[str]:
    """What is wrong with a document of that spec."""
    definition = {
        "kind": "CustomResourceDefinition",
        "spec": {
            "group": "example.org",
            "names": {"kind": "Thing"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": SCHEMA}}],
        },
    }
    (folder / "crd.yaml").write_text(yaml.safe_dump(definition))
    document = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {}, "spec": spec}
    return problems_of(document, schemas_in(folder))


def test_what_follows_the_schema_passes(tmp_path: Path) -> None:
    """Free forms stay free."""
    assert problems(tmp_path, mode="a", port="https", free={"x": 1}) == []


@pytest.mark.parametrize("spec", [{"mode": "c"}, {"mode": "a", "mdoe": "a"}, {}, {"mode": 1}])
def test_what_does_not_is_named(tmp_path: Path, spec: dict[str, Any]) -> None:
    """A misspelt field is an error, not a field that is ignored."""
    assert problems(tmp_path, **spec)


def test_a_kind_without_a_schema_is_a_problem(tmp_path: Path) -> None:
    """Nothing passes because nobody looked."""
    for _, document in manifests():
        assert problems_of(document, schemas_in(tmp_path))
