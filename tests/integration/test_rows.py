"""Rows are read by the names of their columns: each type of rows has the columns of its query, in their order."""

from contextlib import closing
from typing import Any

import psycopg2
import pytest

from daemon.ledger import (
    audit,
    balance,
    balance_verification,
    operators,
    queues,
    reader,
    recorder,
    search,
    stored_rows,
    tickets,
    timeline,
    verification,
)
from daemon.ledger.donation import Donation, DonationRow
from daemon.reports import closings, entry_sums, export, fees, fraud, journals, payouts, statistics
from daemon.reports.early_warnings import WarnedRow
from sql import load

NO_IDS = {"ids": [""]}
SEARCH = {
    **dict.fromkeys(("ticket", "status", "currency", "hash", "subscription")),
    **{"way": "all", "ids": [""], "scan": 1, "limit": 1, "low": "-infinity", "high": "infinity"},
    **{"after_at": "infinity", "after_id": ""},
}
DONATIONS, ENTRIES = export.Selection(export.Kind.DONATIONS), export.Selection(export.Kind.ENTRIES)
ALL_TIMES = dict.fromkeys(("begin", "end", "ticket"))
NO_ENTRIES = {"after": 0, "seq": 1, "begin": 0, "end": 1}
ROWS: dict[str, tuple[tuple[str, ...], Any]] = {
    "list_attempts": (fraud.AttemptsRow._fields, {"failures": 1}),
    "payment_bursts": (fraud.BurstRow._fields, {"since": "2026-01-01", "payments": 1}),
    "soon_refunds": (fraud.SoonRefundRow._fields, {"since": "2026-01-01", "within_s": 1}),
    "warned_donations": (WarnedRow._fields, NO_IDS),
    "export_declared": (journals.AccountUse._fields, ENTRIES.declared_params()),
    "export_donations": (export.DonationRow._fields, DONATIONS.params(0)),
    "export_entries": (journals.EntryRow._fields[:-2], ENTRIES.params(0)),
    "export_fees": (journals.EntryRow._fields, ENTRIES.fee_params(0)),
    "export_moment": (export.MomentRow._fields, {"seq": None, "fees": None}),
    "facts_of": (reader.FactsRow._fields, {"id": ""}),
    "list_failed": (
        queues.FailedEvent._fields,
        {"all": True, "limit": 1, "after_received": "infinity", "after_id": ""},
    ),
    "list_operator_actions": (audit.ActionRow._fields, {"limit": 1, "before": None}),
    "list_tickets": (tickets.Ticket._fields, {"limit": 1, "after_created": "-infinity", "after_id": ""}),
    "find_ticket": (tickets.Ticket._fields, {"id": ""}),
    "search_donations": (search.FoundDonation._fields, SEARCH),
    "list_unassigned": (
        queues.UnassignedDonation._fields,
        {"limit": 1, **dict.fromkeys(("after_paid", "after_created"), "infinity"), "after_id": ""},
    ),
    "dismiss_event": (operators.DismissedRow._fields, {"id": "", "actor": "alex"}),
    "journal_moment": (entry_sums.JournalMoment._fields, {"seq": None, "time": None, "fees": None}),
    "sum_payouts": (payouts.SumRow._fields, {"payout": None, "first": None, "after": None}),
    "transactions_of_payout": (payouts.TransactionRow._fields, {"payout": "", "after_id": "", "limit": 1}),
    "sum_fees": (fees.FeeRow._fields, {**NO_ENTRIES, "part": 0, "journal_seq": 0, "ticket": None}),
    "changed_fees": (fees.ChangedFee._fields, {**NO_ENTRIES, "after_seq": 0, "fees": ["fee"], "limit": 1}),
    "donation_transactions": (timeline.BookedTransaction._fields, NO_IDS),
    "find_balance_reading": (balance.Reading._fields, {"list": "payouts"}),
    "verify_payouts": (balance_verification.WrongSum._fields, {"since": None}),
    "sum_entries": (
        entry_sums.SumRow._fields,
        {**NO_ENTRIES, "ticket": None, "begins": [0], "by_ticket": True},
    ),
    "entries_of_period": (entry_sums.EntryRow._fields, NO_ENTRIES),
    "closed_reports": (closings.Closing._fields, {"period": None}),
    "close_report": (
        closings.Closing._fields,
        {
            **dict.fromkeys(("period", "time_zone", "release", "tzdata", "actor"), "x"),
            **{"begin": 0, "end": 0, "seq": 0, "sha256": "0" * 64, "fees_seq": 0},
        },
    ),
    "summarize_donations": (statistics.SummaryRow._fields, ALL_TIMES),
    "rank_tickets": (statistics.TicketRow._fields, ALL_TIMES),
    "rank_donors": (statistics.DonorRow._fields, {**ALL_TIMES, "limit": 1, "by_donations": False}),
    "verify_donations": (
        (*Donation.__struct_fields__, *verification.StoredDonation._fields[1:]),
        {"with_facts": True},
    ),
    "verify_failed_charges": (verification.FailedCharge._fields, NO_IDS),
    "verify_size": (verification.StoredSizes._fields, None),
    "verify_subscriptions": (verification.StoredSubscription._fields, NO_IDS),
    "verify_totals": (verification.StoredTotals._fields, None),
}
PAGE = reader.PageRow._fields
PREPARED = {
    "find_stored": (stored_rows.FoundRow._fields, "'{}', '{}'"),
    "find_subscriptions": (stored_rows.FoundSubscription._fields, "'{}'"),
    "ledger_pages": ((*PAGE[:3], *DonationRow._fields, *PAGE[4:]), "'[]'"),
    "ticket_totals": (reader.TotalsRow._fields, "'{}'"),
    "record_events": (recorder.RecordedRow._fields, ", ".join(["'[]'"] * 4 + ["''"] + ["'[]'"] * 6)),
}


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database, which they leave as it is."""
    return shared_url


def columns(url: str, *statements: tuple[str, Any]) -> tuple[str, ...]:
    """The names of the columns of the last statement's result."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for statement, params in statements:
            cursor.execute(statement, params)
        return tuple(column.name for column in cursor.description or ())


@pytest.mark.parametrize("query", ROWS)
def test_each_type_of_rows_has_the_columns_of_its_query(database_url: str, query: str) -> None:
    """A column that is added, removed, renamed or moved on one side only is found here, not in the ledger."""
    names, params = ROWS[query]
    assert columns(database_url, (load(query), params)) == names


@pytest.mark.parametrize("query", PREPARED)
def test_each_type_of_rows_has_the_columns_of_its_prepared_statement(database_url: str, query: str) -> None:
    """The same for the statements that are prepared."""
    names, arguments = PREPARED[query]
    prepared = (f"PREPARE asked AS {load(query)}", None), (f"EXECUTE asked ({arguments})", None)
    assert columns(database_url, *prepared) == names
