"""Inputs guided by coverage: libFuzzer, through atheris, in a process of its own, which it ends itself.

`python -m tests.fuzz.guided TARGET [libFuzzer's flags] SEEDS` is that process.
"""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.outcome import Outcome, Say, finding
from tests.fuzz.target import load

CASE_TIMEOUT_S = 10
MEMORY_MB = 2048
PROGRESS_S = 10.0
RUNS = re.compile(r"#(\d+)\t")
COVERED = re.compile(r"cov: (\d+) ft: (\d+)")
CRASH = "=== Uncaught Python exception: ==="


def possible() -> bool:
    """Whether this Python has atheris; its wheels are for some versions on Linux only."""
    return importlib.util.find_spec("atheris") is not None


def run(outcome: Outcome, seed: int, say: Say) -> None:
    """Fuzzes the one of TARGETS that the outcome is named after, and ends its process whatever happens."""
    name, began_s = outcome.name, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="donationd-fuzz-") as folder:
        corpus, found = Path(folder) / "corpus", Path(folder) / "found"
        corpus.mkdir()
        found.mkdir()
        for number, data in enumerate(load(name).seeds(seed)):
            (corpus / f"{number}").write_bytes(data)
        flags = {
            "runs": outcome.wanted,
            "seed": seed % 2**31 + 1,  # 0 would mean the clock
            "timeout": CASE_TIMEOUT_S,
            "rss_limit_mb": MEMORY_MB,
            "max_len": load(name).longest,
            "len_control": 0,
            "artifact_prefix": f"{found}/",
        }
        words = [f"-{flag}={value}" for flag, value in flags.items()]
        command = [sys.executable, "-m", "tests.fuzz.guided", name, *words, str(corpus)]
        environ = {**os.environ, "PYTHONHASHSEED": "0"}  # the same seed shall do the same again
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            problem = _listen(process, outcome, say)
            process.wait()
        finally:
            outcome.seconds = time.monotonic() - began_s
            process.kill()
            process.wait()
        inputs = [path.read_bytes() for path in sorted(found.iterdir())]
        if process.returncode != 0 or inputs:
            outcome.findings.append(finding(name, problem or f"ended with {process.returncode}", *inputs))


def _listen(process: subprocess.Popen[str], outcome: Outcome, say: Say) -> str:
    """Takes what libFuzzer prints: progress into the outcome. Returns what went wrong, if anything did."""
    assert process.stdout is not None
    spoken_s = time.monotonic()
    lines = iter(process.stdout)
    for line in lines:
        if runs := RUNS.match(line):
            outcome.cases = int(runs[1])
        if covered := COVERED.search(line):
            outcome.detail = f"{covered[1]} branches, {covered[2]} features of them"
        if time.monotonic() - spoken_s > PROGRESS_S:
            spoken_s = time.monotonic()
            say(f"{outcome.name}: {outcome.cases:,} of {outcome.wanted:,}, {outcome.detail}")
        if CRASH in line:
            return _reason(lines)
        if line.startswith("==") and "ERROR" in line:  # a timeout, or too much memory
            return line.split("ERROR:", 1)[1].strip()
    return ""


def _reason(lines: Iterator[str]) -> str:
    """The exception and the last place that are printed after a crash."""
    text = list(lines)
    end = next((n for n, line in enumerate(text) if line.startswith("==")), len(text))
    places = [line.strip() for line in text[:end] if line.startswith("  File")]
    return " ".join([text[0].strip() if text else "", *places[-1:]])


def main() -> None:
    """libFuzzer's process. Never returns."""
    import atheris  # noqa: PLC0415 - not everywhere

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with atheris.instrument_imports(include=["daemon", "health_sidecar"], exclude=["daemon.simulator"]):
        target = load(sys.argv[1])

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            changed: bytes = atheris.Mutate(data, max_size)
            return changed
        return target.change(data, rng)[:max_size]

    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
