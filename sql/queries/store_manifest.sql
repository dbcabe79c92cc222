-- Stores the manifest of an export that was sent completely, in the place of an earlier one with the same arguments, and
-- deletes those of more than 30 days.
WITH old AS (
    DELETE FROM export_manifests
    WHERE sent_at < now() - interval '30 days' AND (operator, arguments) <> (%(operator)s, %(arguments)s)
)
INSERT INTO export_manifests (operator, arguments, sent_at, manifest)
VALUES (%(operator)s, %(arguments)s, now(), %(manifest)s)
ON CONFLICT (operator, arguments) DO UPDATE SET sent_at = excluded.sent_at, manifest = excluded.manifest
