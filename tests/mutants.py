"""`make mutants`: faults put into the fold and the merge one by one; the suite must go red for each.

SAMPLE=n takes every nth only. The exit status is 1 if a fault survives or no longer fits the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guard import guarded

ROOT = Path(__file__).parent.parent
PARTS = ("daemon", "health_sidecar", "sql", "tests", "deploy", "pyproject.toml", "README.md")
TESTS = (
    "tests/test_facts.py",
    "tests/test_simulate.py",
    "tests/test_any_order.py",
    "tests/test_recorder.py",
    "tests/test_operator.py",
)


@dataclass(frozen=True)
class Mutant:
    """One fault: what it is, and the text it replaces, which stands once in its file."""

    fault: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "first times are the latest",
        "daemon/fold.py",
        "(fact < held if isinstance(fact, int)",
        "(fact > held if isinstance(fact, int)",
    ),
    Mutant(
        "the oldest statement stands",
        "daemon/fold.py",
        "else fact > held)",
        "else fact < held)",
    ),
    Mutant(
        "a precedence swapped",
        "daemon/fold.py",
        '("pi", "ticket"), ("ch", "ticket")',
        '("ch", "ticket"), ("pi", "ticket")',
    ),
    Mutant(
        "an amount before the money received",
        "daemon/fold.py",
        '("pi", "received"), ("cs", "amount")',
        '("cs", "amount"), ("pi", "received")',
    ),
    Mutant("a comparison turned", "daemon/fold.py", "return made <= at", "return made < at"),
    Mutant(
        "a failed refund counted in every snapshot",
        "daemon/fold.py",
        ' and not refund.get("failed", at) < at',
        "",
    ),
    Mutant("a sum where a maximum belongs", "daemon/fold.py", "return max(0, beyond)", "return returned"),
    Mutant("a released hold refunded", "daemon/fold.py", " - _never_captured(of))", ")"),
    Mutant("disputes beyond the amount", "daemon/fold.py", "min(total, amount - refunded)", "min(total, amount)"),
    Mutant("an inquiry takes money", "daemon/fold.py", "if stage in TAKES_MONEY", "if stage in IS_DISPUTED"),
    Mutant("a declined card speaks first", "daemon/fold.py", 'return "captured" in member[1], ', "return False, "),
    Mutant("won before lost", "daemon/facts.py", '    "lost",\n    "won",', '    "won",\n    "lost",'),
    Mutant(
        "a hold is a payment",
        "daemon/facts.py",
        'bool(charge.paid and charge.captured and charge.status == "succeeded")',
        "bool(charge.paid)",
    ),
    Mutant(
        "only the first of several charges", "daemon/facts.py", "intent.charges.data if", "intent.charges.data[:1] if"
    ),
    Mutant("a float", "daemon/fold.py", "total += disputed if", "total += float(disputed) * 1.0000001 if"),
    Mutant("the other mode's events count", "daemon/facts.py", "if envelope.livemode != livemode:", "if False:"),
    Mutant(
        "a version not checked",
        "daemon/recorder.py",
        '{"n": n, "root": h.root, "version": h.version}',
        '{"n": n, "root": h.root, "version": h.version} if False else {"n": n, "root": h.root, "version": 1}',
    ),
    Mutant(
        "a stale group written",
        "sql/queries/record_events.sql",
        "email_hash text, session_id text, charge_id text, account text)\n    WHERE n NOT IN (TABLE stale)",
        "email_hash text, session_id text, charge_id text, account text)",
    ),
    Mutant(
        "an object that another writer has named meanwhile",
        "sql/queries/record_events.sql",
        "WHERE EXISTS (SELECT FROM stripe_objects o JOIN stripe_attributions a ON a.id = o.root WHERE o.id = i.id)",
        "WHERE false",
    ),
    Mutant(
        "objects that stay with the donation they were moved from",
        "sql/queries/record_events.sql",
        "unnest(f.unheld || f.moved)",
        "unnest(f.unheld)",
    ),
    Mutant(
        "a donation's money counted again at each change",
        "sql/queries/record_events.sql",
        "    SELECT -1, coalesce",
        "    SELECT 0, coalesce",
    ),
    Mutant(
        "a duplicate is new",
        "sql/queries/record_events.sql",
        "processed_at = now() WHERE known.error IS NOT NULL",
        "processed_at = now()",
    ),
    Mutant(
        "a session's donation stays beside its payment's",
        "sql/queries/record_events.sql",
        "(SELECT id FROM before EXCEPT SELECT id FROM after)",
        "(SELECT id FROM before WHERE false)",
    ),
    Mutant("no lock", "sql/queries/lock_ledger.sql", "pg_advisory_xact_lock(5011684202)", "1"),
    Mutant("an erased donor comes back", "daemon/recorder.py", "facts = fold.forget(facts)", "pass"),
)


def survives(mutant: Mutant) -> bool:
    """Whether the suite stays green with this fault. Raises LookupError if it no longer fits the code."""
    with tempfile.TemporaryDirectory(prefix="donationd-mutant-") as folder:
        copy = Path(folder)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        target = copy / mutant.file
        text = target.read_text()
        if text.count(mutant.old) != 1:
            raise LookupError(f"{mutant.file} does not hold it exactly once: {mutant.old}")
        target.write_text(text.replace(mutant.old, mutant.new))
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1", *TESTS]
        run = subprocess.run(
            pytest, cwd=copy, check=False, capture_output=True, env={**os.environ, "PYTHONPATH": folder}
        )
        if run.returncode not in (0, 1):
            raise LookupError(f"the suite could not run: {run.stdout.decode()[-500:]}")
        return run.returncode == 0


def main() -> int:
    """Tries them all, a line each."""
    chosen = MUTANTS[:: int(os.environ.get("SAMPLE") or 1)]
    survivors = 0
    with guarded():
        for number, mutant in enumerate(chosen, 1):
            lives = survives(mutant)
            survivors += lives
            print(f"{number:>3} of {len(chosen)}  {'SURVIVES' if lives else 'red     '}  {mutant.fault}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
