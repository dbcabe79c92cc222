-- Reading an event that could not be applied from Stripe again is an action on record. What is there already satisfied the
-- former checks, so nothing is scanned.
ALTER TABLE operator_acts
    DROP CONSTRAINT act_known,
    DROP CONSTRAINT act_subject,
    ADD CONSTRAINT act_known CHECK (
        action IN ('assign', 'erase', 'withdraw', 'mail', 'dismiss', 'replay', 'ticket', 'search', 'export', 'close'))
        NOT VALID,
    ADD CONSTRAINT act_subject CHECK (
        (action IN ('assign', 'erase', 'withdraw', 'mail')) = (donation_id IS NOT NULL)
        AND (action IN ('dismiss', 'replay')) = (event_id IS NOT NULL)
        AND (action = 'ticket') = (ticket_id IS NOT NULL)) NOT VALID;
