"""Asks the HTTP endpoints of a running instance: for `up`, `reload`, `donationd status` and `donationd simulate`."""

import contextlib
import http.client
import ipaddress
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

TIMEOUT_S = 2.0


def health(environ: Mapping[str, str], service: str = "", path: str = "/health") -> tuple[int, dict[str, Any]]:
    """What a health endpoint of the instance answers: status and JSON; 0 and nothing if no process answers.

    Args:
        environ: the instance's environment.
        service: "" for the API, "METRICS_" for the sidecar.
        path: the endpoint.
    """
    try:
        return get(environ[f"{service}HOST"], int(environ[f"{service}PORT"]), path)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}


def get(host: str, port: int, path: str, timeout_s: float = TIMEOUT_S) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a reply, on a new connection to what listens on `host`.

    Raises:
        OSError, http.client.HTTPException: no process answers.
        ValueError: the reply is no JSON object.
    """
    with closing(http.client.HTTPConnection(reachable(host), port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        reply = connection.getresponse()
        body = json.loads(reply.read())
    if not isinstance(body, dict):
        raise ValueError("the reply is no JSON object")  # noqa: TRY004 - it is no mistake of the caller
    return reply.status, body


def reachable(host: str) -> str:
    """Where to connect to reach a process that listens on `host`: on this machine, if it listens on every address."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return "127.0.0.1" if "." in host else "::1"
    return host


def address(host: str, port: object) -> str:
    """`HOST:PORT` as a URL contains it, for a process that listens on `host`."""
    host = reachable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
