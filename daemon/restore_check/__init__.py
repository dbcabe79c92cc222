"""The restore drill (SPEC 14): a ledger is lost, restored, and compared with the lost one.

`work` is what happens to it, `scratch` the PostgreSQL that is destroyed, `comparison` what must be equal, and `drill`
the steps. Everything is invented, and in a folder of its own.
"""
