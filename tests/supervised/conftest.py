"""An instance that all tests of a module share: a start takes seconds of processor time."""

from collections.abc import Iterator

import pytest

from tests.support.instance import SIGNING_SECRET, Instance, instance_of_its_own
from tests.support.postgres import MakeTemplate


@pytest.fixture(scope="module")
def site(postgres: str, make_template: MakeTemplate) -> Iterator[Instance]:
    """An instance that serves, with two API processes and a database of its own.

    Each test leaves it as it found it, but for counts, lines in logs, and processes in the place of others.
    """
    url = postgres.format(name=make_template(lambda _url: None))
    environ = {"DATABASE_URL": url, "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1"}
    with instance_of_its_own(environ) as instance:
        instance.start()
        yield instance
