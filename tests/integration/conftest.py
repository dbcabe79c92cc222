"""The API, in the test's process and in one of its own, and the commands."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.api_process import Api


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower()))


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Api:
    return Api(tmp_path_factory.mktemp("api"), database_url)


@pytest.fixture
def donationd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `donationd …` against the test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))
