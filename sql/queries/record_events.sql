-- Records events and operator actions, and writes the donations that they belong to, all or nothing per group, in one
-- transaction.
--
-- A group is what must be written together; `n` is the number of the group that a row belongs to. A group was derived
-- from bases: rows and their versions, version 0 for a row that did not exist, null for one whose version does not matter.
-- If the ledger's rows have other versions by now, or if another row contains one of the objects that were new, the group is
-- conflicting: nothing of it is written, and its number is returned. Where a row was deleted by hand, its objects still name it:
-- they are new to a base that was written again without them, and in no other row.
--
-- The journal gets the difference between the entries that the facts make ($7) and what is booked of the donations $6, as
-- sums, whatever release wrote the rows last: so a donation that gets another id is booked out. It is computed here because
-- nothing else is booked under the lock, and because no further query is needed. What is booked already has no rows there.
-- `cause` is an event's id; null for an operator action, which gets its id here and is found by its donation, `action_on`.
--
-- The caller has the ledger's lock (lock_ledger.sql), so no other process writes between reading and writing here, and
-- `seq` rises without gaps, in the order of commits. Where most rows are new, they are looked up and inserted without ON
-- CONFLICT, which would write 48 bytes more WAL for each of them (PostgreSQL: speculative insertion). Where rows are looked
-- up by keys, the form of the query leaves the planner no choice to read a table instead.
--
-- $1 bases {n, id, version, written}: those that are written, or only read; $2 objects {n, id, root, is_new}: those that no
-- row contained when the facts were read, and those whose facts were kept by another row than `root`; $3 donations, and for
-- each of them, in their order, $4 its row {n, root, version, rules, entries_digest} and $5 a line with its facts, empty if
-- another row has them; $6 booked {n, id, cause, action_on}; $7 entries; $8 events; $9 billing rows {n, id, version, facts};
-- $10 operator actions; $11 failed charges {n, id, payment_intent, facts}: arrays of JSON objects but for $5. Rows of $9
-- and $11 without facts are deleted.
--
-- What stands between "<rare>" and "</rare>" is left out of the statement for events that need none of it: no row of $10 or
-- $11, no object whose facts another row kept, no donation that goes. What stands between "<billing>" and "</billing>" is
-- left out of it as well where there is no row of $9. What stands between "<mail>" and "</mail>" is left
-- out where no mail is configured: it queues the thanks for a payment, once per donation, and a correction for what changed
-- a donation that was queued before.
WITH bases AS MATERIALIZED (
    SELECT b.n, b.written, b.version AS expected, a.version, b.id, a.ticket_id, a.status, a.amount_minor, a.currency,
           a.refunded_minor, a.disputed_minor, a.paid_at
    FROM json_to_recordset($1) AS b(n int, id text, version bigint, written boolean)
    LEFT JOIN stripe_attributions a ON a.id = b.id
), objects AS MATERIALIZED (
    SELECT * FROM json_to_recordset($2) AS o(n int, id text, root text, is_new boolean)
), conflicting AS MATERIALIZED (
    SELECT n FROM bases
    WHERE expected <> coalesce(version, (SELECT s.version FROM stripe_billing s WHERE s.id = bases.id), 0)
    UNION
    SELECT n FROM objects
    WHERE is_new AND (SELECT coalesce((SELECT true FROM stripe_attributions a WHERE a.id = o.root),
                                      (SELECT true FROM stripe_billing s WHERE s.id = o.root))
                      FROM stripe_objects o
                      WHERE o.id = objects.id
                        AND o.root <> ALL (ARRAY(SELECT b.id FROM bases b WHERE b.n = objects.n AND b.expected > 0)))
), received AS MATERIALIZED (
    SELECT DISTINCT ON (e.id) e.id, e.type, to_timestamp(e.created) AS created, e.livemode, e.error
    FROM json_to_recordset($8) AS e(id text, type text, created bigint, livemode boolean, error text, n int)
    WHERE e.n IS NULL OR e.n NOT IN (TABLE conflicting)
    ORDER BY e.id, e.error NULLS FIRST
), known AS MATERIALIZED (
    -- The row locks are written to the WAL, so a commit of nothing but duplicates waits for the disk and the standby, too.
    -- And they wait for statements that change or delete such rows without the ledger's lock (dismiss_event, prune_events).
    SELECT id, error FROM stripe_events WHERE id = ANY (ARRAY(SELECT id FROM received)) FOR NO KEY UPDATE
), recorded AS (
    INSERT INTO stripe_events (id, type, stripe_created, livemode, error)
    SELECT id, type, created, livemode, error FROM received WHERE id NOT IN (SELECT id FROM known)
    RETURNING id
), recorded_again AS (
    UPDATE stripe_events e SET error = received.error, processed_at = now()
    FROM received
    WHERE e.id = received.id AND received.id IN (SELECT id FROM known WHERE error IS NOT NULL)
    RETURNING e.id
), after AS MATERIALIZED (
    SELECT *, nullif(facts, '')::json AS facts_json
    FROM ROWS FROM (
        string_to_table($5, E'\n'),
        json_to_recordset($4) AS (n int, root text, version bigint, rules int, entries_digest bigint),
        json_to_recordset($3)
            AS (id text, ticket text, status text, amount bigint, currency text, refunded bigint, disputed bigint,
                created_at bigint, paid_at bigint, refunded_at bigint, last_name text, country text, email_hash text,
                session_id text, charge_id text, account text, subscription text, consent boolean)
    ) AS d(facts)
    WHERE n NOT IN (TABLE conflicting)
), before AS MATERIALIZED (
    SELECT * FROM bases WHERE written AND version IS NOT NULL AND n NOT IN (TABLE conflicting)
), written AS (
    INSERT INTO stripe_attributions AS a
           (id, root, version, facts, consent, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor,
            created_at, paid_at, refunded_at, donor_last_name, donor_country, donor_email_hash,
            session_id, charge_id, account, subscription_id, rules_version, derived_version,
            entries_digest)
    SELECT id, root, version, facts_json, consent, ticket, status, amount, currency, refunded, disputed,
           to_timestamp(created_at), to_timestamp(paid_at), to_timestamp(refunded_at), last_name, country, email_hash,
           session_id, charge_id, account, subscription, rules, version,
           entries_digest
    FROM after
    ON CONFLICT (id) DO UPDATE SET
        root = excluded.root, version = excluded.version, facts = excluded.facts, consent = excluded.consent,
        ticket_id = excluded.ticket_id,
        status = excluded.status, amount_minor = excluded.amount_minor, currency = excluded.currency,
        refunded_minor = excluded.refunded_minor, disputed_minor = excluded.disputed_minor,
        created_at = excluded.created_at, paid_at = excluded.paid_at, refunded_at = excluded.refunded_at,
        donor_last_name = excluded.donor_last_name, donor_country = excluded.donor_country,
        donor_email_hash = excluded.donor_email_hash, session_id = excluded.session_id,
        charge_id = excluded.charge_id, account = excluded.account, subscription_id = excluded.subscription_id,
        rules_version = excluded.rules_version, derived_version = excluded.derived_version,
        entries_digest = excluded.entries_digest
-- <rare>
), dropped AS (  -- a session's donation goes when its PaymentIntent is known
    DELETE FROM stripe_attributions WHERE id = ANY (ARRAY(SELECT id FROM before EXCEPT SELECT id FROM after))
), audited AS (
    INSERT INTO operator_acts (at, actor, action, donation_id, detail)
    SELECT to_timestamp(a.at_us / 1e6), a.actor, a.action, a.donation, a.detail
    FROM json_to_recordset($10) AS a(at_us bigint, actor text, action text, donation text, detail text, n int)
    WHERE a.n NOT IN (TABLE conflicting)
    RETURNING id, donation_id
-- </rare>
-- <billing>
), billing AS MATERIALIZED (
    SELECT * FROM json_to_recordset($9) AS s(n int, id text, version bigint, facts json)
    WHERE n NOT IN (TABLE conflicting)
), unbilled AS (  -- an invoice's facts go to its donation's row when its payment is known
    DELETE FROM stripe_billing WHERE id = ANY (ARRAY(SELECT id FROM billing WHERE facts IS NULL))
), billed AS (
    INSERT INTO stripe_billing (id, version, facts)
    SELECT id, version, facts FROM billing WHERE facts IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, facts = excluded.facts
-- </billing>
-- <rare>
), charges AS MATERIALIZED (
    SELECT * FROM json_to_recordset($11) AS c(n int, id text, payment_intent text, facts json)
    WHERE n NOT IN (TABLE conflicting)
), returned AS (  -- a charge that supplies a value again
    DELETE FROM stripe_failed_charges WHERE id = ANY (ARRAY(SELECT id FROM charges WHERE facts IS NULL))
), parted AS (
    INSERT INTO stripe_failed_charges (id, payment_intent, facts)
    SELECT id, payment_intent, facts FROM charges WHERE facts IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET payment_intent = excluded.payment_intent, facts = excluded.facts
-- </rare>
), object_roots AS MATERIALIZED (
    SELECT id, root FROM objects WHERE n NOT IN (TABLE conflicting)
-- <rare>
    UNION
    SELECT c.id, o.root
    FROM objects o CROSS JOIN LATERAL (
        SELECT id FROM stripe_failed_charges WHERE payment_intent = o.id OFFSET 0
    ) c
    WHERE NOT o.is_new AND o.n NOT IN (TABLE conflicting)
-- </rare>
), moved AS (
    UPDATE stripe_objects o SET root = object_roots.root
    FROM object_roots
    WHERE o.id = object_roots.id AND o.id = ANY (ARRAY(SELECT id FROM object_roots))  -- the second one for the planner
    RETURNING o.id
), named AS (
    INSERT INTO stripe_objects (id, root)
    SELECT id, root FROM object_roots WHERE id NOT IN (TABLE moved)
), contributions AS (  -- of each donation to its ticket's figures ('': no ticket), now and, negative, before
    SELECT 1 AS sign, coalesce(ticket, '') AS ticket, coalesce(currency, '') AS currency,
           amount, refunded, disputed, status
    FROM after WHERE paid_at IS NOT NULL
    UNION ALL
    SELECT -1, coalesce(ticket_id, ''), coalesce(currency, ''), amount_minor, refunded_minor, disputed_minor, status
    FROM before WHERE paid_at IS NOT NULL
), changed AS MATERIALIZED (
    SELECT donation, ticket, currency, kind, object, at, sum(amount)::bigint AS amount, cause, action_on
    FROM (
        SELECT donation, ticket, currency, kind, object, to_timestamp(at) AS at, amount, cause, action_on
        FROM json_to_recordset($7)
            AS e(n int, donation text, ticket text, currency text, kind text, object text, at bigint, amount bigint,
                 cause text, action_on text)
        WHERE n NOT IN (TABLE conflicting)
        UNION ALL
        SELECT b.id, e.ticket_id, e.currency, e.kind, e.object_id, e.effective_at, -e.amount_minor,
               b.cause, b.action_on
        FROM json_to_recordset($6) AS b(n int, id text, cause text, action_on text)
        CROSS JOIN LATERAL (SELECT * FROM ledger_entries WHERE donation_id = b.id OFFSET 0) e
        WHERE b.n NOT IN (TABLE conflicting)
    ) derived_and_booked
    GROUP BY donation, ticket, currency, kind, object, at, cause, action_on
    HAVING sum(amount) <> 0
), newest AS MATERIALIZED (
    SELECT coalesce(e.seq, 0) AS seq, greatest(clock_timestamp(), e.recorded_at) AS recorded_at
    FROM (SELECT) one LEFT JOIN LATERAL (
        SELECT seq, recorded_at FROM ledger_entries ORDER BY seq DESC LIMIT 1
    ) e ON true
), booked AS (
    INSERT INTO ledger_entries (seq, recorded_at, effective_at, amount_minor, kind, donation_id, ticket_id, currency,
                                object_id, cause)
    SELECT n.seq + row_number() OVER (ORDER BY c.at, c.donation, c.kind, c.object, c.amount),
           n.recorded_at, c.at, c.amount, c.kind, c.donation, c.ticket, c.currency, c.object,
-- <rare>
           coalesce(c.cause, (SELECT max(a.id)::text FROM audited a WHERE a.donation_id = c.action_on)) AS
-- </rare>
           cause
    FROM changed c CROSS JOIN newest n
-- <mail>
    RETURNING seq, donation_id, kind, amount_minor, effective_at
), queued AS (
    INSERT INTO outbox (donation_id, kind, seq)
    SELECT donation_id, 'thanks', 0
    FROM booked
    WHERE kind = 'payment' AND amount_minor > 0 AND effective_at >= (SELECT started_at FROM mail_start WHERE is_only)
    UNION ALL
    SELECT donation_id, 'correction', max(seq)
    FROM booked
    WHERE (SELECT true FROM outbox o WHERE o.donation_id = booked.donation_id AND o.kind = 'thanks' AND o.seq = 0)
    GROUP BY donation_id
    ON CONFLICT DO NOTHING
-- </mail>
), counted AS (
    INSERT INTO ticket_totals AS t
           (ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed,
            partially_refunded)
    SELECT * FROM (
        SELECT ticket, currency,
               sum(sign * coalesce(amount, 0)) AS paid_minor, sum(sign * refunded) AS refunded_minor,
               sum(sign * disputed) AS disputed_minor,
               coalesce(sum(sign) FILTER (WHERE status = 'PAID'), 0) AS paid,
               coalesce(sum(sign) FILTER (WHERE status = 'REFUNDED'), 0) AS refunded,
               coalesce(sum(sign) FILTER (WHERE status = 'DISPUTED'), 0) AS disputed,
               coalesce(sum(sign) FILTER (WHERE status = 'PAID' AND refunded > 0), 0) AS partially_refunded
        FROM contributions
        GROUP BY ticket, currency
        ORDER BY ticket, currency
    ) AS sums
    WHERE (paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded)
          <> (0, 0, 0, 0, 0, 0, 0)
    ON CONFLICT (ticket_id, currency) DO UPDATE SET
        paid_minor = t.paid_minor + excluded.paid_minor,
        refunded_minor = t.refunded_minor + excluded.refunded_minor,
        disputed_minor = t.disputed_minor + excluded.disputed_minor,
        paid = t.paid + excluded.paid, refunded = t.refunded + excluded.refunded,
        disputed = t.disputed + excluded.disputed,
        partially_refunded = t.partially_refunded + excluded.partially_refunded
)
SELECT ARRAY(TABLE recorded UNION ALL TABLE recorded_again) AS recorded, ARRAY(TABLE conflicting) AS conflicting
