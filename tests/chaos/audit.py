"""Compares the replies that clients received with the guarantees and the database, and prints a table."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psycopg2

from daemon.ledger.verification import verify
from daemon.simulator.scenarios import Scenario
from sql.connection import Row
from sql.snapshot import snapshot
from tests.chaos.faults import Fault
from tests.chaos.load import NO_REPLY, Reply
from tests.chaos.site import DEADLINE_S
from tests.simulator.oracle import expected_donations
from tests.support.model_ledger import SHOWN, TOTALS, as_row, totals_of

MARGIN_S = 3.0  # beyond the deadline: client, proxies and faults share the processors with what they test
RECOVERY_S = 10.0  # what is promised of an outage's end
RECOVERY_MARGIN_S = 5.0

KNOWN_EVENTS = "SELECT id FROM stripe_events WHERE error IS NULL"


@dataclass
class Incident:
    """One fault that was done, in monotonic seconds; it has ended when everything is ready again."""

    fault: Fault
    began_s: float
    ended_s: float = float("inf")
    ready_s: float = float("inf")

    def overlaps(self, reply: Reply) -> bool:
        """Whether a request was on its way between the fault's beginning and the end of its consequences."""
        return reply.began_s <= self.ready_s and reply.ended_s >= self.began_s

    def silenced_s(self, reply: Reply) -> float:
        """For how long of a request's time it is possible that no process could answer it."""
        if not self.fault.hangs_up:
            return 0.0
        return max(0.0, min(reply.ended_s, self.ready_s) - max(reply.began_s, self.began_s))


@dataclass
class Verdict:
    """Everything that must be zero, by its name in the table, and up to a few examples of each; and other figures."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, found: Iterable[str]) -> None:
        """Adds what was found; nothing adds a zero."""
        listed = list(found)
        self.counts[name] += len(listed)
        self.examples += [f"{name}: {each}" for each in listed[:5]]

    @property
    def clean(self) -> bool:
        """Whether all of it is zero."""
        return not any(self.counts.values())


@dataclass
class Record:
    """What happened at one site."""

    incidents: list[Incident]
    replies: list[Reply]
    scenarios: list[Scenario]
    unready_s: list[float]  # the moments when an API process would have stopped to believe the sidecar
    whole: bool  # whether every event was delivered in the end, so that the scenarios can be compared with the ledger


def judge_replies(record: Record, verdict: Verdict) -> None:
    """What clients met: statuses, times, and whether everything came back."""
    incidents, replies = record.incidents, record.replies
    verdict.count("unexpected replies", _unexpected(incidents, replies))
    verdict.count("replies over the deadline", _late(incidents, replies))
    verdict.count("slow recoveries", _slow(incidents))
    verdict.count("new after it was acknowledged", _twice(replies))


def judge_ledger(record: Record, url: str, verdict: Verdict) -> None:
    """What the database holds, against what was acknowledged and what the model expects."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:

        def rows(sql: str) -> list[Row]:
            cursor.execute(sql)
            return cursor.fetchall()

        known = {id_ for (id_,) in rows(KNOWN_EVENTS)}
        acknowledged = {reply.event for reply in record.replies if reply.status == 200}
        verdict.count("acknowledged and missing", acknowledged - known)
        if not record.whole:
            return
        ends = [end for scenario in record.scenarios for end in expected_donations(scenario)]
        verdict.count("wrong donations", _differences(rows(SHOWN), [as_row(end) for end in ends]))
        verdict.count("wrong totals", _differences(rows(TOTALS), totals_of(ends)))
    with snapshot(url, "donationd chaos") as moment:
        verdict.count("ledger against its facts", map(str, verify(moment, lambda _done: None)))


def judge_supervisord(log: Path, verdict: Verdict) -> None:
    """No outage may end in a state that needs a person."""
    verdict.count("given up by supervisord", [line for line in log.read_text().splitlines() if "FATAL" in line])


def _differences(stored: Sequence[Row], expected: Sequence[Row]) -> Iterator[str]:
    for row in set(stored) ^ set(expected):
        yield f"{'stored' if row in stored else 'expected'} {row[:7]}"


def _unexpected(incidents: Sequence[Incident], replies: Sequence[Reply]) -> Iterator[str]:
    """Anything but 200; a 503 away from any fault; no reply where nothing took away who should answer."""
    for reply in replies:
        near = [incident for incident in incidents if incident.overlaps(reply)]
        honest = {200} | ({503} if any(not incident.fault.is_apart for incident in near) else set())
        if any(incident.fault.hangs_up for incident in near):
            honest.add(NO_REPLY)
        if reply.status not in honest:
            what = str(reply.status) if reply.status else f"no reply after {reply.ended_s - reply.began_s:.2f} s"
            last = max((i for i in incidents if i.began_s < reply.ended_s), key=lambda i: i.began_s, default=None)
            after = f"{reply.ended_s - last.began_s:.2f} s after: {last.fault.name}" if last else "before any fault"
            yield f"{what}, {after}"


def _late(incidents: Sequence[Incident], replies: Sequence[Reply]) -> Iterator[str]:
    for reply in replies:
        took_s = reply.ended_s - reply.began_s
        if took_s > DEADLINE_S + MARGIN_S and (
            took_s - sum(incident.silenced_s(reply) for incident in incidents) > DEADLINE_S + MARGIN_S
        ):
            yield f"{reply.event}: {took_s:.1f} s"


def _slow(incidents: Sequence[Incident]) -> Iterator[str]:
    for incident in incidents:
        took_s = incident.ready_s - incident.ended_s
        if took_s > RECOVERY_S + RECOVERY_MARGIN_S:
            yield f"{incident.fault.name}: {took_s:.1f} s"


def _twice(replies: Sequence[Reply]) -> Iterator[str]:
    """Events that were called new although an earlier delivery had been acknowledged: lost, or applied twice.

    Two deliveries at the same time may both be called new: they are one write.
    """
    acknowledged_s: dict[str, float] = {}
    for reply in sorted((r for r in replies if r.status == 200), key=lambda r: r.ended_s):
        if reply.idempotent is False and acknowledged_s.get(reply.event, math.inf) < reply.began_s:
            yield reply.event
        acknowledged_s.setdefault(reply.event, reply.ended_s)


# --- The table ---------------------------------------------------------------------------------------------------


def noticed_s(incident: Incident, replies: Sequence[Reply]) -> float | None:
    """From the fault's beginning to the first request that got no 200; None if none did."""
    failed = [r.ended_s for r in replies if r.status != 200 and incident.overlaps(r) and r.ended_s > incident.began_s]
    return min(failed) - incident.began_s if failed else None


def unready_s(incident: Incident, moments: Sequence[float]) -> float | None:
    """From the fault's beginning to the moment when readiness was lost; None if it was not."""
    lost = [moment for moment in moments if incident.began_s <= moment <= incident.ready_s]
    return lost[0] - incident.began_s if lost else None


def served_s(incident: Incident, replies: Sequence[Reply]) -> float | None:
    """From the fault's end to the end of the first request begun since then that got a 200."""
    served = [reply.ended_s for reply in replies if reply.status == 200 and reply.began_s >= incident.ended_s]
    return min(served) - incident.ended_s if served else None


def gap_s(incident: Incident, replies: Sequence[Reply]) -> float:
    """The longest time without a 200 from the fault's beginning until everything was ready again."""
    begin, end = incident.began_s, incident.ready_s
    moments = sorted(r.ended_s for r in replies if r.status == 200 and begin <= r.ended_s <= end)
    return max(later - earlier for earlier, later in pairwise([begin, *moments, end]))


def table(records: Sequence[Record], verdict: Verdict) -> str:
    """Per kind of fault how often and how fast, and below it what must be zero."""
    measured = "".join(
        f"{name:>15}" for name in ("noticed s", "not ready s", "no 200 for s", "200 again s", "all well s")
    )
    lines = [f"{'kind of fault':<36}{'n':>4}{'503':>7}{'none':>6}{measured}", " " * 53 + "   median   max" * 5]
    kinds = {incident.fault.name: None for record in records for incident in record.incidents}
    lines += [_line(name, records) for name in kinds]
    replies = Counter(reply.status for record in records for reply in record.replies)
    lines += ["", f"{sum(replies.values())} requests: {_said(replies)}", ""]
    lines += [f"{name:<36}{count:>4}" for name, count in verdict.counts.items()]
    figures = [f"{count} {name}" for name, count in sorted(verdict.figures.items())]
    return "\n".join(
        [*lines, *(["", *figures] if figures else []), *(["", *verdict.examples] if verdict.examples else [])]
    )


def _said(replies: Counter[int]) -> str:
    return ", ".join(f"{count} {status or 'without reply'}" for status, count in sorted(replies.items()))


def _line(name: str, records: Sequence[Record]) -> str:
    pairs = [(i, record) for record in records for i in record.incidents if i.fault.name == name]
    met = Counter(reply.status for i, record in pairs for reply in record.replies if i.overlaps(reply))
    times = [
        _figure(noticed_s(i, record.replies) for i, record in pairs),
        _figure(unready_s(i, record.unready_s) for i, record in pairs),
        _figure(gap_s(i, record.replies) for i, record in pairs),
        _figure(served_s(i, record.replies) for i, record in pairs),
        _figure(i.ready_s - i.ended_s for i, _record in pairs),
    ]
    return f"{name:<36}{len(pairs):>4}{met[503]:>7}{met[NO_REPLY]:>6}" + "".join(times)


def _figure(measured: Iterable[float | None]) -> str:
    found = [took_s for took_s in measured if took_s is not None and math.isfinite(took_s)]
    return f"{statistics.median(found):>9.2f}{max(found):>6.2f}" if found else f"{'-':>9}{'-':>6}"
