-- The early fraud warnings that operators have dismissed.
SELECT id FROM dismissed_warnings
