-- As many paid donations as %(rows)s, and an entry for each, on a hundred tickets and in four currencies.
INSERT INTO recording_tickets (id, title) SELECT 'story-' || n, 'A roof for story ' || n FROM generate_series(0, 99) n;
INSERT INTO stripe_attributions
    (id, root, version, facts, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor, created_at, paid_at,
     donor_last_name, donor_country, donor_email_hash, session_id, charge_id)
SELECT 'pi_' || left(md5(n::text), 24), 'pi_' || left(md5(n::text), 24), 1, '{}', 'story-' || mod(n, 100), 'PAID', 100 + n,
       (ARRAY['USD', 'EUR', 'JPY', 'KWD'])[1 + mod(n, 4)], 0, 0, to_timestamp(1760000000 + n * 20),
       to_timestamp(1760000000 + n * 20 + 5), (ARRAY['Smith', 'Müller', 'García', '山田'])[1 + mod(n, 4)], 'DE',
       encode(sha256(n::text::bytea), 'hex'), 'cs_test_' || md5(n::text) || md5(n::text), 'ch_' || left(md5(n::text), 24)
FROM generate_series(1, %(rows)s) n;
INSERT INTO ledger_entries
    (seq, recorded_at, effective_at, amount_minor, kind, donation_id, ticket_id, currency, object_id, cause)
SELECT n, to_timestamp(1760000000 + n * 20 + 6), to_timestamp(1760000000 + n * 20 + 5), 100 + n, 'payment',
       'pi_' || left(md5(n::text), 24), 'story-' || mod(n, 100), (ARRAY['USD', 'EUR', 'JPY', 'KWD'])[1 + mod(n, 4)],
       'ch_' || left(md5(n::text), 24), 'evt_' || left(md5(n::text), 24)
FROM generate_series(1, %(rows)s) n;
