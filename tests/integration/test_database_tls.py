"""TLS to the database: with sslmode=verify-full only a server with a valid certificate for its address is used."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode

import pytest

from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.chaos.proxy import HOST, Proxy
from tests.support.debian import program
from tests.support.instance import free_ports
from tests.support.postgres import USER, Server, debian_programs
from tests.support.tls import certificate

IS_ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
Open = Callable[..., Database]


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    """A server with a certificate for 127.0.0.1, chain.pem in its folder. The embedded PostgreSQL has no TLS."""
    programs = debian_programs()
    program("openssl", "openssl")
    with tempfile.TemporaryDirectory(prefix="donationd-pg-", ignore_cleanup_errors=True) as name:
        server = Server(Path(name), programs)
        certificate(server.home)
        key = server.home / "key.pem"
        key.chmod(0o600)
        if server.user:
            shutil.chown(key, server.user)
        server.create()
        server.start(
            {
                "listen_addresses": HOST,
                "port": str(free_ports(1)[0]),
                "ssl": "on",
                "ssl_cert_file": str(server.home / "chain.pem"),
                "ssl_key_file": str(key),
            }
        )
        try:
            yield server
        finally:
            server.stop("immediate")


@pytest.fixture
async def open_database(tls_server: Server) -> AsyncIterator[Open]:
    """Opens the server's database at these hosts, with verify-full."""
    port = int((tls_server.home / "data" / "postmaster.pid").read_text().splitlines()[3])
    async with AsyncExitStack() as stack:

        def open_at(
            *hosts: str, port: int = port, authority: Path = tls_server.home / "chain.pem", **options: str
        ) -> Database:
            options = {"sslmode": "verify-full", "sslrootcert": str(authority), **options}
            url = f"postgresql://{USER}@{','.join(f'{host}:{port}' for host in hosts)}/postgres?{urlencode(options)}"
            database = Database(url, pool_size=1, statement_timeout_s=5, connect_timeout_s=5, application_name="tls")
            stack.push_async_callback(database.close)
            return database

        yield open_at


async def test_a_verified_server_is_used(open_database: Open) -> None:
    """Through TLS, with one host and with several, of which the first is not there."""
    assert await open_database(HOST).fetch(IS_ENCRYPTED) == [(True,)]
    assert await open_database("127.0.0.9", HOST, target_session_attrs="read-write").fetch(IS_ENCRYPTED) == [(True,)]


async def test_another_server_gets_no_password(open_database: Open, tmp_path: Path) -> None:
    """A certificate of another authority, or for another name, ends the attempt, and the reason says so."""
    certificate(tmp_path)
    for database in (
        open_database(HOST, authority=tmp_path / "chain.pem"),
        open_database(HOST, authority=tmp_path / "missing.pem"),
        open_database("localhost", hostaddr=HOST),
    ):
        with pytest.raises(DatabaseUnavailable) as failed:
            await database.fetch(IS_ENCRYPTED)
        assert failed.value.kind == "certificate refused"


async def test_a_server_without_tls_is_refused(open_database: Open, server: Server) -> None:
    """No session begins in plain text."""
    async with Proxy(f"{server.home}/.s.PGSQL.5432") as proxy:
        with pytest.raises(DatabaseUnavailable) as failed:
            await open_database(HOST, port=proxy.port).fetch(IS_ENCRYPTED)
    assert failed.value.kind == "no TLS"
