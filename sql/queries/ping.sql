-- The smallest statement that needs a running server.
SELECT 1
