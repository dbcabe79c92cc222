-- Limits that hold for all processes and hosts together (SPEC 12). The tables are not logged: nothing in them is worth a
-- write to the disk before a reply, and after a crash, or on a standby that takes over, they begin empty.

-- How many calls begin in a second: a token bucket for each name.
CREATE UNLOGGED TABLE rate_limits (
    name         text PRIMARY KEY,
    full_at      timestamptz NOT NULL,  -- when the bucket is full again, if no further call takes a token
    paused_until timestamptz NOT NULL
);

-- When payments were begun lately, the newest last, and by whom: `source` is one of 2^20 numbers, which stands for thousands
-- of addresses, under a key that the database does not have; -1 is all together. An hour after its last payment a row is
-- deleted.
CREATE UNLOGGED TABLE checkout_starts (
    source     integer PRIMARY KEY CONSTRAINT source_range CHECK (source BETWEEN -1 AND 1048575),
    started_at timestamptz[] NOT NULL
);
