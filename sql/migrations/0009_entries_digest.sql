-- What a row's entries in the journal are, in 64 bits, so that a write that changes none need not read them. It is true for
-- the row's `version` only, which is part of it: a release that does not know this column writes the row without it.
ALTER TABLE stripe_attributions ADD COLUMN entries_digest bigint;
