"""Tests without a database and without another process."""
