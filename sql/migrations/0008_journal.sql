-- The journal: every movement of money, for good. The rules that derive rows now derive their entries as well (rules
-- version 2), so rows that are there already count as derived by older rules until `donationd rebuild`, which `donationd
-- migrate` runs after this file, has booked them.

-- An entry is what a movement changed in a donation's figures. Rows are only added. `seq` rises by one in the order of
-- commits; '' stands for no ticket and for no known currency, as in ticket_totals.
CREATE TABLE ledger_entries (
    seq          bigint PRIMARY KEY CONSTRAINT seq_positive CHECK (seq > 0),
    recorded_at  timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,  -- when the money moved, in Stripe's time
    amount_minor bigint NOT NULL CONSTRAINT entry_not_zero CHECK (amount_minor <> 0),
    kind         text NOT NULL CONSTRAINT entry_kind_known CHECK (kind IN ('payment', 'refund', 'dispute')),
    donation_id  text NOT NULL,
    ticket_id    text NOT NULL,
    currency     text NOT NULL,
    object_id    text NOT NULL,  -- the charge, refund or dispute; the donation where its charge is unknown
    cause        text NOT NULL   -- an event's id, an operator action's id, or rebuild:VERSION
);
CREATE INDEX entries_by_donation ON ledger_entries (donation_id);
CREATE INDEX entries_by_ticket ON ledger_entries (ticket_id, seq);

-- A role that may read and write the rows of every table may add entries and read them, and nothing else.
DO $$
DECLARE
    reader name;
BEGIN
    FOR reader IN
        SELECT DISTINCT r.rolname
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = 'ledger_entries'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON ledger_entries FROM %I', reader);
    END LOOP;
END
$$;

-- Empty once every row has its entries. The next version of the rules brings an index of its own.
CREATE INDEX attributions_before_journal ON stripe_attributions (id) WHERE rules_version < 2;
