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

from tests.support.guard import guarded

ROOT = Path(__file__).parent.parent
PARTS = ("daemon", "health_sidecar", "sql", "tests", "deploy", "pyproject.toml", "README.md")
TESTS = (
    "tests/unit/test_facts.py",
    "tests/unit/test_journal.py",
    "tests/integration/test_rules.py",
    "tests/integration/test_rules_found.py",
    "tests/integration/test_subscriptions.py",
    "tests/integration/test_rebuild.py",
    "tests/unit/test_random_payments.py",
    "tests/integration/test_any_order.py",
    "tests/integration/test_recorder.py",
    "tests/integration/test_journal.py",
    "tests/integration/test_operator.py",
    "tests/integration/test_consent.py",
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
        "a withdrawal of consent does not count",
        "daemon/ledger/projection.py",
        "ENDS_CONSENT = frozenset({FactName.CONSENT_WITHDRAWN, FactName.ERASED})",
        "ENDS_CONSENT = frozenset({FactName.ERASED})",
    ),
    Mutant(
        "a withdrawal holds for one month only",
        "daemon/ledger/subscriptions.py",
        "[FactName.CONSENT_WITHDRAWN in self.facts, *(value",
        "[*(value",
    ),
    Mutant(
        "first times are the latest",
        "daemon/ledger/facts.py",
        "else fact < present)",
        "else fact > present)",
    ),
    Mutant(
        "the oldest statement stands",
        "daemon/ledger/facts.py",
        "(fact > present if rule is NEWEST",
        "(fact < present if rule is NEWEST",
    ),
    Mutant(
        "a precedence swapped",
        "daemon/ledger/donation_objects.py",
        "(Family.PAYMENT_INTENT, FactName.TICKET),\n        (Family.CHARGE, FactName.TICKET),",
        "(Family.CHARGE, FactName.TICKET),\n        (Family.PAYMENT_INTENT, FactName.TICKET),",
    ),
    Mutant(
        "an amount before the money received",
        "daemon/ledger/donation_objects.py",
        "(Family.PAYMENT_INTENT, FactName.RECEIVED),\n        (Family.SESSION, FactName.AMOUNT),",
        "(Family.SESSION, FactName.AMOUNT),\n        (Family.PAYMENT_INTENT, FactName.RECEIVED),",
    ),
    Mutant("a comparison turned", "daemon/ledger/refunds.py", "return made <= at", "return made < at"),
    Mutant(
        "a failed refund counted in every snapshot",
        "daemon/ledger/refunds.py",
        " and not refund.get(FactName.FAILED, at) < at",
        "",
    ),
    Mutant(
        "refunds that a snapshot counts already",
        "daemon/ledger/refunds.py",
        "return max(0, returned - counted)",
        "return returned",
    ),
    Mutant(
        "a released hold refunded",
        "daemon/ledger/refunds.py",
        "self.standing + self.beyond - self.hold",
        "self.standing + self.beyond",
    ),
    Mutant("a hold that Stripe does not count", "daemon/ledger/refunds.py", "return min(gap, counted)", "return gap"),
    Mutant(
        "a payment before its late failure",
        "daemon/ledger/payment_times.py",
        "if first is not None and since <= first < until",
        "if first is not None",
    ),
    Mutant(
        "a late failure keeps its money",
        "daemon/ledger/donation_objects.py",
        'return FactName.CAPTURED in charge and value(charge, FactName.STATUS) != "failed"',
        "return FactName.CAPTURED in charge",
    ),
    Mutant(
        "an unknown status takes nothing",
        "daemon/ledger/projection.py",
        "        STAGE_OF_UNKNOWN,\n        *(",
        "        *(",
    ),
    Mutant(
        "a failed charge names its donor",
        "daemon/ledger/kept_facts.py",
        "if FactName.FAILED in charge:\n            for name",
        "if False:\n            for name",
    ),
    Mutant(
        "a failed charge is lost",
        "daemon/ledger/joined_parts.py",
        "ChargeRow(n, id_, known[FactName.PAYMENT_INTENT][1], known)",
        "ChargeRow(n, id_, known[FactName.PAYMENT_INTENT][1], {})",
    ),
    Mutant(
        "a new payment leaves its subscription as it is",
        "daemon/ledger/written_groups.py",
        "            lenders[id_].is_written = True\n",
        "            pass\n",
    ),
    Mutant(
        "payments do not follow their subscription",
        "daemon/ledger/subscriptions.py",
        "self.lent_changed = before != self._lent()",
        "self.lent_changed = False",
    ),
    Mutant(
        "a row of the former release counts as new", "sql/queries/older_rows.sql", " OR derived_version <> version", ""
    ),
    Mutant(
        "disputes beyond the amount",
        "daemon/ledger/projection.py",
        "min(total, amount - refunded)",
        "min(total, amount)",
    ),
    Mutant(
        "an inquiry takes money", "daemon/ledger/projection.py", "if stage in TAKES_MONEY", "if stage in IS_DISPUTED"
    ),
    Mutant(
        "a declined card speaks first",
        "daemon/ledger/donation_objects.py",
        "return holds_money(member[1]), ",
        "return False, ",
    ),
    Mutant(
        "won before lost",
        "daemon/ledger/facts.py",
        '    "lost",\n    "won",\n)\n# The rank of a status',
        '    "won",\n    "lost",\n)\n# The rank of a status',
    ),
    Mutant(
        "a hold is a payment",
        "daemon/ledger/events/payments.py",
        'return bool(self.paid and self.status == "succeeded" and self.taken)',
        "return bool(self.paid)",
    ),
    Mutant(
        "only the first of several charges",
        "daemon/ledger/events/payments.py",
        "intent.charges.data if",
        "intent.charges.data[:1] if",
    ),
    Mutant("a float", "daemon/ledger/projection.py", "total += disputed if", "total += float(disputed) * 1.0000001 if"),
    Mutant(
        "the other mode's events count",
        "daemon/ledger/stripe_events.py",
        "if envelope.livemode != livemode:",
        "if False:",
    ),
    Mutant(
        "a version not checked",
        "daemon/ledger/joined_parts.py",
        "BaseRow(n, row.root, row.version, self.is_written)",
        "BaseRow(n, row.root, 1, self.is_written)",
    ),
    Mutant(
        "a conflicting group written",
        "sql/queries/record_events.sql",
        "AS d(facts)\n    WHERE n NOT IN (TABLE conflicting)",
        "AS d(facts)",
    ),
    Mutant(
        "an object that another writer has named meanwhile",
        "sql/queries/record_events.sql",
        "WHERE is_new AND (SELECT",
        "WHERE NOT is_new AND (SELECT",
    ),
    Mutant(
        "objects that stay with the donation that they no longer belong to",
        "daemon/ledger/joined_parts.py",
        "self.root, is_new=False) for id_ in relocated]",
        "self.root, is_new=False) for id_ in ()]",
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
        "(SELECT id FROM known WHERE error IS NOT NULL)",
        "(SELECT id FROM known)",
    ),
    Mutant(
        "a session's donation stays beside its payment's",
        "sql/queries/record_events.sql",
        "(SELECT id FROM before EXCEPT SELECT id FROM after)",
        "(SELECT id FROM before WHERE false)",
    ),
    Mutant("no lock", "sql/queries/lock_ledger.sql", "pg_advisory_xact_lock(", "("),
    Mutant(
        "an erased donor comes back",
        "daemon/ledger/joined_parts.py",
        "kept_facts.split_attempts(kept_facts.redact(self.facts))",
        "kept_facts.split_attempts(self.facts)",
    ),
    Mutant(
        "a late failure is not reversed",
        "daemon/ledger/journal.py",
        "-sum(m.amount for m in brought), -1)",
        "0)",
    ),
    Mutant(
        "a refund that failed is not reversed",
        "daemon/ledger/journal.py",
        "known[FactName.FAILED], -amount)",
        "known[FactName.FAILED], 0)",
    ),
    Mutant(
        "further captures count from the payment",
        "daemon/ledger/journal.py",
        'Movement("payment", object_id, at, amount - so_far)',
        'Movement("payment", object_id, paid_at, amount - so_far)',
    ),
    Mutant(
        "only the newest state of a dispute moves money",
        "daemon/ledger/journal.py",
        "dispute.get(FactName.HISTORY, {}).items()",
        "()",
    ),
    Mutant(
        "entries before the payment",
        "daemon/ledger/journal.py",
        "if not self.payments:",
        "if False:",
    ),
    Mutant(
        "refunds that only a later snapshot of the charge still counts",
        "daemon/ledger/journal.py",
        "min(refunds.beyond_in(at, returned) - refunds.hold, in_the_end)",
        "refunds.beyond_in(at, returned) - refunds.hold",
    ),
    Mutant(
        "what is booked already is booked again",
        "sql/queries/record_events.sql",
        "e.effective_at, -e.amount_minor,",
        "e.effective_at, 0,",
    ),
    Mutant(
        "a donation's former ids keep their entries",
        "daemon/ledger/joined_parts.py",
        "self.booked_ids = projection.donation_ids(self.facts)",
        "self.booked_ids = {self.root}",
    ),
    Mutant(
        "entries that changed count as booked",
        "daemon/ledger/joined_parts.py",
        "rows[0].entries_digest == self.digest",
        "rows[0].entries_digest is not None",
    ),
    Mutant(
        "a digest of entries that another release wrote",
        "daemon/ledger/stored_rows.py",
        "digest = row.entries_digest ^ row.version",
        "digest = row.entries_digest ^ (row.version - (row.version > 1))",
    ),
    Mutant(
        "an entry recorded before the last one",
        "sql/queries/record_events.sql",
        "greatest(clock_timestamp(), e.recorded_at)",
        "clock_timestamp()",
    ),
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
            survived = survives(mutant)
            survivors += survived
            print(f"{number:>3} of {len(chosen)}  {'SURVIVES' if survived else 'red     '}  {mutant.fault}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
