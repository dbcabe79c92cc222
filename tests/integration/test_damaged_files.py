"""A damaged file of a process costs what it holds and nothing else, is named in the log, and is replaced."""

import json
import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import cache, partial
from itertools import cycle
from pathlib import Path

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from daemon.runtime.metrics_files import MetricsFiles
from health_sidecar import process_states
from health_sidecar.history import History, Run
from health_sidecar.metrics import Metrics, build_registry
from health_sidecar.process_states import Process
from tests.support.instance import eventually
from tests.support.live import TICKET, Live, Program, living
from tests.support.postgres import USER

# --- Kinds of damage --------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    """As after a power failure."""
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    """In the middle of an entry."""
    os.truncate(path, 50)


def random_bytes(path: Path) -> None:
    """Something else's content."""
    path.write_bytes(bytes(range(256)) * 64)


def endless(path: Path) -> None:
    """An entry of negative length, at which the library's reader goes round for ever."""
    path.write_bytes(b"\x40\0\0\0\0\0\0\0" + b"\xf4\xff\xff\xff" + bytes(52))


def folder(path: Path) -> None:
    """A folder in its place, not empty."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").write_text("")


def fifo(path: Path) -> None:
    """Reading it waits for a writer that never comes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    """It cannot be opened at all, whatever its permissions."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as short:
        listener.bind(f"{short}/s")
        shutil.move(f"{short}/s", path)


def link_to_itself(path: Path) -> None:
    """A symbolic link that leads nowhere."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def unreadable(path: Path) -> None:
    """As after a change of its owner."""
    path.touch()
    path.chmod(0)


Damage = Callable[[Path], None]
DAMAGES: list[Damage] = [empty, cut_off, random_bytes, endless, folder, fifo, unix_socket, link_to_itself]
if os.geteuid() != 0:  # who may read everything
    DAMAGES.append(unreadable)

# --- Reading ----------------------------------------------------------------------------------------------------------

Key = tuple[str, str, list[str], list[str], str]  # metric, sample, the labels' names and values, help
EVENTS: Key = ("webhook_events", "webhook_events_total", ["type", "outcome"], ["charge.succeeded", "applied"], "Events")
SECONDS: Key = ("webhook_duration_seconds", "webhook_duration_seconds_bucket", ["le"], ["0.1"], "Time")
SECONDS_SUM: Key = ("webhook_duration_seconds", "webhook_duration_seconds_sum", [], [], "Time")


def write_slot(folder: Path, slot: int, events: int) -> Path:
    """Two files of a slot, as prometheus-client itself writes them; returns that of the counters."""
    counters, histograms = folder / f"counter_{slot}.db", folder / f"histogram_{slot}.db"
    for path, metric, value in ((counters, EVENTS, events), (histograms, SECONDS, 1.0), (histograms, SECONDS_SUM, 0.1)):
        file = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        file.write_value(mmap_key(*metric), value, 0.0)  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]
    return counters


def figures(page: bytes) -> dict[str, float]:
    """The samples of a metrics page, each with its labels as the page writes them."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def events(page: bytes) -> float:
    """All webhooks that are counted."""
    return sum(value for name, value in figures(page).items() if name.startswith("webhook_events_total"))


@pytest.fixture
def metrics_folder(tmp_path: Path) -> Path:
    """Files of two slots, with 3 and 4 events."""
    write_slot(tmp_path, 0, 3)
    write_slot(tmp_path, 1, 4)
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_metrics_file_costs_its_own_figures_and_is_named_once(damage: Damage, metrics_folder: Path) -> None:
    """Every other figure is on the page, however often it is asked for; the log has a line when it begins and one when
    it is over."""
    path, registry = metrics_folder / "counter_0.db", build_registry(Metrics(), metrics_folder)
    before = figures(generate_latest(registry))
    damage(path)
    with capture_logs() as lines:
        for _ in range(3):
            page = generate_latest(registry)
            assert events(page) == 4
            assert set(figures(page)) == set(before)
            assert figures(page)["webhook_duration_seconds_count[]"] == 2
        [line] = lines
        assert (line["path"], line["log_level"]) == (str(path), "warning")
        shutil.rmtree(path) if damage is folder else path.unlink()
        write_slot(metrics_folder, 0, 3)
        for _ in range(3):
            assert events(generate_latest(registry)) == 7
        assert [(line["path"], line["log_level"]) for line in lines[1:]] == [(str(path), "info")]


def test_a_file_of_an_unknown_kind_costs_nothing(metrics_folder: Path) -> None:
    """What is no metrics file, by its name, is left out and named."""
    shutil.copy(metrics_folder / "counter_0.db", metrics_folder / "nothing_0.db")
    with capture_logs() as lines:
        assert events(generate_latest(build_registry(Metrics(), metrics_folder))) == 7
    assert [line["path"] for line in lines] == [str(metrics_folder / "nothing_0.db")]


@pytest.mark.parametrize("damage", [random_bytes, fifo])
def test_a_damaged_metrics_folder_costs_the_figures_of_the_api(damage: Damage, tmp_path: Path) -> None:
    """The sidecar's own figures are there, and the log names the folder."""
    damage(tmp_path / "metrics")
    with capture_logs() as lines:
        page = generate_latest(build_registry(Metrics(), tmp_path / "metrics"))
    assert figures(page)["db_ready[]"] == 0
    assert [line["path"] for line in lines] == [str(tmp_path / "metrics")]


FUZZED = settings(max_examples=40)


@cache
def good_figures() -> frozenset[str]:
    """What the page of a good slot has."""
    with tempfile.TemporaryDirectory() as folder:
        write_slot(Path(folder), 1, 4)
        return frozenset(figures(generate_latest(build_registry(Metrics(), Path(folder)))))


def check_fuzzed(content: bytes, kind: str) -> float:
    """The page with a slot's file of this content beside a good slot: it can be read, and lacks nothing of the good
    one. Returns how many events it counts."""
    with tempfile.TemporaryDirectory() as folder:
        write_slot(Path(folder), 1, 4)
        (Path(folder) / f"{kind}_0.db").write_bytes(content)
        page = generate_latest(build_registry(Metrics(), Path(folder)))
        assert good_figures() <= set(figures(page))
        return events(page)


KINDS = st.sampled_from(["counter", "histogram", "gauge_livesum", "gauge_max", "gauge_mostrecent"])


@FUZZED
@given(st.binary(max_size=300), KINDS)
def test_no_bytes_keep_the_page_from_being_read(content: bytes, kind: str) -> None:
    """Whatever a file holds, the page is answered and can be parsed, with all figures of the other files."""
    check_fuzzed(content, kind)


@FUZZED
@given(st.binary(max_size=100), st.integers(-64, 300), st.integers(-64, 300), KINDS)
def test_no_entry_keeps_the_page_from_being_read(key: bytes, used: int, length: int, kind: str) -> None:
    """The same, with a header and an entry in their places, and any numbers in them."""
    content = used.to_bytes(4, "little", signed=True) + bytes(4) + length.to_bytes(4, "little", signed=True) + key
    check_fuzzed(content + bytes(64), kind)


NAMES = st.text(st.characters(codec="utf-8"), max_size=8) | st.just("webhook_events_total")


@FUZZED
@given(st.lists(st.tuples(NAMES, NAMES, st.dictionaries(NAMES, NAMES, max_size=2), st.floats()), max_size=4), KINDS)
def test_no_key_and_no_value_keep_the_page_from_being_read(
    entries: list[tuple[str, str, dict[str, str], float]], kind: str
) -> None:
    """The same, with well-formed entries of any names, labels and values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        file = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        for metric, sample, labels, value in entries:
            key = mmap_key(metric, metric + sample, list(labels), list(labels.values()), "help")
            file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        file.close()  # type: ignore[no-untyped-call]
        check_fuzzed(path.read_bytes(), kind)


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real file with 3 events, without the unused rest."""
    content = write_slot(tmp_path_factory.mktemp("slot"), 0, 3).read_bytes()
    return content[: int.from_bytes(content[:4], "little")]


@FUZZED
@given(st.data())
def test_a_cut_file_is_left_out_as_a_whole(counters: bytes, data: st.DataObject) -> None:
    """Wherever it was cut, none of its counts is shown in part."""
    assert check_fuzzed(counters[: data.draw(st.integers(0, len(counters) - 1))], "counter") == 4
    assert check_fuzzed(counters, "counter") == 7


@FUZZED
@given(st.data())
def test_changed_bits_cost_no_other_figure(counters: bytes, data: st.DataObject) -> None:
    """A real file with a few other bytes in it: the page can be read, with all figures of the other files."""
    content = bytearray(counters)
    for position in data.draw(st.lists(st.integers(0, len(counters) - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    check_fuzzed(bytes(content), "counter")


# --- Writing ----------------------------------------------------------------------------------------------------------


def count(files: MetricsFiles, events: int) -> None:
    """As an API process counts."""
    files.value("counter", *EVENTS).inc(events)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_process_that_finds_its_file_damaged_replaces_it_and_says_so(damage: Damage, metrics_folder: Path) -> None:
    """It counts again from zero, and its other file goes on."""
    damage(metrics_folder / "counter_0.db")
    files = MetricsFiles(metrics_folder, "0")
    seconds = files.value("histogram", *SECONDS)
    count(files, 5)
    with capture_logs() as lines:
        files.keep()
        files.keep()
    [line] = lines
    assert line["path"] == str(metrics_folder / "counter_0.db")
    assert seconds.get() == 1
    assert events(generate_latest(build_registry(Metrics(), metrics_folder))) == 9


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
def test_a_file_damaged_under_a_running_process_is_written_again(damage: Damage, metrics_folder: Path) -> None:
    """No count is lost, not even one made before the damage is found; the log has one line."""
    files = MetricsFiles(metrics_folder, "0")
    count(files, 0)
    files.keep()
    damage(metrics_folder / "counter_0.db")
    count(files, 5)
    with capture_logs() as lines:
        files.keep()
        files.keep()
    [line] = lines
    assert line["path"] == str(metrics_folder / "counter_0.db")
    assert events(generate_latest(build_registry(Metrics(), metrics_folder))) == 12


def test_a_count_is_in_the_file_at_once(metrics_folder: Path) -> None:
    """A process that is killed has counted what it has done: with a new label too, and without another `keep`."""
    files = MetricsFiles(metrics_folder, "0")
    files.keep()
    count(files, 1)
    files.keep()
    count(files, 1)
    files.value("counter", *EVENTS[:3], ["charge.failed", "applied"], "Events").inc(1)
    assert events(generate_latest(build_registry(Metrics(), metrics_folder))) == 10


# --- The sidecar's own files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_the_sidecar_mean_zeros_and_are_replaced(damage: Damage, tmp_path: Path) -> None:
    """Its counters and the states of the processes begin anew, each file is named, and the next change is kept."""
    totals, states = tmp_path / "sidecar-totals.json", tmp_path / "processes.json"
    Metrics(totals).gate_run("failed")
    process_states.save(states, {"sidecar": Process(state="RUNNING", restarts=2)})
    damage(totals)
    damage(states)
    with capture_logs() as lines:
        metrics = Metrics(totals)
        page = generate_latest(build_registry(metrics, None, states))
        assert figures(page)["startup_gate_runs_total[('outcome', 'failed')]"] == 0
        assert not any(name.startswith("supervisord_process_restarts") for name in figures(page))
        assert [line["path"] for line in lines] == [str(totals), str(states)]
    metrics.gate_run("failed")
    process_states.save(states, {"sidecar": Process(state="RUNNING", restarts=3)})
    again = figures(generate_latest(build_registry(Metrics(totals), None)))
    assert again["startup_gate_runs_total[('outcome', 'failed')]"] == 1
    assert process_states.load(states)["sidecar"].restarts == 3


@FUZZED
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_no_content_of_the_sidecars_files_keeps_the_page_from_being_read(content: bytes) -> None:
    """Whatever they hold, the page is answered and can be parsed."""
    with tempfile.TemporaryDirectory() as name:
        totals, states = Path(name, "totals"), Path(name, "states")
        totals.write_bytes(content)
        states.write_bytes(content)
        assert figures(generate_latest(build_registry(Metrics(totals), None, states)))


COUNTS = st.dictionaries(
    st.sampled_from(["passed", "failed", "success", "failure", "else"]), st.integers() | st.floats()
)


@FUZZED
@given(st.fixed_dictionaries({"ping_failures": st.integers(), "reconnects": COUNTS, "gate_runs": COUNTS}))
def test_no_number_in_the_totals_keeps_the_page_from_being_read(totals: dict[str, object]) -> None:
    """The same, with the right fields and any numbers."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "totals")
        path.write_text(json.dumps(totals))
        assert len(figures(generate_latest(build_registry(Metrics(path), None)))) == len(
            figures(generate_latest(build_registry(Metrics(), None)))
        )


RUN = Run(kind="gate", ok=False, state="failed", detail="timeout", at=datetime(2026, 1, 1, tzinfo=UTC))


async def nothing_is_executed(_query: str, _values: object) -> list[tuple[object, ...]]:
    """A database that is not needed here."""
    raise AssertionError


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not empty])  # which is how it often is
def test_a_damaged_history_costs_its_rows_and_is_replaced(damage: Damage, tmp_path: Path) -> None:
    """Rows that wait for the database: what can be read of them stays, and the next one is kept."""
    path = tmp_path / "health-check-runs.jsonl"
    History(path, nothing_is_executed).record(RUN)
    damage(path)
    with capture_logs() as lines:
        history = History(path, nothing_is_executed)
    assert [line["path"] for line in lines] == [str(path)]
    assert history.waiting == []
    history.record(RUN)
    assert History(path, nothing_is_executed).waiting == [RUN]


# --- Both processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(database_url: str) -> str:
    """A ledger with a ticket and with the role that the processes log in as."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute((ROOT / "deploy" / "roles.sql").read_text())
        cursor.execute("INSERT INTO recording_tickets VALUES (%s)", [TICKET])
    return database_url


def page_of(live: Live) -> bytes:
    """What the sidecar's /metrics answers."""
    with urllib.request.urlopen(f"{live.sidecar_url}/metrics", timeout=30) as reply:  # noqa: S310 - our own
        page: bytes = reply.read()
    return page


def counts(live: Live, number: int) -> bool:
    """Whether so many webhooks are counted."""
    return events(page_of(live)) == number


SIDECAR_FILES = ("sidecar-totals.json", "health-check-runs.jsonl", "processes.json", "ledger-position.json")


def test_both_processes_start_with_every_file_damaged(ledger: str, tmp_path: Path) -> None:
    """They serve, count what they do, and name each file; once they are replaced nothing is missing."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    names = ["counter_0.db", "histogram_0.db", "gauge_max_0.db", "gauge_livesum_0.db", "gauge_mostrecent_0.db"]
    api_files = [metrics / name for name in names]
    sidecar_files = [tmp_path / name for name in SIDECAR_FILES]
    for path, damage in zip((*api_files, *sidecar_files), cycle([empty, random_bytes, folder, fifo]), strict=False):
        damage(path)

    def named(program: Program, words: str) -> set[str]:
        return {str(line["path"]) for line in program.lines(words)}

    with living(tmp_path, ledger.replace(USER, ROLE), ledger, {}) as live:
        assert live.post().status == 200
        eventually(partial(counts, live, 1), "the delivery is counted")
        written_again = {str(path) for path in api_files}
        eventually(lambda: named(live.api, "written again") == written_again, "each file of the API is named")
        unusable = {str(path) for path in sidecar_files}
        eventually(lambda: unusable <= named(live.sidecar, "cannot be used"), "each file of the sidecar is named")


def test_files_damaged_under_running_processes_lose_no_count(ledger: str, tmp_path: Path) -> None:
    """However a file is damaged, both processes go on, and a second later every delivery is counted."""
    with living(tmp_path, ledger.replace(USER, ROLE), ledger, {}) as live:
        for number, damage in enumerate([*DAMAGES, Path.unlink], start=1):
            for path in (tmp_path / "metrics").glob("*.db"):
                damage(path)
            assert live.post().status == 200
            eventually(partial(counts, live, number), "every delivery is counted")
            assert not live.ended
            for left in (tmp_path / "metrics").glob("*.damaged"):
                shutil.rmtree(left)
