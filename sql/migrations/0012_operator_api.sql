-- What the operator API does: a chain of hashes over the audit log, more kinds of actions, and a ticket's goal and state.

-- Each action's place in the chain (chain_actions.sql): rows are only added, so that a row that is changed, removed or
-- moved later is found. An action that a former release writes during an upgrade is added by the next action.
CREATE TABLE audit_chain (
    number        bigint PRIMARY KEY CONSTRAINT chain_number_positive CHECK (number > 0),
    act_id        bigint NOT NULL UNIQUE,
    previous_hash bytea NOT NULL CONSTRAINT chain_previous_length CHECK (length(previous_hash) = 32),
    hash          bytea NOT NULL CONSTRAINT chain_hash_length CHECK (length(hash) = 32)
);

-- An action is about a donation, an event or a ticket; a search and an export are about none.
ALTER TABLE operator_acts
    ADD COLUMN ticket_id text,
    DROP CONSTRAINT act_known,
    DROP CONSTRAINT act_subject,
    ADD CONSTRAINT act_known CHECK (action IN ('assign', 'erase', 'dismiss', 'ticket', 'search', 'export')),
    ADD CONSTRAINT act_subject CHECK (
        (action IN ('assign', 'erase')) = (donation_id IS NOT NULL)
        AND (action = 'dismiss') = (event_id IS NOT NULL)
        AND (action = 'ticket') = (ticket_id IS NOT NULL));

-- closed: nothing new is collected; hidden: the public sees nothing of it.
ALTER TABLE recording_tickets
    ADD COLUMN goal_minor bigint CONSTRAINT ticket_goal_positive CHECK (goal_minor > 0),
    ADD COLUMN state text NOT NULL DEFAULT 'open'
        CONSTRAINT ticket_state_known CHECK (state IN ('open', 'closed', 'hidden'));

-- A role that may read and write the rows of every table may add actions and read them, and nothing else.
DO $$
DECLARE
    log regclass;
    reader name;
BEGIN
    FOREACH log IN ARRAY ARRAY['operator_acts', 'audit_chain']::regclass[] LOOP
        FOR reader IN
            SELECT DISTINCT r.rolname
            FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
            WHERE c.oid = log AND a.grantee <> c.relowner
        LOOP
            EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %s FROM %I', log, reader);
        END LOOP;
    END LOOP;
END
$$;

-- Lists of donations for operators, newest first. It grows at its end, like the table.
CREATE INDEX attributions_by_moment ON stripe_attributions ((coalesce(paid_at, created_at)));

-- Searches by an e-mail hash. A tree of hashes would grow at random places, and each event would write one page more; of
-- some 256 kB of the table this index contains a filter of a few hundred bytes. A search reads those parts that may
-- contain the hash, one in a thousand of the others, and what was added since autovacuum's last visit.
CREATE INDEX attributions_by_email_hash ON stripe_attributions
    USING brin (donor_email_hash text_bloom_ops (n_distinct_per_range = 256, false_positive_rate = 0.001))
    WITH (pages_per_range = 32, autosummarize = on);
