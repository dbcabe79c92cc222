"""The statements that read and write the ledger, prepared once per connection."""

import re

from sql import load

# The statements look rows up by their keys. They are planned once per connection, because a plan costs more than a
# batch. But for tables that are analysed while empty PostgreSQL plans to read a whole index for each row, and keeps to
# that plan until the next ANALYZE; so they are planned again when the ledger has grown by GROWTH. (A plan of a new
# preparation uses the tables' present size, also where their statistics are old.)
FIRST_GROWTH, GROWTH = 1000, 10
RECORD = load("record_events")
PREPARE = f"""
DEALLOCATE ALL;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET enable_memoize = off;
PREPARE find_stored AS {load("find_stored")};
PREPARE find_failed_charges AS {load("find_failed_charges")};
PREPARE find_subscriptions AS {load("find_subscriptions")};
PREPARE find_subscription_payments AS {load("find_subscription_payments")};
PREPARE record_events (json, json, json, json, text, json, json, json, json, json, json) AS {{record}};
PREPARE record_events_with_billing (json, json, json, json, text, json, json, json, json) AS {{with_billing}};
PREPARE record_events_short (json, json, json, json, text, json, json, json) AS {{short}}
"""
FIND_STORED = "EXECUTE find_stored (%s, %s)"
FIND_FAILED_CHARGES = "EXECUTE find_failed_charges (%s)"
FIND_SUBSCRIPTIONS = "EXECUTE find_subscriptions (%s)"
FIND_SUBSCRIPTION_PAYMENTS = "EXECUTE find_subscription_payments (%s)"
LOCK = load("lock_ledger")
EXECUTE = f"{LOCK};\nEXECUTE record_events (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
EXECUTE_WITH_BILLING = f"{LOCK};\nEXECUTE record_events_with_billing (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
EXECUTE_SHORT = f"{LOCK};\nEXECUTE record_events_short (%s, %s, %s, %s, %s, %s, %s, %s)"


def preparation(*, queues_mail: bool) -> str:
    """What prepares the statements. The shorter ones are without what only rare events need, which costs half of the
    time where a statement writes a single event."""
    record = RECORD if queues_mail else _without("mail", RECORD)
    with_billing = _without("rare", record)
    return PREPARE.format(record=record, with_billing=with_billing, short=_without("billing", with_billing))


def _without(mark: str, statement: str) -> str:
    return re.sub(rf"-- <{mark}>.*?-- </{mark}>\n", "", statement, flags=re.DOTALL)
