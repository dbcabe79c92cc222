-- A ticket id has no dot and is no long number: it may come from a field into which a site has put an IP address, a
-- host name, a phone or a card number. Tickets that were added before are kept as they are (NOT VALID); the API does
-- not serve those whose id breaks the new rule.
ALTER TABLE recording_tickets DROP CONSTRAINT ticket_id_form;
ALTER TABLE recording_tickets ADD CONSTRAINT ticket_id_form
    CHECK (id ~ '^[A-Za-z0-9_-]{1,64}$' AND id !~ '^[0-9]{9,}$') NOT VALID;
