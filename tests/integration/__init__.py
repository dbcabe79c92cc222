"""Tests with a real PostgreSQL or a real process."""
