"""The benchmark's own logic: what is sent, and how the figures are judged."""

import json
import re
from pathlib import Path

import pytest

from daemon.api.signature import signing_state, verify
from daemon.ledger import stripe_events
from daemon.ledger.facts import object_ids
from tests.bench import conditions, hostile, peers
from tests.bench.conditions import Conditions, CoreTicks, ProcessTicks, between, family
from tests.bench.deliveries import Seen, Watched
from tests.bench.figures import FIGURES, PEER_FIGURES, Figure, foreign, table
from tests.bench.flood import KINDS, Flooded
from tests.bench.machine import Broken
from tests.bench.stream import Pool, Stream, request
from tests.support.process import ROOT

SECRET = "whsec_bench"
DOCUMENTED = (ROOT / "deploy" / "docs" / "figures.md").read_text().partition("\n## Cost\n")[2]
AT = 1_760_000_000


def test_every_event_is_new_signed_and_can_be_applied() -> None:
    """Over several passes no id comes twice, and each request's signature and body are good."""
    pool = Pool(payments=20)
    bodies = Stream(pool, ["a", "b"]).take(3 * len(pool.events))
    ids = {stripe_events.read(body, livemode=False, hash_key=None).id for body in bodies}
    assert len(ids) == len(bodies)
    head, _, body = request(bodies[0], SECRET, AT).partition(b"\r\n\r\n")
    [signature] = [line.partition(": ")[2] for line in head.decode().splitlines() if line.startswith("Stripe-Sig")]
    assert verify(body, signature, [signing_state(SECRET)], AT) == AT


def test_the_events_of_a_payment_belong_together() -> None:
    """The events of a payment name the same objects, so that most of a stream is about donations already begun."""
    pool = Pool(payments=300)
    seen: set[str] = set()
    known = 0
    bodies = Stream(pool, ["a", "b"]).take(12 * len(pool.events))
    for body in bodies:
        named = object_ids(stripe_events.read(body, livemode=False, hash_key=None).facts or {})
        known += not named.isdisjoint(seen)
        seen |= named
    assert known > len(bodies) / 2


def test_what_was_not_dropped_comes_again() -> None:
    """Events that were prepared and not sent are the next ones."""
    stream = Stream(Pool(payments=20), ["a"])
    first = stream.peek(10)
    stream.drop(4)
    assert stream.take(6) == first[4:]


def test_a_figure_is_judged_by_its_direction() -> None:
    """At least, or at most: on the better side of the aim, of the requirement, or of neither."""
    rising = Figure("", "a", None, 0.6, 0.8)
    falling = Figure("", "a", None, 1.0, 0.5, rising=False)
    assert [rising.verdict(value) for value in (0.8, 0.6, 0.59)] == ["aim", "ok", "MISSED"]
    assert [falling.verdict(value) for value in (0.5, 1.0, 1.01)] == ["aim", "ok", "MISSED"]


def test_the_table_has_a_row_per_figure() -> None:
    """Ratios are formed round by round; the row shows their median, and the median of what the cores did meanwhile."""
    names = [name for figure in FIGURES for name in (figure.over, figure.under) if name]
    samples = {name: [2.0, 4.0, 9.0] for name in names}
    meanwhile = {name: [Conditions(0.2, 0.0), Conditions(0.4, 0.03), Conditions(0.5, 0.9)] for name in names}
    lines = table(FIGURES, samples, meanwhile).splitlines()
    assert len(lines) == 2 + len(FIGURES)
    assert "| 1.00 | 1.00 – 1.00 |" in lines[2]
    assert lines[2].endswith("| 40%, 40% | 3%, 3% |")
    assert foreign(meanwhile) == (0.03, 0.9)


def test_each_figure_with_its_requirement_is_documented() -> None:
    """deploy/docs/figures.md lists the rows that `make bench` prints, in their order, with what they require."""
    documented = re.findall(r"^\| ([^|]+) \|[^|]*\|[^|]*\| ([≥≤] [0-9.]+) \| ([0-9.]+) \|", DOCUMENTED, re.MULTILINE)
    rows = [
        (figure.name, f"{'≥' if figure.rising else '≤'} {figure.required:.2f}", f"{figure.aimed:.2f}")
        for figure in FIGURES + PEER_FIGURES
    ]
    assert documented == rows


def test_what_other_processes_use_is_foreign() -> None:
    """Of the cores' work, what ours did not do is foreign, and so is what the hypervisor took; idle includes waiting
    for the disk. A difference below zero, which rounding makes, is none.
    """
    earlier = CoreTicks.read("cpu  100 10 50 1000 40 5 5 7 0 0")
    later = CoreTicks.read("cpu  160 20 80 1060 60 10 10 17 0 0")
    ours = {1: 60, 2: 10}
    assert between(earlier, later, ours) == Conditions(idle=80 / 200, foreign=40 / 200, used=ours, total=200)
    assert between(earlier, later, {1: 150}).foreign == 0


def test_the_work_of_children_that_have_ended_is_ours() -> None:
    """A child's time counts while it runs and after it has ended; that of a stranger never counts."""
    line = "7 (a ) strange name) S 3 7 7 0 -1 4194560 1 0 0 0 11 2 30 4 20 0 1 0 99 1 1"
    assert ProcessTicks.read(line) == ProcessTicks(parent=3, used=47)
    processes = {3: ProcessTicks(1, 0), 7: ProcessTicks(3, 47), 8: ProcessTicks(7, 1), 9: ProcessTicks(1, 5)}
    assert family(processes, {3}) == {3, 7, 8}


def test_the_interpreter_is_stated_with_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader sees whether the build was optimised, as the options of its configuration say."""
    for options, stated in (("'--enable-optimizations' '--with-lto'", "built with --"), (None, "built without --")):
        monkeypatch.setattr("sysconfig.get_config_var", {"CONFIG_ARGS": options}.get)
        assert stated in conditions.interpreter()


@pytest.mark.parametrize("asked", ["", "0", "1"])
def test_without_npm_the_peers_are_left_out(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """They run only where PEERS asks for them; where npm is missing, one line names it and what installs it."""
    monkeypatch.setenv("PEERS", asked)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not peers.wanted()
    printed = capsys.readouterr().err
    assert printed == ("" if asked != "1" else peers_missing("node and npm"))


def peers_missing(programs: str) -> str:
    return f"bench: the rows of the peers are left out, because {programs} can't be found: apt-get install nodejs npm\n"


def test_the_peers_are_installed_as_locked() -> None:
    """Every package that the peers name is locked in exactly that version, with a digest and without a registry."""
    named = json.loads((peers.SOURCES / "package.json").read_text())["dependencies"]
    locked = json.loads((peers.SOURCES / "package-lock.json").read_text())["packages"]
    assert all(locked[f"node_modules/{name}"]["version"] == version for name, version in named.items())
    assert all(package["integrity"].startswith("sha512-") for path, package in locked.items() if path)
    assert not any("resolved" in package for package in locked.values())


def test_a_row_shows_what_misses_its_requirement() -> None:
    """One delivery of 50 that is refused, or a slow health check, stands out; what holds does not."""
    deliveries, health = Seen(), Seen()
    for number in range(50):
        deliveries.note(200 if number else 503, 0.2)
        health.note(200, 0.01 if number else 0.15)
    flooded = Flooded({"404": 1200}, connections_failed=3, ended_without_reply=0, cpu_s=1.0)
    row = hostile.Row("unknown-paths", "direct", Watched(deliveries, health), flooded, peak_mb=61.7)
    assert str(row) == "| unknown-paths | direct | **0.980** | 200 | **150** | 62 | 404: 1,200, 3 not connected |"


def test_rows_are_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of both ways unless named; a name that does not exist is reported."""
    monkeypatch.delenv("KIND", raising=False)
    monkeypatch.delenv("THROUGH", raising=False)
    assert len(hostile.chosen()) == 2 * (len(KINDS) + 1)
    monkeypatch.setenv("KIND", "slow-heads,none")
    monkeypatch.setenv("THROUGH", "direct")
    assert hostile.chosen() == [("slow-heads", "direct"), ("none", "direct")]
    monkeypatch.setenv("KIND", "slow-feet")
    with pytest.raises(Broken, match="slow-feet is none of none, unknown-paths"):
        hostile.chosen()
