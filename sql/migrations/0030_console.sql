-- What operators end in the console (SPEC 13): sessions, and early fraud warnings that need no decision any more.

-- Sessions that were ended by signing out before their cookies expire. `id` is the SHA-256 of the signed part of the cookie,
-- from which no cookie can be made. A row is deleted when its cookie has expired (end_session.sql).
CREATE TABLE ended_sessions (
    id         bytea PRIMARY KEY CONSTRAINT ended_session_id_length CHECK (length(id) = 32),
    expires_at timestamptz NOT NULL
);

-- Early fraud warnings that an operator has examined, so that they wait no more.
CREATE TABLE dismissed_warnings (
    id           text PRIMARY KEY CONSTRAINT dismissed_warning_id_form CHECK (starts_with(id, 'issfr_')),
    dismissed_at timestamptz NOT NULL DEFAULT now()
);

-- What is there already satisfied the former checks, so nothing is scanned.
ALTER TABLE operator_acts
    DROP CONSTRAINT act_known,
    DROP CONSTRAINT act_subject,
    ADD CONSTRAINT act_known CHECK (
        action IN ('assign', 'erase', 'withdraw', 'mail', 'warning', 'dismiss', 'replay', 'ticket', 'search', 'export',
                   'close')) NOT VALID,
    ADD CONSTRAINT act_subject CHECK (
        (action IN ('assign', 'erase', 'withdraw', 'mail', 'warning')) = (donation_id IS NOT NULL)
        AND (action IN ('dismiss', 'replay')) = (event_id IS NOT NULL)
        AND (action = 'ticket') = (ticket_id IS NOT NULL)) NOT VALID;
