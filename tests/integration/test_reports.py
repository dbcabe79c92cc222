"""Reports of income from the journal (SPEC 11)."""
