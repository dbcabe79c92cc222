"""`GET export.csv` and `export.jsonl`: whole or visibly not, in bounded time, with a manifest (SPEC 10 and 11)."""

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from click.testing import CliRunner

from daemon.api.endpoints import PREFIX
from daemon.api.operator import OperatorLimits
from daemon.cli.main import main
from daemon.runtime.http.auth import parse_tokens
from sql.database import Database
from tests.support import export_world
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.export_files import figures, json_rows, movements, parsed
from tests.support.ledger import ask, record, scenario
from tests.support.operators import EXPORTER, READER, bearer, entry
from tests.support.postgres import MakeTemplate

CSV, JSONL = f"{PREFIX}export.csv", f"{PREFIX}export.jsonl"
OTHER = "other-token"
TOKENS = parse_tokens(",".join((entry("books", "export", EXPORTER), entry("audit", "export", OTHER))))
MANY_ROWS = (Path(__file__).parents[1] / "support" / "many_rows.sql").read_text(encoding="utf-8")
MANY = 60_000  # 20 MB: more than the buffers of a connection
WRITE_S = 0.3  # for a slow reader
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'FETCH %%'"


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower(), tokens=TOKENS))


@pytest.fixture(scope="module")
def world_template(make_template: MakeTemplate) -> str:
    return make_template(export_world.build)


@pytest.fixture(scope="module")
def many_template(make_template: MakeTemplate) -> str:
    def fill(url: str) -> None:
        ask(url, lambda database: database.fetch(MANY_ROWS, {"rows": MANY}))

    return make_template(fill)


@pytest.fixture
def template(request: pytest.FixtureRequest, migrated: str) -> str:
    """A test that asks for `world` or `many` begins with it."""
    [name] = {"world", "many"}.intersection(request.fixturenames) or [""]
    filled: str = request.getfixturevalue(f"{name}_template") if name else migrated
    return filled


@pytest.fixture
def world(database_url: str) -> str:
    """The URL of a ledger with payments of every kind."""
    return database_url


@pytest.fixture
async def many(database: Database) -> AsyncIterator[Database]:
    """A ledger with MANY rows, of which nothing is being read when the test ends."""
    yield database
    await until_released(database)


async def until_released(database: Database) -> None:
    """Returns when no connection is used, and no snapshot is open."""
    async with asyncio.timeout(30):
        while database.stats()["used"] or await database.fetch(OPEN) != [(0,)]:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)


async def get(client: Client, path: str, expected: int = 200, token: str = EXPORTER, **params: Any) -> bytes:
    """The body of a reply."""
    params = {name.rstrip("_"): value for name, value in params.items()}
    reply = await client.get(path, params=params, headers=bearer(token))
    assert reply.status == expected
    return await reply.read()


async def test_exports_add_up_to_the_totals(client: Client, world: str) -> None:
    """Both kinds in both formats have every paid donation and every entry, to the minor unit."""
    expected = await asyncio.to_thread(export_world.totals, world)
    assert figures(parsed(await get(client, CSV))) == expected
    assert figures(json_rows(await get(client, JSONL, kind="donations"))) == expected
    assert movements(parsed(await get(client, CSV, kind="entries"))) == expected
    assert movements(json_rows(await get(client, JSONL, kind="entries"))) == expected


async def test_the_api_and_the_command_write_the_same_bytes(client: Client, world: str) -> None:
    """The same arguments give the same file."""
    environ = {"DATABASE_URL": world}
    for path, params, options in (
        (
            CSV,
            {"profile": "excel-de", "tz": "Asia/Tokyo"},
            ["donations", "--profile", "excel-de", "--tz", "Asia/Tokyo"],
        ),
        (CSV, {"kind": "entries", "noHeader": "true", "asOf": 20}, ["entries", "--no-header", "--as-of", "20"]),
        (
            JSONL,
            {"unpaid": "true", "currency": "JPY"},
            ["donations", "--unpaid", "--currency", "JPY", "--format", "jsonl"],
        ),
        (JSONL, {"status": "EXPIRED"}, ["donations", "--status", "EXPIRED", "--format", "jsonl"]),
        (
            CSV,
            {"kind": "entries", "ticket": "2-3", "from": "2025-09-20T00:00:00Z", "to": "2025-10-05T02:00:00+02:00"},
            ["entries", "--ticket", "2-3", "--from", "2025-09-20", "--to", "2025-10-05"],
        ),
    ):
        done = await asyncio.to_thread(CliRunner().invoke, main, ["export", *options], env=environ)
        assert done.exit_code == 0, done.output
        content = await get(client, path, **params)
        assert content == done.stdout_bytes, options
        assert content.count(b"\n") > 1


async def test_the_head_names_the_file_and_the_entry(client: Client, world: str, database: Database) -> None:
    """A browser saves it under a name, and the reply names the journal's last entry; no cache keeps it."""
    [(last,)] = await database.fetch("SELECT max(seq) FROM ledger_entries")
    reply = await client.get(CSV, params={"kind": "entries"}, headers=bearer(EXPORTER))
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="entries.csv"'
    assert (reply.headers["X-Ledger-Seq"], reply.headers["Cache-Control"]) == (str(last), "no-store")
    earlier = await client.get(JSONL, params={"kind": "entries", "asOf": "5"}, headers=bearer(EXPORTER))
    assert (earlier.headers["X-Ledger-Seq"], earlier.content_type) == ("5", "application/x-ndjson")
    assert len(json_rows(await earlier.read())) == 5


async def test_the_manifest_is_that_of_the_last_complete_reply(client: Client, world: str) -> None:
    """After an export the manifest for the same parameters describes its bytes: in any order of the parameters, for
    this operator only, and also when the ledger has changed since.
    """
    params: dict[str, Any] = {"kind": "donations", "ticket": "story-1", "profile": "excel"}
    assert b"no export with these parameters" in await get(client, f"{CSV}/manifest", expected=404, **params)
    content = await get(client, CSV, **params)
    await asyncio.to_thread(export_world.build, world, 2, tickets=False)
    manifest = json.loads(await get(client, f"{CSV}/manifest", **dict(reversed(params.items()))))
    rows = parsed(content[3:])
    assert (manifest["rows"], manifest["size"]) == (len(rows), len(content))
    assert manifest["sha256"] == sha256(content).hexdigest()
    assert (manifest["first"], manifest["last"]) == (rows[0]["id"], rows[-1]["id"])
    assert (manifest["profile"], manifest["timeZone"], manifest["filters"]) == ("excel", "UTC", {"ticket": "story-1"})
    await get(client, f"{CSV}/manifest", expected=404, token=OTHER, **params)
    await get(client, f"{CSV}/manifest", expected=404, **params, unpaid="true")
    await get(client, f"{JSONL}/manifest", expected=404, kind="donations", ticket="story-1")
    renewed = await get(client, CSV, **params)
    assert renewed != content
    assert sha256(renewed).hexdigest() == json.loads(await get(client, f"{CSV}/manifest", **params))["sha256"]


async def test_old_manifests_are_deleted(client: Client, world: str, database: Database) -> None:
    """They are kept for 30 days: the table does not grow for ever."""
    await get(client, JSONL, ticket="story-1")
    await database.fetch("UPDATE export_manifests SET sent_at = sent_at - interval '31 days'")
    await get(client, JSONL, ticket="a")
    assert await database.fetch("SELECT count(*) FROM export_manifests") == [(1,)]


async def test_after_continues(client: Client, world: str) -> None:
    """From the manifest's `continueWith` comes what was not in the first part; its end is followed by nothing."""
    for kind in ("donations", "entries"):
        whole = (await get(client, JSONL, kind=kind)).splitlines(keepends=True)
        key = json.loads(whole[9])
        rest = await get(client, JSONL, kind=kind, after=str(key["seq"] if kind == "entries" else key["id"]))
        assert whole[10:] == rest.splitlines(keepends=True)
        manifest = json.loads(await get(client, f"{JSONL}/manifest", kind=kind))
        reply = await client.get(f"{PREFIX}{manifest['continueWith']}", headers=bearer(EXPORTER))
        assert (reply.status, await reply.read()) == (200, b"")


async def test_every_export_is_on_record(client: Client, world: str, database: Database) -> None:
    """The audit log names the token and the filters; reading a manifest, and a wrong request, leave no row."""
    await get(client, CSV, ticket="story-1", unpaid="true")
    await get(client, f"{CSV}/manifest", ticket="story-1", unpaid="true")
    await get(client, CSV, expected=400, kind="entries", unpaid="true")
    assert await database.fetch("SELECT actor, action, detail FROM operator_acts") == [
        ("books", "export", "donations, csv, ticket story-1, unpaid")
    ]


async def test_a_period_begins_and_ends_within_a_second(client: Client, database_url: str) -> None:
    """Half a second after a payment is after it, as the beginning of a period and as its end."""
    await asyncio.to_thread(record, database_url, scenario("paid").events)
    [entry] = parsed(await get(client, CSV, kind="entries"))
    half = entry["effectiveAt"].replace("Z", ".5Z")
    assert parsed(await get(client, CSV, kind="entries", from_=half)) == []
    assert parsed(await get(client, CSV, kind="entries", to=half)) == [entry]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (f"{CSV}?kind=payments", "kind: one of donations, entries"),
        (f"{CSV}?profile=lotus", "profile: one of excel, excel-de, standard"),
        (f"{JSONL}?profile=excel", "unknown parameter"),
        (f"{CSV}?tz=Mars/Olympus", "tz: tzdata"),
        (f"{CSV}?from=2026-02-01T00:00:00Z&to=2026-02-01T00:00:00Z", "from must be before to"),
        (f"{CSV}?from=2026-02-01", "from: a time such as"),
        (f"{CSV}?kind=entries&after=pi_1", "after: an entry's number"),
        (f"{CSV}?after=%27", "after: the row after which to continue"),
        (f"{CSV}?asOf=1", "asOf is of entries"),
        (f"{CSV}?kind=entries&asOf=-1", "asOf: an entry's number"),
        (f"{JSONL}?kind=entries&asOf=1", "asOf: there is no entry 1 yet"),
        (f"{CSV}?kind=entries&status=PAID", "status and unpaid are of donations"),
    ],
)
async def test_wrong_parameters_are_explained(client: Client, path: str, problem: str) -> None:
    """Each is a 400 that says what is expected and repeats nothing."""
    reply = await client.get(path, headers=bearer(EXPORTER))
    assert (reply.status, problem in await reply.text()) == (400, True), await reply.text()


async def test_a_ticket_that_does_not_exist_is_an_error(client: Client) -> None:
    """Not an empty file, which would look complete."""
    for path in (f"{CSV}?ticket=nosuch", f"{JSONL}?kind=entries&ticket=nosuch"):
        reply = await client.get(path, headers=bearer(EXPORTER))
        assert (reply.status, "there is no ticket nosuch" in await reply.text()) == (404, True)


async def test_exports_need_their_scope(database: Database, aiohttp_client: MakeClient) -> None:
    """A token that may read may not export, and may not read manifests."""
    readers = parse_tokens(entry("rita", "read", READER))
    client = await aiohttp_client(application(database, follower(), tokens=readers))
    for path in (CSV, JSONL, f"{CSV}/manifest", f"{JSONL}/manifest"):
        await get(client, path, expected=403, token=READER)
        assert (await client.get(path)).status == 401


# --- Clients and databases that are lost -----------------------------------------------------------------------------


async def no_manifest(client: Client) -> None:
    await get(client, f"{CSV}/manifest", expected=404)


async def test_a_client_that_leaves_releases_everything(client: Client, many: Database) -> None:
    """The cursor and the connection are free at once, and there is no manifest of what was not sent."""
    reply = await client.get(CSV, headers=bearer(EXPORTER))
    assert len(await reply.content.readexactly(100_000)) == 100_000
    assert await many.fetch(OPEN) == [(1,)]
    reply.close()
    await until_released(many)
    await no_manifest(client)


async def test_a_slow_reader_is_disconnected(many: Database, aiohttp_client: MakeClient) -> None:
    """A client that reads a byte at a time loses its connection, so that no snapshot stays open for it."""
    limits = OperatorLimits(write_s=WRITE_S)
    client = await aiohttp_client(application(many, follower(), tokens=TOKENS, limits=limits))
    assert client.port is not None
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=1)
    authorization = bearer(EXPORTER)["Authorization"]
    writer.write(f"GET {CSV} HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n\r\n".encode())
    assert await reader.readexactly(1) == b"H"
    async with asyncio.timeout(30):
        while not await many.fetch(OPEN) == [(0,)]:  # noqa: SIM201
            await reader.readexactly(1)
            await asyncio.sleep(WRITE_S / 10)
    await until_released(many)
    writer.close()
    await no_manifest(client)


async def test_a_database_that_is_lost_ends_the_reply_visibly(client: Client, many: Database) -> None:
    """The reply is not complete, which the client sees; nothing stays open."""
    reply = await client.get(CSV, headers=bearer(EXPORTER))
    await reply.content.readexactly(100_000)
    assert await many.fetch(OPEN.replace("count(*)", "pg_terminate_backend(pid)")) == [(True,)]
    with pytest.raises(ClientError):
        await reply.read()
    await until_released(many)
    await no_manifest(client)
