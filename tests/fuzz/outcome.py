"""What became of one part of a run, and how it is said."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN_BYTES = 2000  # of an input in a finding
KEPT = ROOT / "build" / "fuzz"

Say = Callable[[str], None]


@dataclass
class Outcome:
    """Cases run by one engine on one target, and what they found.

    Attributes:
        findings: each a reproducible input with what it broke; the inputs are made up.
        detail: what else is reported: coverage, replies by status.
    """

    name: str
    engine: str
    wanted: int
    cases: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)
    detail: str = ""

    @property
    def whole(self) -> bool:
        """Whether all cases were run."""
        return self.cases >= self.wanted

    def row(self) -> str:
        """A line of the table."""
        rate = self.cases / self.seconds if self.seconds else 0
        found = f"{len(self.findings)} FOUND" if self.findings else "-" if self.whole else "cut short"
        return f"{self.name:<12} {self.engine:<11} {self.cases:>9,} {rate:>8,.0f}/s  {found:<9}  {self.detail}".rstrip()


def finding(name: str, problem: str, *inputs: bytes) -> str:
    """A finding as text: what broke, then each input as a Python literal and the file that keeps all of it."""
    lines = [f"{name}: {problem}"]
    for data in inputs:
        path = KEPT / f"{name}-{hashlib.blake2b(data, digest_size=4).hexdigest()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        cut = f" … of {len(data)} bytes" if data[SHOWN_BYTES:] else ""
        lines.append(f"{path.relative_to(ROOT)}: {data[:SHOWN_BYTES]!r}{cut}")
    return "\n    ".join(lines)


def error_line(error: BaseException) -> str:
    """An exception in a line, with the place that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "nowhere"
    return f"{type(error).__name__} at {place}: {error}"
