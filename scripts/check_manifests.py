"""Checks the manifests for the Gateway API against the schemas that each project publishes.

    python scripts/check_manifests.py FOLDER

FOLDER holds the CustomResourceDefinitions of the Gateway API, Envoy Gateway, NGINX Gateway Fabric
and Istio, as YAML files of any name; they are not part of this repository. Every manifest that
`nexus-auth proxy-config` prints for them is checked, and those of `deploy/kubernetes/gateway`.
Strictly: an unknown field is an error, and so is a kind that FOLDER does not define. Rules in CEL
(`x-kubernetes-validations`) are not evaluated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped] # it ships no types
import yaml

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site

GATEWAYS: Final = ("envoy-gateway", "nginx-gateway-fabric", "istio")
EXAMPLES: Final = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes" / "gateway"
_CORE: Final = {"v1", "apps/v1", "networking.k8s.io/v1"}
"""What Kubernetes itself defines; `tests/unit/deploy` checks it."""

_SITE: Final = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("app", 8000),
    auth=TcpAddress("nexus-auth", 8080),
    tls_cert="/tls.crt",
    tls_key="/tls.key",
)
_SITES: Final = (
    _SITE,
    replace(_SITE, policy="validators", server_name="a.example.org", app_keepalive=0),
    replace(_SITE, app_keepalive=9999),
)


def strict(schema: Any) -> Any:
    """A structural schema as JSON Schema in which no unknown field passes."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: strict(each) for name, each in value.items()}
        if key == "properties"
        else strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key not in {"description", "default", "format"}
    }
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    # Within anyOf and the like, `properties` only narrows; there is no type there.
    if "properties" in made and schema.get("type") == "object" and not is_open:
        made.setdefault("additionalProperties", False)
    return made


def schemas_in(folder: Path) -> dict[tuple[str, str], Any]:
    """The schemas of every CustomResourceDefinition, by apiVersion and kind."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                }
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each document that is to be checked, with a name for it."""
    texts = [
        (name, text)
        for name in GATEWAYS
        for site in _SITES
        for _, text in build_configuration(name, site).files
    ]
    texts += [(path.name, path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.yaml")]
    for name, text in texts:
        for document in yaml.safe_load_all(text):
            yield f"{name}: {document['kind']}", document


def problems_of(document: dict[str, Any], schemas: dict[tuple[str, str], Any]) -> list[str]:
    """What a schema says against a document; nothing where all is well."""
    schema = schemas.get((document["apiVersion"], document["kind"]))
    if schema is None:
        return [f"no schema of {document['apiVersion']} {document['kind']}"]
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message[:300]}" for error in errors]


def main() -> int:
    """Checks everything, and prints what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="where the CustomResourceDefinitions are")
    schemas = schemas_in(parser.parse_args().folder)
    failed = checked = 0
    for name, document in manifests():
        if document["apiVersion"] in _CORE:
            continue
        checked += 1
        for problem in problems_of(document, schemas):
            failed += 1
            print(f"{name}: {problem}")
    print(f"{checked} documents checked, {failed} problems")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    raise SystemExit(main())
