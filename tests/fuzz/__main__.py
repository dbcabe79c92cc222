"""`make fuzz`: unexpected inputs for everything that reads data from outside.

Environment:
  N     cases in all, 20000 unless given
  SEED  which; the same seed tries the same inputs again (what several clients do at once differs all the same)

python -m tests.fuzz                      all of it
python -m tests.fuzz repeat TARGET FILE   one input of build/fuzz/ once more; surface-… files are bytes to send

The table goes to stdout, progress to stderr. Exit status 0 if nothing was found, 1 if something was, 130 after Ctrl-C.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tests.fuzz import asking, drawn, guided, surface, whole_payments
from tests.fuzz.outcome import Outcome
from tests.fuzz.site import site
from tests.fuzz.target import TARGETS, load
from tests.support.guard import guarded

CASES = 20_000
# Of all cases, in thousandths: what is quick gets many, and what several processes must agree on is slower.
GUIDED = {"reading": 350, "folding": 80, "signing": 90, "parsing": 100}
DRAWN = {"reading": 10, "folding": 10, "signing": 5, "parsing": 5}
LIVING, ASKING, SURFACE = 10, 20, 320


def main(words: list[str]) -> int:
    """Runs everything; returns the exit status."""
    for sig in (signal.SIGINT, signal.SIGTERM):  # also where a shell's `&` made this process ignore Ctrl-C
        signal.signal(sig, signal.default_int_handler)
    if words[:1] == ["repeat"] and len(words) == 3 and words[1] in TARGETS:
        with guarded():
            load(words[1]).check(Path(words[2]).read_bytes())
        return 0
    if words:
        print(__doc__)
        return 0 if words in (["--help"], ["-h"]) else 2
    try:
        cases, seed = (int(os.environ.get(name) or default) for name, default in (("N", CASES), ("SEED", 1)))
    except ValueError:
        print("N and SEED: whole numbers", file=sys.stderr)
        return 2
    outcomes: list[Outcome] = []
    status = 0
    try:
        with guarded():
            _run(cases, seed, outcomes)
    except KeyboardInterrupt:
        status = 130
    print(_report(outcomes, seed))
    return status or int(any(outcome.findings for outcome in outcomes))


def _run(cases: int, seed: int, outcomes: list[Outcome]) -> None:
    """One part after the other; each is in `outcomes` from its beginning, so that Ctrl-C leaves what there is."""
    began_s = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    def part(name: str, engine: str, thousandths: int) -> Outcome:
        outcome = Outcome(name, engine, max(1, cases * thousandths // 1000))
        say(f"{name}: {outcome.wanted:,} cases by {engine}")
        outcomes.append(outcome)
        return outcome

    for name, thousandths in DRAWN.items():
        drawn.run_target(part(name, "Hypothesis", thousandths), seed, say)
    drawn.run(part("whole_payments", "Hypothesis", LIVING), whole_payments.WORLDS, whole_payments.check, seed, say)
    if guided.possible():
        for name, thousandths in GUIDED.items():
            guided.run(part(name, "atheris", thousandths), seed, say)
    else:
        say("atheris has no wheel for this Python: only what Hypothesis draws is tried")
    say("starting an instance")
    with site() as running:
        drawn.run(part("asking", "Hypothesis", ASKING), asking.QUESTIONS, asking.asker(running), seed, say)
        sending = part("surface", "sockets", SURFACE)
        surface.run(sending, running, seed, say)
        sending.findings += (f"afterwards: {fault}" for fault in running.faults())


def _report(outcomes: list[Outcome], seed: int) -> str:
    findings = [found for outcome in outcomes for found in outcome.findings]
    cases = sum(outcome.cases for outcome in outcomes)
    rows = [outcome.row() for outcome in outcomes]
    return "\n".join([*rows, *findings, f"{cases:,} cases, seed {seed}: {len(findings) or 'nothing'} found"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
