"""All SQL of this project, and the only access to PostgreSQL.

`migrations/` contains the history of the schema, which `migrate` applies; `queries/` contains one file per statement,
which `database` runs.
"""

from functools import cache
from importlib import resources


@cache
def load(name: str) -> str:
    """The text of `queries/<name>.sql`. Raises FileNotFoundError for an unknown name."""
    return (resources.files(__package__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")
