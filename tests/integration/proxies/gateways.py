"""What a controller of the Gateway API makes of the generated manifests, for its data plane.

Written after the translators of Envoy Gateway 1.9 (`internal/xds/translator`), Istio 1.31
(`pilot/pkg/networking/core`, `pilot/pkg/security/authz/builder`) and NGINX Gateway Fabric 2.6
(`internal/controller/nginx/config`). The controllers themselves are not run. Values come from the
manifests, so that a field which is missing there is missing here.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site
from tests.integration.proxies.stack import (
    PROGRAMS,
)
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

SITE: Final = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("app", 8000),
    auth=TcpAddress("nexus-auth", 8080),
    tls_cert="/tls.crt",
    tls_key="/tls.key",
    server_name="localhost",
)

Document = dict[str, Any]
_TYPE: Final = "type.googleapis.com/envoy.extensions."
_numbers = itertools.count()


def manifests(name: str, site: Site = SITE) -> dict[str, Document]:
    """The generated documents by their kind; of two, the first."""
    documents: dict[str, Document] = {}
    for _, text in build_configuration(name, site).files:
        for document in yaml.safe_load_all(text):
            documents.setdefault(document["kind"], document)
    return documents


def _exact(names: list[str]) -> Document:
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def _cluster(name: str, address: str, idle: str | None = None) -> Document:
    host, _, port = address.rpartition(":")
    endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    cluster: Document = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    if idle is not None:
        seconds = float(idle[:-2]) / 1000 if idle.endswith("ms") else float(idle[:-1])
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{seconds}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        }
    return cluster


def _bootstrap(
    port: int, tls: Document, manager: Document, route: Document, clusters: list[Document]
) -> Document:
    manager = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "https",
        "use_remote_address": True,
        "normalize_path": True,
        "route_config": {
            "virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [route]}],
        },
        **manager,
    }
    manager["http_filters"].append(
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"},
        }
    )
    context = {"@type": f"{_TYPE}transport_sockets.tls.v3.DownstreamTlsContext", **tls}
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "https", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _route(documents: Mapping[str, Document]) -> Document:
    (rule,) = documents["HTTPRoute"]["spec"]["rules"]
    (modifier,) = (each["requestHeaderModifier"] for each in rule["filters"])
    return {
        "match": {"prefix": "/"},
        "request_headers_to_add": [
            {
                "header": {"key": each["name"], "value": each["value"]},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for each in modifier["set"]
        ],
        "request_headers_to_remove": modifier["remove"],
        "route": {"cluster": "app", "timeout": rule["timeouts"]["request"]},
    }


def _pair(certificate: tuple[Path, Path]) -> list[Document]:
    chain, key = ({"filename": str(path)} for path in certificate)
    return [{"certificate_chain": chain, "private_key": key}]


def envoy_gateway(
    documents: Mapping[str, Document],
    *,
    port: int,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
) -> str:
    """What Envoy Gateway has Envoy do."""
    client = documents["ClientTrafficPolicy"]["spec"]
    policy = documents["SecurityPolicy"]["spec"]
    ext, headers = policy["extAuth"], client["headers"]
    (rule,) = policy["authorization"]["rules"]
    found = re.fullmatch(r"request\.headers\['([a-z-]+)'\]\.matches\('(.+)'\)", rule["cel"])
    if found is None:
        raise AssertionError(f"another expression: {rule['cel']}")
    # As cel-go parses it.
    request_headers = {"select_expr": {"operand": _ident("request"), "field": "headers"}}
    target = {"call_expr": {"function": "_[_]", "args": [request_headers, _text(found[1])]}}
    matches = {"call_expr": {"function": "matches", "target": target, "args": [_text(found[2])]}}
    cel = {
        "@type": "type.googleapis.com/xds.type.matcher.v3.CelMatcher",
        "expr_match": {"cel_expr_parsed": {"expr": matches}},
    }
    single = {
        "input": {
            "name": "cel",
            "typed_config": {
                "@type": "type.googleapis.com/xds.type.matcher.v3.HttpAttributesCelMatchInput"
            },
        },
        "custom_match": {"name": "cel_matcher", "typed_config": cel},
    }
    matcher = {
        "matcher_list": {
            "matchers": [
                {
                    "predicate": {"single_predicate": single},
                    "on_match": _action(rule["action"]),
                }
            ]
        },
        "on_no_match": _action(policy["authorization"]["defaultAction"]),
    }
    early = headers["earlyRequestHeaders"]
    mutations = [_overwrite(each["name"], each["value"]) for each in early.get("set", ())]
    mutations += [{"remove": name} for name in early["remove"]]
    manager = {
        "common_http_protocol_options": {
            "headers_with_underscores_action": {"DropHeader": "DROP_HEADER"}[
                headers["withUnderscoresAction"]
            ]
        },
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "http2_protocol_options": {"max_concurrent_streams": 100},
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": client["timeout"]["http"]["streamIdleTimeout"],
        "forward_client_cert_details": {"SanitizeSet": "SANITIZE_SET"}[
            headers["xForwardedClientCert"]["mode"]
        ],
        "set_current_client_cert_details": {
            detail.lower(): True for detail in headers["xForwardedClientCert"]["certDetailsToAdd"]
        },
        "early_header_mutation_extensions": [_early(mutations)],
        "http_filters": [
            {
                "name": "envoy.filters.http.ext_authz",
                "typed_config": {
                    "@type": f"{_TYPE}filters.http.ext_authz.v3.ExtAuthz",
                    "transport_api_version": "V3",
                    "failure_mode_allow": ext["failOpen"],
                    "allowed_headers": _exact(ext["headersToExtAuth"]),
                    "http_service": {
                        "server_uri": {
                            "uri": "http://nexus-auth.default:8080",
                            "cluster": "nexus_auth",
                            "timeout": ext["timeout"],
                        },
                        "authorization_response": {
                            "allowed_upstream_headers": _exact(ext["http"]["headersToBackend"])
                        },
                    },
                },
            },
            {
                "name": "envoy.filters.http.rbac",
                "typed_config": {"@type": f"{_TYPE}filters.http.rbac.v3.RBAC"},
            },
        ],
    }
    route = _route(documents)
    route["route"]["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    route["typed_per_filter_config"] = {
        "envoy.filters.http.rbac": {
            "@type": f"{_TYPE}filters.http.rbac.v3.RBACPerRoute",
            "rbac": {"matcher": matcher},
        }
    }
    validation: Document = {"trust_chain_verification": "ACCEPT_UNTRUSTED"}
    if client["tls"]["clientValidation"]["mode"] != "Request":
        validation = {"trusted_ca": {"filename": str(certificate[0])}}
    tls = {
        "require_client_certificate": False,
        "disable_stateful_session_resumption": True,
        "disable_stateless_session_resumption": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"signature_algorithms": client["tls"]["signatureAlgorithms"]},
            "tls_certificates": _pair(certificate),
            "validation_context": validation,
        },
    }
    app_timeout = documents["BackendTrafficPolicy"]["spec"]["timeout"]["http"]
    auth_timeout = ext["http"]["backendSettings"]["timeout"]["http"]
    clusters = [
        _cluster("app", app, app_timeout["connectionIdleTimeout"]),
        _cluster("nexus_auth", auth, auth_timeout["connectionIdleTimeout"]),
    ]
    return json.dumps(_bootstrap(port, tls, manager, route, clusters))


def _ident(name: str) -> Document:
    return {"ident_expr": {"name": name}}


def _text(value: str) -> Document:
    return {"const_expr": {"string_value": value}}


def _action(name: str) -> Document:
    action = {
        "@type": "type.googleapis.com/envoy.config.rbac.v3.Action",
        "name": name.upper(),
        "action": name.upper(),
    }
    return {"action": {"name": name, "typed_config": action}}


def _overwrite(name: str, value: str) -> Document:
    header = {"key": name, "value": value}
    return {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _early(mutations: list[Document]) -> Document:
    kind = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": f"{_TYPE}{kind}", "mutations": mutations},
    }


def istio_provider(text: str) -> Document:
    """What the head of the generated file says of the mesh configuration."""
    lines = text.splitlines()
    begin = lines.index("#   extensionProviders:")
    block = itertools.takewhile(lambda line: line.startswith("#   "), lines[begin:])
    (provider,) = yaml.safe_load("\n".join(line[4:] for line in block))["extensionProviders"]
    found: Document = provider["envoyExtAuthzHttp"]
    return found


def istio(
    documents: Mapping[str, Document],
    *,
    port: int,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
) -> str:
    """What Istio has Envoy do."""
    ((_, text),) = build_configuration("istio", SITE).files
    provider = istio_provider(text)
    chain, network, http = (
        each["patch"]["value"] for each in documents["EnvoyFilter"]["spec"]["configPatches"]
    )
    patched = dict(network["typed_config"])
    patched.pop("@type")
    # The rules of AuthorizationPolicy CUSTOM decide in the shadow whether ext_authz is asked.
    if documents["AuthorizationPolicy"]["spec"]["rules"] != [{}]:
        raise AssertionError("not every request is asked about")
    shadow = {
        "action": "DENY",
        "policies": {
            "istio-ext-authz-nexus-auth-ns[default]-policy[nexus-auth]-rule[0]": {
                "permissions": [{"and_rules": {"rules": [{"any": True}]}}],
                "principals": [{"and_ids": {"ids": [{"any": True}]}}],
            }
        },
    }
    manager = {
        "server_name": "istio-envoy",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "set_current_client_cert_details": dict.fromkeys(("subject", "cert", "dns", "uri"), True),
        **patched,
        "http_filters": [
            {
                "name": "envoy.filters.http.rbac",
                "typed_config": {
                    "@type": f"{_TYPE}filters.http.rbac.v3.RBAC",
                    "shadow_rules": shadow,
                    "shadow_rules_stat_prefix": "istio_ext_authz_",
                },
            },
            {
                "name": "envoy.filters.http.ext_authz",
                "typed_config": {
                    "@type": f"{_TYPE}filters.http.ext_authz.v3.ExtAuthz",
                    "transport_api_version": "V3",
                    "failure_mode_allow": provider["failOpen"],
                    "filter_enabled_metadata": {
                        "filter": "envoy.filters.http.rbac",
                        "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
                        "value": {"string_match": {"prefix": "istio-ext-authz"}},
                    },
                    "allowed_headers": _exact(provider["includeRequestHeadersInCheck"]),
                    "http_service": {
                        "server_uri": {
                            "uri": f"http://{provider['service']}",
                            "cluster": "nexus_auth",
                            "timeout": provider["timeout"],
                        },
                        "authorization_response": {
                            "allowed_upstream_headers": _exact(
                                provider["headersToUpstreamOnAllow"]
                            ),
                            "allowed_client_headers": _exact(provider["headersToDownstreamOnDeny"]),
                        },
                    },
                },
            },
            http,
        ],
    }
    validation = documents["Gateway"]["spec"]["tls"]["frontend"]["default"]["validation"]
    # Secrets come from istiod; the authority is the server's own certificate, as the head says.
    trusted: Document = {"trusted_ca": {"filename": str(certificate[0])}}
    if validation["mode"] == "AllowInsecureFallback":
        trusted["trust_chain_verification"] = "ACCEPT_UNTRUSTED"
    params = chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"]
    tls = {
        "require_client_certificate": False,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", **params},
            "tls_certificates": _pair(certificate),
            "validation_context": trusted,
        },
    }
    idle = documents["DestinationRule"]["spec"]["trafficPolicy"]["connectionPool"]["http"]
    clusters = [_cluster("app", app, "3s"), _cluster("nexus_auth", auth, idle["idleTimeout"])]
    return json.dumps(_bootstrap(port, tls, manager, _route(documents), clusters))


def nginx_gateway_fabric(
    documents: Mapping[str, Document],
    *,
    port: int,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
) -> str:
    """What NGINX Gateway Fabric has nginx do, in one file instead of several."""
    snippets = {
        each["context"]: each["value"] for each in documents["SnippetsFilter"]["spec"]["snippets"]
    }
    # Names of a cluster have no address here.
    service = "nexus-auth.NAMESPACE.svc.cluster.local:8080"
    if service not in snippets["http"]:
        raise AssertionError("another address of the auth service")
    snippets["http"] = snippets["http"].replace(service, auth)
    frontend = documents["Gateway"]["spec"]["tls"]["frontend"]["default"]["validation"]
    verify = {"AllowInsecureFallback": "optional_no_ca"}[frontend["mode"]]
    keepalive = documents["UpstreamSettingsPolicy"]["spec"]["keepAlive"]
    return f"""
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    map $http_host $gw_api_compliant_host {{ '' $host; default $http_host; }}
    map $http_upgrade $connection_keepalive {{ default upgrade; '' ''; }}
{snippets["http"]}
    upstream default_app_8000 {{
        server {app};
        keepalive {keepalive["connections"]};
        keepalive_timeout {keepalive["timeout"]};
    }}
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate[0]};
        ssl_certificate_key {certificate[1]};
        ssl_protocols TLSv1.2 TLSv1.3;  # what nginx has from 1.27 on
        ssl_verify_client {verify};
        server_name localhost;
{snippets["http.server"]}
        location / {{
{snippets["http.server.location"]}
            proxy_http_version 1.1;
            proxy_set_header Host "$gw_api_compliant_host";
            proxy_set_header X-Forwarded-For "$proxy_add_x_forwarded_for";
            proxy_set_header X-Real-IP "$remote_addr";
            proxy_set_header X-Forwarded-Proto "$scheme";
            proxy_set_header X-Forwarded-Host "$host";
            proxy_set_header X-Forwarded-Port "$server_port";
            proxy_set_header Upgrade "$http_upgrade";
            proxy_set_header Connection "$connection_keepalive";
            proxy_pass http://default_app_8000;
        }}
    }}
}}
"""


TRANSLATORS: Final[Mapping[str, tuple[str, Callable[..., str]]]] = MappingProxyType(
    {
        "envoy-gateway": ("envoy", envoy_gateway),
        "istio": ("envoy", istio),
        "nginx-gateway-fabric": ("nginx", nginx_gateway_fabric),
    }
)
"""The data plane of each gateway, and what makes its configuration."""


@contextmanager
def running_data_plane(
    name: str,
    folder: Path,
    *,
    app: str,
    auth: str,
    certificate: tuple[Path, Path],
    site: Site = SITE,
    edit: Callable[[dict[str, Document]], None] = lambda _documents: None,
) -> Iterator[int]:
    """Starts the data plane of a gateway, and gives its port. `edit` changes the manifests."""
    program_name, translate = TRANSLATORS[name]
    program = require_program(program_name, PROGRAMS[program_name])
    directory = folder / f"{name}{next(_numbers)}"
    directory.mkdir()
    documents, port = manifests(name, site), free_port()
    edit(documents)
    path = directory / ("envoy.json" if program_name == "envoy" else "nginx.conf")
    path.write_text(
        translate(documents, port=port, app=app, auth=auth, certificate=certificate),
        encoding="utf-8",
    )
    command: list[str | Path] = (
        [program, "--disable-hot-restart", "--concurrency", "1", "-l", "warning", "-c", path]
        if program_name == "envoy"
        else [program, "-p", directory, "-e", "stderr", "-g", "daemon off;", "-c", path]
    )
    with Process(
        command,
        log_file=directory / "log",
        directory=directory,
        environment={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
    ) as process:
        wait_until_ready(lambda: accepts_connections(port), what=name, process=process)
        yield port


@contextmanager
def running_tls_route(folder: Path, behind: int) -> Iterator[int]:
    """Starts Envoy as a TLSRoute for `localhost` has it, before another port."""
    program, port = require_program("envoy", PROGRAMS["envoy"]), free_port()
    chain = {
        "filter_chain_match": {"server_names": ["localhost"]},
        "filters": [
            {
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": f"{_TYPE}filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "tls",
                    "cluster": "behind",
                },
            }
        ],
    }
    inspector = {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": f"{_TYPE}filters.listener.tls_inspector.v3.TlsInspector"},
    }
    listener = {
        "name": "tls",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "listener_filters": [inspector],
        "filter_chains": [chain],
    }
    clusters = [_cluster("behind", f"127.0.0.1:{behind}")]
    path = folder / "tlsroute.json"
    path.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}})
    )
    command: list[str | Path] = [program, "--disable-hot-restart", "--concurrency", "1"]
    command += ["-l", "warning", "-c", path]
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with Process(
        command, log_file=folder / "tlsroute.log", directory=folder, environment=environment
    ) as process:
        wait_until_ready(lambda: accepts_connections(port), what="envoy", process=process)
        yield port
