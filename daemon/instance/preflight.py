"""What `up` checks before it starts anything, so that every mistake is reported at once: the settings and the ports."""

import errno
import socket
from collections.abc import Mapping
from contextlib import closing

from pydantic import Field, field_validator

from daemon.api.config import Config as ApiConfig
from daemon.instance.console import CannotStart
from daemon.jobs.config import JobsConfig
from daemon.runtime.config import Basics, ConfigError, WholeNumber
from health_sidecar.config import Config as SidecarConfig

MAX_API_PROCESSES = 64
NO_EMBEDDED_DATABASE = (
    "--embedded: in Kubernetes every replica would keep a ledger of its own, which ends with its container. Set "
    "DATABASE_URL, and start each process in a container of its own (deploy/docs/containers.md). For a trial in this "
    "container only, unset KUBERNETES_SERVICE_HOST"
)


class SupervisordConfig(Basics):
    """The settings that supervisord reads, with its own limits."""

    host: str
    port: WholeNumber = Field(ge=1, le=65535)
    metrics_port: WholeNumber = Field(ge=1, le=65535)
    api_processes: WholeNumber = Field(ge=1, le=MAX_API_PROCESSES)

    @field_validator("host")
    @classmethod
    def _is_ipv4(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("must be a name or an IPv4 address, because supervisord can't listen on IPv6")
        return value


def check(environ: Mapping[str, str]) -> None:
    """Refuses at once what supervisord and its programs would refuse one after the other in their logs.

    Raises:
        CannotStart: with every mistake, one a line.
    """
    if environ["DONATIOND_INCLUDE"] and environ.get("KUBERNETES_SERVICE_HOST"):  # Kubernetes sets it in every container
        raise CannotStart(NO_EMBEDDED_DATABASE)
    pairs = (("HOST", "PORT"), ("METRICS_HOST", "METRICS_PORT"))
    problems = wrong_settings(environ) or [each for pair in pairs if (each := _port_problem(environ, *pair))]
    if problems:
        raise CannotStart("\n".join(problems))


def wrong_settings(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that the sidecar, the API, the jobs or supervisord would refuse."""
    mistakes = []
    if environ["DONATIOND_INCLUDE"]:  # `up` brings the database: its URL is known later
        environ = {**environ, "DATABASE_URL": "postgresql://"}
    for config in (SidecarConfig, ApiConfig, JobsConfig, SupervisordConfig):
        try:
            config.from_environ(environ)
        except ConfigError as error:
            mistakes += error.problems
    return sorted({mistake.split(":")[0]: mistake for mistake in mistakes}.values())


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
