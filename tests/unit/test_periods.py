"""The periods of reports, in every time zone."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.reports.periods import EXAMPLES, NoPeriod, Period, Unit, day_begins, series
from daemon.reports.time_zones import UnknownTimeZone, load_time_zone, time_zone_names

DAY_S = 86_400
DAY = timedelta(days=1)
days = st.dates(date(1970, 1, 3), date(2999, 12, 20))
# Most changes of offsets and calendars are within these years.
eventful_days = st.dates(date(1970, 1, 3), date(2040, 1, 1))
zones = st.sampled_from(time_zone_names())


def local_date(instant: int, zone: str) -> date:
    return datetime.fromtimestamp(instant, UTC).astimezone(load_time_zone(zone)).date()


def forms(day: date) -> dict[str, str]:
    """How each period that begins with this day, or with its month, quarter or year, is written."""
    year, week, _ = day.isocalendar()
    return {
        "year": f"{day.year}",
        "quarter": f"{day.year}-Q{(day.month + 2) // 3}",
        "month": f"{day:%Y-%m}",
        "week": f"{year}-W{week:02}",
        "day": f"{day}",
        "range": f"{day}..{day}",
    }


@pytest.mark.parametrize(
    ("text", "zone", "begin", "end"),
    [
        ("2026", "UTC", "2026-01-01T00:00Z", "2027-01-01T00:00Z"),
        ("2026-Q4", "Europe/Berlin", "2026-09-30T22:00Z", "2026-12-31T23:00Z"),
        ("2024-q4", "America/New_York", "2024-10-01T04:00Z", "2025-01-01T05:00Z"),
        ("2026-02", "Asia/Kathmandu", "2026-01-31T18:15Z", "2026-02-28T18:15Z"),
        ("2026-W48", "UTC", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("2026-W53", "UTC", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),
        ("2024-02-29", "UTC", "2024-02-29T00:00Z", "2024-03-01T00:00Z"),
        ("2026-10-01..2026-12-31", "Europe/Berlin", "2026-09-30T22:00Z", "2026-12-31T23:00Z"),
        ("2026-03-29", "Europe/Berlin", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),  # 23 hours
        ("2026-10-25", "Europe/Berlin", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),  # 25 hours
        ("2026-04-05", "Australia/Lord_Howe", "2026-04-04T13:00Z", "2026-04-05T13:30Z"),  # 24.5 hours
        ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),  # begins at 1:00
        ("2011-12-29", "Pacific/Apia", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
        ("2011-12-30", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z"),  # does not exist
        ("2011-12-31", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
        ("1994", "Pacific/Kiritimati", "1994-01-01T10:00Z", "1994-12-31T10:00Z"),  # without its last day
        ("2025-11-02", "America/Havana", "2025-11-02T04:00Z", "2025-11-03T05:00Z"),  # its midnight is repeated
    ],
)
def test_a_period_is_the_instants_of_its_days(text: str, zone: str, begin: str, end: str) -> None:
    """From the first midnight, or what stands for it, to the one after the last day."""
    instants = [int(datetime.fromisoformat(each).timestamp()) for each in (begin, end)]
    assert Period.parse(text, zone) == (text.upper(), zone, *instants)


@pytest.mark.parametrize(
    "text",
    [
        *("", "26", "last year", "-2026", "2026 ", "2026\n", "٢٠٢٦", "2026-Q٤", "2026-2", "2026-11-26T00"),
        *("2026-Q5", "2026-Q0", "2026-13", "2026-00", "2025-W53", "2026-W00", "2026-02-29"),
        *("2026-12-31..2026-10-01", "2026-10-01..", "2026-Q1..2026-Q2", "2026-10-01..3000-01-01"),
        *("0000", "1969", "3000", "9999", "9999-12-31", "9999-W52", "9999-12-31..9999-12-31"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """What names no period is refused with examples, or with the reason, and is not repeated."""
    with pytest.raises(NoPeriod) as caught:
        Period.parse(text, "UTC")
    assert len(text) < 5 or text not in str(caught.value).replace(EXAMPLES, "")


def test_an_unknown_zone_is_refused() -> None:
    """A period needs a time zone that exists."""
    with pytest.raises(UnknownTimeZone):
        Period.parse("2026", "Europe/Berlim")


@given(zone=zones, day=eventful_days, far=days)
@example(zone="Pacific/Apia", day=date(2011, 12, 30), far=date(2999, 12, 20))
@example(zone="America/St_Johns", day=date(2010, 11, 7), far=date(1970, 1, 3))  # goes back to the day before at 0:01
def test_consecutive_periods_leave_no_gap_and_do_not_overlap(zone: str, day: date, far: date) -> None:
    """Each period of every form ends where the one that begins with the next day begins."""
    for first in (day, far):
        for name, text in forms(first).items():
            period = Period.parse(text, zone)
            assert period.begin <= period.end
            after = next(d for n in range(1, 368) if forms(d := first + n * DAY)[name] != text)
            if after.year < 3000:  # the last year that a period may be in is 2999
                assert Period.parse(forms(after)[name], zone).begin == period.end


@given(zone=zones, instant=st.integers(3 * DAY_S, 2_200_000_000))
@example(zone="Pacific/Apia", instant=1325239200)
@example(zone="Pacific/Apia", instant=1325239199)
def test_every_instant_is_in_the_day_that_the_calendar_shows(zone: str, instant: int) -> None:
    """Of all days around an instant exactly one contains it: the one that the zone's calendar shows; where the calendar
    went back over midnight, the later one.
    """
    shown = local_date(instant, zone)
    around = [Period.parse(str(shown + n * DAY), zone) for n in (-2, -1, 0, 1, 2)]
    [found] = [period.text for period in around if period.begin <= instant < period.end]
    if found != str(shown):
        assert found == str(shown + DAY)
        assert local_date(day_begins(shown + DAY, load_time_zone(zone)), zone) == shown + DAY


@given(zone=zones, day=eventful_days)
@example(zone="America/Toronto", day=date(1919, 3, 31))  # the clock went from 23:30 to 0:30
def test_a_day_begins_with_its_first_instant(zone: str, day: date) -> None:
    """The calendar shows the day, or a later one where there is none, when it begins, and an earlier one before."""
    begin = day_begins(day, load_time_zone(zone))
    assert local_date(begin, zone) >= day
    assert local_date(begin - 1, zone) < day


@given(unit=st.sampled_from(Unit), zone=zones, begin=st.integers(3 * DAY_S, 2**31), length=st.integers(1, 100 * DAY_S))
@example(unit=Unit.DAY, zone="Pacific/Apia", begin=1325239200 - DAY_S, length=3 * DAY_S)
@example(unit=Unit.DAY, zone="America/St_Johns", begin=1289100600, length=DAY_S)
def test_a_series_covers_its_range(unit: Unit, zone: str, begin: int, length: int) -> None:
    """Its periods follow each other from the first instant to the last one, and are written as people write them."""
    found = list(series(unit, begin, begin + length, zone))
    assert found[0].begin <= begin < found[0].end
    assert found[-1].begin < begin + length <= found[-1].end
    assert [period.end for period in found[:-1]] == [period.begin for period in found[1:]]
    assert all(period == Period.parse(period.text, zone) for period in found)
    form = {Unit.DAY: r"\d{4}-\d\d-\d\d", Unit.WEEK: r"\d{4}-W\d\d", Unit.MONTH: r"\d{4}-\d\d"}[unit]
    assert all(re.fullmatch(form, period.text) for period in found)
