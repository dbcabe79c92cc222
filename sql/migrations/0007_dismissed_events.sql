-- An operator can dismiss an event that could not be applied: it keeps its error, and waits for nothing any more.
ALTER TABLE stripe_events ADD COLUMN dismissed_at timestamptz;

-- Who dismissed it is recorded beside the actions on donations; an action is about a donation or about an event.
ALTER TABLE operator_acts
    ADD COLUMN event_id text,
    ALTER COLUMN donation_id DROP NOT NULL,
    DROP CONSTRAINT act_known,
    ADD CONSTRAINT act_known CHECK (action IN ('assign', 'erase', 'dismiss')),
    ADD CONSTRAINT act_subject CHECK ((action = 'dismiss') = (event_id IS NOT NULL)
                                      AND (event_id IS NULL) = (donation_id IS NOT NULL));
