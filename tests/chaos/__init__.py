"""Faults put between and into the parts of the real thing."""
