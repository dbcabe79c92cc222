-- Donors' names on public pages (SPEC 3, consent): shown only with the donor's consent, which can be withdrawn.

-- Derived like every other column, by rules version 3. A release that does not know it leaves a new row at no.
ALTER TABLE stripe_attributions ADD COLUMN consent boolean NOT NULL DEFAULT false;

-- What the page of a ticket shows by name, paid last first. Rows without consent cost it nothing.
CREATE INDEX attributions_by_consent ON stripe_attributions (ticket_id, paid_at DESC, id)
    WHERE consent AND paid_at IS NOT NULL;

-- Empty once `donationd rebuild` has run. The next version of the rules brings an index of its own.
CREATE INDEX attributions_before_consent ON stripe_attributions (id) WHERE rules_version < 3;

-- Keys that this ledger made for itself, at random: so they are the same on every host, and do not change when a webhook
-- secret rolls. A random UUID has 122 random bits.
CREATE TABLE ledger_keys (
    name text PRIMARY KEY,
    key  bytea NOT NULL CONSTRAINT key_length CHECK (length(key) >= 32)
);
INSERT INTO ledger_keys (name, key) VALUES
    ('withdrawal links', sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- What is there already satisfied the former checks, so nothing is scanned.
ALTER TABLE operator_acts
    DROP CONSTRAINT act_known,
    DROP CONSTRAINT act_subject,
    ADD CONSTRAINT act_known CHECK (
        action IN ('assign', 'erase', 'withdraw', 'dismiss', 'ticket', 'search', 'export', 'close')) NOT VALID,
    ADD CONSTRAINT act_subject CHECK (
        (action IN ('assign', 'erase', 'withdraw')) = (donation_id IS NOT NULL)
        AND (action = 'dismiss') = (event_id IS NOT NULL)
        AND (action = 'ticket') = (ticket_id IS NOT NULL)) NOT VALID;

-- A role that may read and write the rows of every table may add keys and read them, and nothing else.
DO $$
DECLARE
    reader name;
BEGIN
    FOR reader IN
        SELECT DISTINCT r.rolname
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = 'ledger_keys'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON ledger_keys FROM %I', reader);
    END LOOP;
END
$$;
