"""Under which conditions something was measured: the interpreter and its build, and what the cores did meanwhile."""

import os
import platform
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

OPTIMISED = "--enable-optimizations"


def interpreter() -> str:
    """The interpreter of every Python process of the benchmark, and whether its build was optimised.

    It matters: Debian's Python, which is optimised, is up to 1.4 times faster than one that is not.
    """
    options = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    built = "with" if OPTIMISED in options else "without"
    return f"{platform.python_implementation()} {platform.python_version()} built {built} {OPTIMISED}"


@dataclass(frozen=True)
class Conditions:
    """What the cores did during a measurement, as shares of the time of all cores.

    Args:
        idle: they had nothing to do.
        foreign: they worked for processes that are not the benchmark's, or the hypervisor took them away.
        used: the clock ticks of each process of the benchmark, by its id, with those of its children that have ended.
        total: the ticks of all cores.
    """

    idle: float
    foreign: float
    used: Mapping[int, int] = field(default_factory=dict)
    total: int = 0


@dataclass(frozen=True)
class CoreTicks:
    """What the first line of /proc/stat counts since the machine started, in clock ticks of all cores (proc(5)).

    `working` is the time of processes, without that of the kernel's interrupts, which no process accounts for.
    """

    working: int
    idle: int
    stolen: int
    total: int

    @classmethod
    def read(cls, line: str) -> "CoreTicks":
        """Reads that line."""
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, line.split()[1:9])
        working = user + nice + system
        return cls(working, idle + iowait, steal, working + idle + iowait + irq + softirq + steal)


@dataclass(frozen=True)
class ProcessTicks:
    """From /proc/PID/stat: a process's parent, and the ticks that it and those of its children used that have ended."""

    parent: int
    used: int

    @classmethod
    def read(cls, line: str) -> "ProcessTicks":
        """Reads that line. The program's name in brackets may contain anything, spaces and brackets included."""
        fields = line.rpartition(")")[2].split()
        return cls(int(fields[1]), sum(map(int, fields[11:15])))


class Watch:
    """Watches the cores from now on."""

    def __init__(self) -> None:
        self._cores, self._ours = _core_ticks(), _our_ticks()

    def conditions(self) -> Conditions:
        """What the cores did since the watch began."""
        cores, ours = _core_ticks(), _our_ticks()
        # One that has ended meanwhile counts less than nothing, because its parent has all of its ticks now.
        used = {pid: ours.get(pid, 0) - self._ours.get(pid, 0) for pid in ours.keys() | self._ours.keys()}
        return between(self._cores, cores, used)


def between(earlier: CoreTicks, later: CoreTicks, used: Mapping[int, int]) -> Conditions:
    """The conditions between two readings, with the ticks that our own processes used.

    Both counts are rounded to ticks at different moments, so that a difference of few ticks may be below zero.
    """
    total = max(1, later.total - earlier.total)
    foreign = later.working - earlier.working - sum(used.values()) + later.stolen - earlier.stolen
    return Conditions((later.idle - earlier.idle) / total, max(0, foreign) / total, used, total)


def family(processes: dict[int, ProcessTicks], first: set[int]) -> set[int]:
    """The ids of these processes and of all that descend from them."""
    found, unseen = set(first), set(first)
    while unseen:
        unseen = {pid for pid, process in processes.items() if process.parent in unseen} - found
        found |= unseen
    return found


def _core_ticks() -> CoreTicks:
    with Path("/proc/stat").open() as lines:
        return CoreTicks.read(lines.readline())


def _our_ticks() -> dict[int, int]:
    """Those of this process, of PostgreSQL (which is no child of it) and of all that they have started."""
    processes = dict(_processes())
    ours = family(processes, {os.getpid(), *_servers()})
    return {pid: processes[pid].used for pid in ours & processes.keys()}


def _processes() -> Iterator[tuple[int, ProcessTicks]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            yield int(folder.name), ProcessTicks.read((folder / "stat").read_text())


def _servers() -> Iterator[int]:
    """Every process of a PostgreSQL that works in the folder for temporary files of this run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_postgres = (folder / "comm").read_text() == "postgres\n"
            if is_postgres and (folder / "cwd").readlink().is_relative_to(tempfile.gettempdir()):
                yield int(folder.name)
