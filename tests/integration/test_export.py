"""`donationd export`: what other programs read of it adds up to the ledger's totals (SPEC 11)."""

import csv
import io
import itertools
import json
import shlex
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import Result
from openpyxl import load_workbook

from daemon.ledger.money import exponent
from daemon.reports.export import Kind, Selection
from daemon.simulator import scenarios
from sql.errors import DatabaseUnavailable
from sql.snapshot import snapshot
from tests.support.debian import program
from tests.support.export_files import (
    FIGURE_OF,
    FIGURES,
    figures,
    json_rows,
    minor,
    movements,
    movements_in_beancount,
    parsed,
)
from tests.support.export_world import TICKETS, build, nonzero, totals
from tests.support.ledger import NOW, record, rows, scenario
from tests.support.postgres import MakeTemplate
from tests.support.spreadsheet import FORMULA, opened

AMOUNTS = set(FIGURES)
Export = Callable[..., bytes]


@pytest.fixture
def export(donationd: Callable[..., Result]) -> Export:
    """Runs `donationd export …`. Returns what it writes to standard output."""

    def run(*arguments: object) -> bytes:
        done = donationd("export", *arguments)
        assert done.exit_code == 0, done.output
        return done.stdout_bytes

    return run


@pytest.fixture(scope="module")
def world_template(make_template: MakeTemplate) -> str:
    return make_template(build)


@pytest.fixture
def template(request: pytest.FixtureRequest, migrated: str) -> str:
    """A test that asks for `world` begins with it."""
    name: str = request.getfixturevalue("world_template") if "world" in request.fixturenames else migrated
    return name


@pytest.fixture
def world(database_url: str) -> str:
    """The URL of a ledger with payments of every kind."""
    return database_url


# --- Totals ----------------------------------------------------------------------------------------------------------


def test_csv_and_json_lines_add_up_to_the_totals(export: Export, world: str) -> None:
    """Donations and entries, in both formats, add up to the totals of each ticket and currency, to the minor unit."""
    expected = totals(world)
    assert {currency for _, currency, _ in expected} >= {"USD", "JPY", "KWD", "ISK"}
    assert {figure for _, _, figure in expected} == set(FIGURE_OF.values())
    assert figures(parsed(export("donations"))) == expected
    assert figures(json_rows(export("donations", "--format", "jsonl"))) == expected
    assert movements(parsed(export("entries"))) == expected
    assert movements(json_rows(export("entries", "--format", "jsonl"))) == expected


def test_hledger_arrives_at_the_totals(export: Export, world: str, tmp_path: Path) -> None:
    """hledger accepts the journal in its strict mode, and its accounts have the totals of each ticket and currency."""
    hledger = program("hledger", "hledger")
    journal = tmp_path / "donations.journal"
    export("entries", "--format", "hledger", "--out", journal)
    subprocess.run([hledger, "-f", journal, "check", "-s"], check=True)
    balances = subprocess.run(
        [hledger, "-f", journal, "balance", "--flat", "-O", "json"], check=True, capture_output=True
    )
    found = []
    money: dict[str, int] = defaultdict(int)
    for account, _, _, amounts in json.loads(balances.stdout)[0]:
        for amount in amounts:
            quantity = amount["aquantity"]
            currency = amount["acommodity"]
            minor_units = quantity["decimalMantissa"] * 10 ** (exponent(currency) - quantity["decimalPlaces"])
            parts = account.split(":")
            if parts[0] == "assets":
                assert parts == ["assets", "stripe", currency]
                money[currency] += minor_units
                continue
            figure, sign = {"refunds": ("refunded", 1), "disputes": ("disputed", 1)}.get(parts[-1], ("paid", -1))
            ticket = "" if parts[2] == "(no ticket)" else parts[2]
            found.append((ticket, "" if currency == "XXX" else currency, figure, sign * minor_units))
    assert nonzero(found) == totals(world)
    assert {currency: net for currency, net in money.items() if net} == net_by_currency(world)


def test_beancount_arrives_at_the_totals(export: Export, world: str, tmp_path: Path) -> None:
    """beancount accepts the journal, every transaction balances, and tags give the totals of each ticket."""
    journal = tmp_path / "donations.beancount"
    export("entries", "--format", "beancount", "--out", journal)
    assert movements_in_beancount(journal) == totals(world)


def net_by_currency(url: str) -> dict[str, int]:
    """What is left of all payments: of every ticket and of none."""
    net: dict[str, int] = defaultdict(int)
    for (_, currency, figure), amount in totals(url).items():
        net[currency or "XXX"] += amount if figure == "paid" else -amount
    return {currency: amount for currency, amount in net.items() if amount}


def test_a_german_spreadsheet_arrives_at_the_totals(export: Export, world: str, tmp_path: Path) -> None:
    """A spreadsheet that reads the profile excel-de finds numbers where amounts are, times where times are, text in
    every other cell, and no formula; its sums are the totals.
    """
    saved = tmp_path / "donations.xlsx"
    opened(export("donations", "--profile", "excel-de"), ";", ",").save(saved)
    cells = list(load_workbook(saved).active.iter_rows())
    names = [cell.value for cell in cells[0]]
    found = []
    for row in cells[1:]:
        by_name = dict(zip(names, row, strict=True))
        assert {cell.data_type for cell in row} <= {"n", "s", "inlineStr", "d"}, [cell.value for cell in row]
        assert {name for name, cell in by_name.items() if cell.data_type == "n" and cell.value is not None} == AMOUNTS
        assert isinstance(by_name["createdAt"].value, datetime)
        currency = by_name["currency"].value or ""
        for name, figure in FIGURES.items():
            amount = Decimal(str(by_name[name].value)).scaleb(exponent(currency))
            ticket = str(by_name["ticketId"].value or "").removeprefix("'")
            found.append((ticket, currency, figure, int(amount)))
    assert nonzero(found) == totals(world)


# --- Texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["standard", "excel", "excel-de"])
def test_no_cell_is_taken_for_a_formula(export: Export, world: str, profile: str) -> None:
    """Only amounts begin with a character that begins a formula; every title is read as it is, with its commas, quotes
    and lines.
    """
    delimiter = ";" if profile == "excel-de" else ","
    for kind in ("donations", "entries"):
        content = export(kind, "--profile", profile)
        text = content.decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        unsafe = {name for line in lines for name, cell in line.items() if cell[:1] in FORMULA and cell}
        assert unsafe <= {"amount"}
        assert {line["ticketId"] for line in lines} >= {"'-story_2"}
        found = {row["ticketId"]: row["ticketTitle"] for row in parsed(text.encode(), delimiter)}
        assert {ticket: found[ticket] for ticket in TICKETS} == TICKETS


def test_every_script_is_exported(export: Export, world: str) -> None:
    """The last names in the files are those of the ledger, in CSV and in JSON."""
    stored = {
        name for (name,) in rows(world, "SELECT donor_last_name FROM stripe_attributions WHERE paid_at > '1-1-1'")
    }
    assert {"山田", "Müller-Lüdenscheidt"} <= stored
    assert any(not (name or "").isascii() and name[0] > "\u0590" for name in stored if name)
    assert {row["donor"] or None for row in parsed(export("donations"))} == stored
    assert {row["donor"] for row in json_rows(export("donations", "--format", "jsonl"))} == stored


def test_negative_amounts_stay_numbers(export: Export, world: str) -> None:
    """An amount that is booked out has a sign and no apostrophe, and the decimals of its currency."""
    assert rows(world, "SELECT count(*) FROM ledger_entries WHERE amount_minor < 0") > [(5,)]
    for profile, delimiter, mark in (("standard", ",", "."), ("excel-de", ";", ",")):
        text = export("entries", "--profile", profile).decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        stored = rows(world, "SELECT amount_minor, currency FROM ledger_entries ORDER BY seq")
        for line, (amount, currency) in zip(lines, stored, strict=True):
            assert minor(line["amount"].replace(mark, "."), currency) == amount


def test_lines_and_bytes_are_those_of_each_profile(export: Export, world: str) -> None:
    """CSV lines end with CR and LF; the profiles for Excel begin with a byte order mark and have local times without a
    zone, the others are in UTC.
    """
    [(id_, paid_at)] = rows(world, "SELECT id, paid_at FROM stripe_attributions WHERE paid_at > '1-1-1' LIMIT 1")
    assert isinstance(paid_at, datetime)
    standard, excel = export("donations"), export("donations", "--profile", "excel", "--tz", "Asia/Kathmandu")
    assert standard.startswith(b"id,ticketId,ticketTitle,status,amount,")
    assert excel.startswith(b"\xef\xbb\xbfid,ticketId,")
    assert (standard.endswith(b"\r\n"), excel.endswith(b"\r\n")) == (True, True)
    [utc] = [row["paidAt"] for row in parsed(standard) if row["id"] == id_]
    assert utc == f"{paid_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    [local] = [row["paidAt"] for row in parsed(excel[3:]) if row["id"] == id_]
    assert local == f"{paid_at.astimezone(ZoneInfo('Asia/Kathmandu')):%Y-%m-%d %H:%M:%S}"


def test_a_journals_day_begins_in_the_time_zone(export: Export, database_url: str) -> None:
    """A payment in the last hour of a year in UTC is on the first day of the next year in Berlin."""
    paid = scenario("paid")
    at = int(datetime(2025, 12, 31, 23, 30, tzinfo=UTC).timestamp())
    record(database_url, [each | {"created": at} for each in paid.events])
    for format_name in ("hledger", "beancount"):
        assert b"2025-12-31 * " in export("entries", "--format", format_name)
        local = export("entries", "--format", format_name, "--tz", "Europe/Berlin")
        assert b"2026-01-01 * " in local
        assert b"2025-12-31 * " not in local


# --- Which rows ------------------------------------------------------------------------------------------------------


def test_filters_leave_out_every_other_row(export: Export, world: str) -> None:
    """Each filter gives exactly the rows of the whole export that it describes, in the same order."""
    whole = parsed(export("donations", "--unpaid"))
    begin, end = "2025-09-20T00:00:00Z", "2025-10-05T00:00:00Z"
    second = next(row["paidAt"] for row in whole if row["paidAt"] > begin)
    conditions: dict[tuple[str, ...], Callable[[dict[str, str]], bool]] = {
        (): lambda row: row["paidAt"] != "",
        ("--unpaid",): lambda row: True,
        ("--ticket", "story-1"): lambda row: row["paidAt"] != "" and row["ticketId"] == "story-1",
        ("--currency", "jpy"): lambda row: row["paidAt"] != "" and row["currency"] == "JPY",
        ("--status", "REFUNDED"): lambda row: row["status"] == "REFUNDED",
        ("--status", "expired"): lambda row: row["status"] == "EXPIRED",
        ("--from", begin): lambda row: row["paidAt"] >= begin,
        ("--to", end): lambda row: "" < row["paidAt"] < end,
        ("--from", second): lambda row: row["paidAt"] >= second,
        ("--to", second): lambda row: "" < row["paidAt"] < second,
        ("--unpaid", "--from", begin, "--to", "2025-10-05"): lambda row: (
            begin <= (row["paidAt"] or row["createdAt"]) < end
        ),
    }
    for options, condition in conditions.items():
        expected = [row for row in whole if condition(row)]
        assert expected, options
        assert parsed(export("donations", *options)) == expected, options
    entries = parsed(export("entries"))
    chosen = [row for row in entries if row["ticketId"] == "2-3" and row["effectiveAt"] >= begin]
    assert chosen
    assert parsed(export("entries", "--ticket", "2-3", "--from", begin)) == chosen


def test_a_day_begins_in_the_time_zone(export: Export, database_url: str) -> None:
    """A period's days are those of --tz: a payment at 22:30 UTC in summer belongs to the next day in Berlin."""
    paid = scenario("paid")
    at = int(datetime(2025, 7, 1, 22, 30, tzinfo=UTC).timestamp())
    record(database_url, [each | {"created": at} for each in paid.events])
    for zone, first, last in (("UTC", "2025-07-01", "2025-07-02"), ("Europe/Berlin", "2025-07-02", "2025-07-03")):
        assert len(parsed(export("entries", "--tz", zone, "--from", first, "--to", last))) == 1
        assert parsed(export("entries", "--tz", zone, "--to", first)) == []
        assert parsed(export("entries", "--tz", zone, "--from", last)) == []


def test_a_period_begins_and_ends_within_a_second(export: Export, database_url: str) -> None:
    """Half a second after a payment is after it, as the beginning of a period and as its end."""
    record(database_url, scenario("paid").events)
    [entry] = parsed(export("entries"))
    half = entry["effectiveAt"].replace("Z", ".5Z")
    assert parsed(export("entries", "--from", half)) == []
    assert parsed(export("entries", "--to", half)) == [entry]
    assert parsed(export("entries", "--from", entry["effectiveAt"], "--to", half)) == [entry]


# --- One snapshot, manifests, continuation ---------------------------------------------------------------------------


def test_an_export_is_of_one_moment(export: Export, database_url: str, tmp_path: Path) -> None:
    """While other sessions write, each export of donations adds up to the journal at the entry that its manifest
    names.
    """
    file, stop = tmp_path / "donations.jsonl", threading.Event()
    writer = threading.Thread(target=write_until, args=(database_url, stop))
    writer.start()
    try:
        seen = set[int]()
        while len(seen) < 4 and writer.is_alive():
            export("donations", "--format", "jsonl", "--out", file)
            seq = json.loads(Path(f"{file}.manifest.json").read_bytes())["seq"]
            seen.add(seq)
            journal = export("entries", "--format", "jsonl", "--as-of", seq)
            assert figures(json_rows(file.read_bytes())) == movements(json_rows(journal))
    finally:
        stop.set()
        writer.join()
    assert len(seen) == 4


def write_until(url: str, stop: threading.Event) -> None:
    """Records payments without end."""
    for seed in itertools.count():
        payments = scenarios.generate(seed, 30, list(TICKETS), now=NOW)
        events = [event for each in payments for event in each.events]
        for begin in range(0, len(events), 7):
            if stop.is_set():
                return
            record(url, events[begin : begin + 7])


def test_a_manifest_describes_its_file(
    export: Export, donationd: Callable[..., Result], world: str, tmp_path: Path
) -> None:
    """`export check` accepts a complete file, and notices one byte that is missing, added or changed."""
    file = tmp_path / "entries.csv"
    export("entries", "--ticket", "story-1", "--out", file)
    content = file.read_bytes()
    manifest = json.loads(Path(f"{file}.manifest.json").read_bytes())
    found = parsed(content)
    [(last,)] = rows(world, "SELECT max(seq) FROM ledger_entries")
    assert (manifest["rows"], manifest["seq"], manifest["size"]) == (len(found), last, len(content))
    assert (manifest["first"], manifest["last"]) == (int(found[0]["seq"]), int(found[-1]["seq"]))
    assert manifest["filters"] == {"ticket": "story-1"}
    assert manifest["sha256"] == sha256(content).hexdigest()
    done = donationd("export", "check", file)
    assert (done.exit_code, f"{file} is complete: {len(found)} rows, as of entry {last}" in done.output) == (0, True)
    for damaged, complaint in (
        (content[:-1], "is not complete"),
        (content + b"x", "was changed"),
        (content[:-3] + b"x\r\n", "was changed"),
    ):
        file.write_bytes(damaged)
        done = donationd("export", "check", file)
        assert (done.exit_code, complaint in done.output) == (1, True)
    endless = donationd("export", "check", "/dev/zero", "--manifest", f"{file}.manifest.json")
    assert (endless.exit_code, "was changed" in endless.output) == (1, True)
    for useless in ("{}", "no JSON", "[" * 100_000):
        Path(f"{file}.manifest.json").write_text(useless, encoding="utf-8")
        assert (
            donationd("export", "check", file).exit_code,
            "is not a manifest" in donationd("export", "check", file).output,
        ) == (1, True)
    Path(f"{file}.manifest.json").unlink()
    assert "there is no manifest" in donationd("export", "check", file).output


@pytest.mark.parametrize("format_name", ["csv", "jsonl", "hledger", "beancount"])
def test_the_parts_of_the_journal_are_the_whole(export: Export, world: str, tmp_path: Path, format_name: str) -> None:
    """A part up to one entry and the part after it, one appended to the other, have every entry once."""
    [(last,)] = rows(world, "SELECT max(seq) FROM ledger_entries")
    assert isinstance(last, int)
    header = ["--no-header"] if format_name == "csv" else []
    parts = [
        export("entries", "--format", format_name, "--as-of", last // 2),
        export("entries", "--format", format_name, "--after", last // 2, *header),
    ]
    whole = export("entries", "--format", format_name)
    if format_name in ("csv", "jsonl"):
        assert parts[0] + parts[1] == whole
        return
    journal = tmp_path / "appended"
    journal.write_bytes(parts[0] + parts[1])
    if format_name == "beancount":
        assert movements_in_beancount(journal) == totals(world)
        return
    hledger = program("hledger", "hledger")
    of_whole = tmp_path / "whole"
    of_whole.write_bytes(whole)
    balances = [
        subprocess.run([hledger, "-f", each, "balance", "--flat"], check=True, capture_output=True).stdout
        for each in (journal, of_whole)
    ]
    assert balances[0] == balances[1]


def test_the_manifest_says_how_to_continue(
    export: Export, donationd: Callable[..., Result], world: str, tmp_path: Path
) -> None:
    """The command in the manifest exports what came after: with its filters, from the row after the last one."""
    for kind in ("donations", "entries"):
        file = tmp_path / kind
        whole = export(kind, "--ticket", "story-1", "--format", "jsonl").splitlines(keepends=True)
        manifests = []
        for after in ([], ["--after", key_of(whole[2])]):
            export(kind, "--ticket", "story-1", "--format", "jsonl", "--out", file, *after)
            manifests.append(json.loads(Path(f"{file}.manifest.json").read_bytes()))
        assert b"".join(whole[3:]) == file.read_bytes()
        words = shlex.split(manifests[0]["continueWith"])
        assert words[:3] == ["donationd", "export", kind]
        assert export(*words[2:]) == (
            export(kind, "--ticket", "story-1", "--format", "jsonl", "--after", key_of(whole[-1]))
        )


def key_of(line: bytes) -> str:
    found = json.loads(line)
    return str(found.get("seq", found.get("id")))


def test_a_reader_that_stops_reading_releases_the_snapshot(world: str) -> None:
    """The server ends a snapshot from which nothing is read: it would keep rows that are not needed any more."""
    with (
        pytest.raises(DatabaseUnavailable),
        snapshot(world, "donationd slow", idle_timeout_s=0.2) as moment,
    ):
        next(moment.batches("export_entries", Selection(Kind.ENTRIES).params(10**9)))
        until(lambda: not rows(world, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'donationd slow'"))
        moment.rows("ping")


def test_account_names_are_those_of_the_file(export: Export, world: str, tmp_path: Path) -> None:
    """The printed default gives the same journal; a changed name is used, for one ticket too."""
    accounts = tmp_path / "accounts.toml"
    for name, changed in (("hledger", "income:roof appeal"), ("beancount", "Income:Roof")):
        default = export("entries", "--format", name)
        accounts.write_bytes(export("accounts", name))
        assert export("entries", "--format", name, "--accounts", accounts) == default
        with accounts.open("a", encoding="utf-8") as file:
            file.write(f'[tickets.story-1]\npayment = "{changed}"\n')
        journal = export("entries", "--format", name, "--accounts", accounts).decode()
        assert journal.count(f"    {changed}  ") == sum(
            row["ticketId"] == "story-1" and row["kind"] == "payment" for row in parsed(export("entries"))
        )


def test_a_ticket_in_a_beancount_account_is_a_valid_part(export: Export, world: str, tmp_path: Path) -> None:
    """With {ticket} in the names, beancount accepts the accounts of every ticket, and of none."""
    accounts, journal = tmp_path / "accounts.toml", tmp_path / "journal"
    text = export("accounts", "beancount").decode().replace('"Income:Donations', '"Income:Donations:{ticket}')
    accounts.write_text(text, encoding="utf-8")
    export("entries", "--format", "beancount", "--accounts", accounts, "--out", journal)
    assert movements_in_beancount(journal) == totals(world)
    assert b"Income:Donations:Story-2 " in journal.read_bytes()
    assert b"Income:Donations:NoTicket " in journal.read_bytes()


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition is met."""
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
