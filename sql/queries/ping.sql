-- The smallest question that needs a live server.
SELECT 1
