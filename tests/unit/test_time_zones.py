"""Time zones come from the locked package, whatever the machine has."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tzdata

from daemon.api.config import CommandConfig, Config
from daemon.reports.time_zones import VERSION, UnknownTimeZone, load_time_zone, time_zone_names
from daemon.runtime.config import ConfigError

USABLE = {"DATABASE_URL": "postgresql://nowhere@127.0.0.1:1/none", "STRIPE_WEBHOOK_SECRET": "whsec_" + "test" * 8}
SUMMER = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def wrong_machine(tmp_path: Path) -> Iterator[None]:
    """A machine whose own file of Europe/Berlin is that of Tokyo."""
    wrong = tmp_path / "Europe" / "Berlin"
    wrong.parent.mkdir()
    wrong.write_bytes(Path(tzdata.__path__[0], "zoneinfo", "Asia", "Tokyo").read_bytes())
    zoneinfo.reset_tzpath(to=[tmp_path])
    zoneinfo.ZoneInfo.clear_cache()
    load_time_zone.cache_clear()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()
    load_time_zone.cache_clear()


def test_the_machines_own_files_are_not_read(wrong_machine: None) -> None:
    """A machine with other rules makes no difference."""
    assert zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(SUMMER) == timedelta(hours=9)
    assert load_time_zone("Europe/Berlin").utcoffset(SUMMER) == timedelta(hours=2)


def test_every_name_can_be_used() -> None:
    """Each name of the package has its rules there, and the setting accepts it."""
    assert {"UTC", "Europe/Berlin", "Pacific/Apia", "America/Argentina/Buenos_Aires"} <= set(time_zone_names())
    for name in time_zone_names():
        assert load_time_zone(name).key == name
        assert CommandConfig.from_environ({**USABLE, "REPORT_TIME_ZONE": name}).report_time_zone == name
    assert VERSION == tzdata.IANA_VERSION


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "europe/berlin", "../zones", "Europe", "Europe/Berlin\n", "\0"])
def test_an_unknown_name_is_refused(name: str) -> None:
    """What is no name of the package is not looked for anywhere."""
    with pytest.raises(UnknownTimeZone):
        load_time_zone(name)


def test_a_wrong_setting_is_a_sentence() -> None:
    """The API and the commands name the variable and what to use instead, and repeat nothing of the value."""
    for config in (Config, CommandConfig):
        with pytest.raises(ConfigError) as caught:
            config.from_environ({**USABLE, "REPORT_TIME_ZONE": "Europe/Berlim"})
        assert caught.value.problems == [
            f"REPORT_TIME_ZONE: tzdata {VERSION} has no time zone of this name; did you mean Europe/Berlin?"
        ]
        with pytest.raises(ConfigError, match="use a name such as Europe/Berlin"):
            config.from_environ({**USABLE, "REPORT_TIME_ZONE": "canary"})
