"""The oldest schema that this release works on, that of the release before it (SPEC 14)."""

from unittest.mock import patch

from sql import migrate

# The tests of these modules, which write and read the ledger, begin with that schema; those of all others with today's.
MODULES = frozenset(
    {
        "test_checkout.py",
        "test_consent.py",
        "test_donations.py",
        "test_etags.py",
        "test_export.py",
        "test_export_http.py",
        "test_fees.py",
        "test_giving.py",
        "test_income.py",
        "test_journal.py",
        "test_oldest_schema.py",
        "test_operator.py",
        "test_operator_donations.py",
        "test_operator_lists.py",
        "test_public_pages.py",
        "test_recorder.py",
        "test_statistics.py",
        "test_subscriptions.py",
        "test_thanks.py",
        "test_timeline.py",
        "test_webhook.py",
    }
)


def make(url: str) -> None:
    """Applies the migrations that this release cannot do without, and no other."""
    needed = tuple(each for each in migrate.discover() if migrate.number(each.name) <= migrate.NEEDED)
    with patch.object(migrate, "discover", lambda: needed):
        migrate.apply(url)
