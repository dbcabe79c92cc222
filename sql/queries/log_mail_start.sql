-- Since when donations are thanked for, as JSON; no row while no mail is sent.
SELECT row_to_json(m)::text AS start FROM mail_start m
