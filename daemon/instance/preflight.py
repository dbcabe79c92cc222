"""What `up` checks before it starts anything, so that every mistake is reported at once: the settings and the ports."""

import errno
import socket
from collections.abc import Mapping
from contextlib import closing

from daemon.api.config import Config
from daemon.instance.console import CannotStart
from daemon.instance.environment import is_number
from daemon.runtime.config import ConfigError
from health_sidecar.config import Config as SidecarConfig

MAX_API_PROCESSES = 64


def check(environ: Mapping[str, str]) -> None:
    """Refuses at once what supervisord and its programs would refuse one after the other in their logs.

    Raises:
        CannotStart: with every mistake, one a line.
    """
    if mistakes := wrong_settings(environ) or _ports_in_use(environ):
        raise CannotStart("\n".join(mistakes))


def wrong_settings(environ: Mapping[str, str]) -> list[str]:
    """One sentence per variable: what the programs' own configurations refuse, and what supervisord would refuse."""
    mistakes = []
    if environ["DONATIOND_INCLUDE"]:  # `up` brings the database: its URL is known later
        environ = {**environ, "DATABASE_URL": "postgresql://"}
    for config in (SidecarConfig, Config):
        try:
            config.from_environ(environ)
        except ConfigError as error:
            mistakes += error.problems
    for name, highest in (("PORT", 65535), ("METRICS_PORT", 65535), ("API_PROCESSES", MAX_API_PROCESSES)):
        if not (is_number(environ[name]) and 1 <= int(environ[name]) <= highest):
            mistakes.append(f"{name}: must be a whole number from 1 to {highest}")
    if ":" in environ["HOST"]:
        mistakes.append("HOST: must be a name or an IPv4 address, because supervisord can't listen on IPv6")
    return sorted({mistake.split(":")[0]: mistake for mistake in mistakes}.values())


def _ports_in_use(environ: Mapping[str, str]) -> list[str]:
    pairs = (("HOST", "PORT"), ("METRICS_HOST", "METRICS_PORT"))
    return [problem for host, port in pairs if (problem := _port_problem(environ, host, port))]


def _port_problem(environ: Mapping[str, str], host: str, port: str) -> str | None:
    """Why no process could listen at the address of these two variables; None if one could."""
    address = (environ[host], int(environ[port]))
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(resolved)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {address[1]} on {address[0]} is in use: stop what listens there, or set {port} to another"
        return f"no process can listen on {address[0]} port {address[1]} ({error.strerror}): change {host} or {port}"
    return None
