"""Tests of the whole instance under supervisord."""
