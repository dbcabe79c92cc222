-- The reports of income that were closed: what was filed, so that it can be shown later beside what is known then.

-- Rows are only added; closing a period again makes another version. The report is that of the entries up to `seq` whose
-- money moved from `begins_at` to before `ends_at`; `sha256` is that of its JSON. `journal_seq` was the journal's last
-- entry when the row was written, under the ledger's lock: so the versions that an entry came after never change.
CREATE TABLE closed_reports (
    period      text NOT NULL,  -- such as 2026-Q4
    time_zone   text NOT NULL,
    version     integer NOT NULL CONSTRAINT closed_version_positive CHECK (version > 0),
    begins_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL CONSTRAINT closed_period_ends CHECK (ends_at >= begins_at),
    seq         bigint NOT NULL CONSTRAINT closed_seq_exists CHECK (seq BETWEEN 0 AND journal_seq),
    journal_seq bigint NOT NULL,
    sha256      text NOT NULL CONSTRAINT closed_sha256_form CHECK (length(sha256) = 64),
    release     text NOT NULL,
    tzdata      text NOT NULL,
    closed_at   timestamptz NOT NULL,
    closed_by   text NOT NULL CONSTRAINT closed_by_length CHECK (length(closed_by) BETWEEN 1 AND 64),
    PRIMARY KEY (period, time_zone, version)
);

-- What is there already satisfied the former check, so nothing is scanned.
ALTER TABLE operator_acts
    DROP CONSTRAINT act_known,
    ADD CONSTRAINT act_known CHECK (action IN ('assign', 'erase', 'dismiss', 'ticket', 'search', 'export', 'close')) NOT VALID;

-- A role that may read and write the rows of every table may add closed reports and read them, and nothing else.
DO $$
DECLARE
    reader name;
BEGIN
    FOR reader IN
        SELECT DISTINCT r.rolname
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = 'closed_reports'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON closed_reports FROM %I', reader);
    END LOOP;
END
$$;
