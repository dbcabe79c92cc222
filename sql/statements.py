"""The statements of a migration, as they are sent: one at a time, and an ALTER TABLE once for each of its changes.

Citus sends the text of a request to other servers as it stands, which must be one statement there, and it takes no ADD
CONSTRAINT beside another change. Within a transaction the result is the same on every PostgreSQL.

This is no parser of SQL, and reads only the files of this package: it knows no strings with backslashes, no comments
other than `--`, and no functions with a body in SQL. A test compares what it makes of each file with what PostgreSQL's
parser makes of it.
"""

import re
from collections.abc import Iterator

TOKEN = re.compile(
    r"""
    --[^\n]*                             # a comment
    | '[^']*' | "[^"]*"                  # a string, a name
    | (?P<quote>\$\w*\$).*?(?P=quote)    # a string between dollars
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENTS = re.compile(r"\s*(?:--[^\n]*\s*)*")
ALTER_TABLE = re.compile(r"ALTER TABLE \w+\s")


def statements(sql: str) -> Iterator[str]:
    """Each statement of a text, without the comments before it."""
    for part in _split(sql, ";"):
        statement = COMMENTS.sub("", part, count=1)
        if head := ALTER_TABLE.match(statement):
            yield from (
                f"{head.group()}{COMMENTS.sub('', action, count=1)}" for action in _split(statement[head.end() :], ",")
            )
        elif statement:
            yield statement


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of a text between separators that are in no parentheses, string, name or comment."""
    depth = begin = 0
    for token in TOKEN.finditer(text):
        depth += (token.group() == "(") - (token.group() == ")")
        if token.group() == separator and depth == 0:
            yield text[begin : token.start()]
            begin = token.end()
    yield text[begin:]
