"""Every line of SQL this project speaks, and the one road to PostgreSQL.

`migrations/` holds the schema's history, `queries/` one file per statement; `database` runs them, `migrate` applies
them.
"""

from functools import cache
from importlib import resources


@cache
def load(name: str) -> str:
    """The text of `queries/<name>.sql`. Raises FileNotFoundError for a name that is not there."""
    return (resources.files(__package__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")
