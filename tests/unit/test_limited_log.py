"""Lines that may repeat are limited in rate, and none is lost from the count."""

from collections.abc import Callable

from structlog.testing import capture_logs

from daemon.runtime.rate_limited_log import LINES_PER_S, CountingLog, IncidentLog, RateLimitedLog


def test_some_lines_a_second_then_one_that_counts_the_rest() -> None:
    """In each second so many lines; the rest is one line with their number; the next second begins anew."""
    now, later = [0.0], list[Callable[[], None]]()
    clock, postpone = (lambda: now[0]), (lambda _delay_s, call: later.append(call))
    lines = RateLimitedLog("warning", "event {}", "… and {} more", clock=clock, later=postpone)
    with capture_logs() as written:
        for second in range(2):
            now[0] = float(second)
            for _ in range(LINES_PER_S + 7):
                lines.write("evt_1", request="a-1")
        assert [line["event"] for line in written] == ["event evt_1"] * 2 * LINES_PER_S
        [count_the_rest] = later
        count_the_rest()
        assert (written[-1]["event"], written[-1]["log_level"]) == ("… and 14 more", "warning")
        now[0] = 2.0
        lines.write("evt_1")
        assert written[-1]["event"] == "event evt_1"


def test_an_incident_is_logged_once_and_then_counted_until_it_is_over() -> None:
    """Its first line has all details, and while it lasts there are only counts; the next one begins again."""
    later = list[Callable[[], None]]()
    incident = IncidentLog("warning", "down", later=lambda _delay_s, call: later.append(call))
    with capture_logs() as lines:
        for number in range(1000):
            incident.report("disk full", request=f"a-{number}")
        incident.report("timeout")
        assert [line["event"] for line in lines] == ["down: disk full", "down: timeout"]
        assert lines[0]["request"] == "a-0"
        for tally in (later.pop(0), later.pop(0), *later):
            tally()
        assert [line["event"] for line in lines[2:]] == ["down: disk full, 999 times more"]
        [tally] = later
        tally()
        incident.report("disk full")
        assert [line["event"] for line in lines[3:]] == ["down: disk full"]


def test_all_refusals_are_one_line() -> None:
    """However many are rejected, one line has the number for each reason, and the next only if there are more."""
    later = list[Callable[[], None]]()
    tally = CountingLog("refused", later=lambda _delay_s, call: later.append(call))
    with capture_logs() as lines:
        for reason in ["mismatch"] * 1000 + ["no event"] * 2:
            tally.count(reason)
        [write] = later
        write()
        assert lines == [{"event": "refused", "log_level": "warning", "mismatch": 1000, "no_event": 2}]
        tally.count("mismatch")
        assert len(later) == 2
        later[1]()
        assert lines[1:] == [{"event": "refused", "log_level": "warning", "mismatch": 1}]
