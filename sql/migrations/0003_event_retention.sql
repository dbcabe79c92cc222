-- Old events can be dropped (donationd prune). A block range index finds them by time: a few kilobytes for a hundred
-- million rows, and next to nothing per insert, because rows come in the order of their time.
CREATE INDEX events_by_time ON stripe_events USING brin (processed_at) WITH (pages_per_range = 32);
