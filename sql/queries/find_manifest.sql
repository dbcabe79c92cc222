-- The manifest of an operator's newest complete export with these arguments, as JSON text; no row if there is none.
SELECT manifest::text AS manifest FROM export_manifests WHERE operator = %(operator)s AND arguments = %(arguments)s
