"""The order of test files: those that are quick first, or under pytest-xdist those that take longest first."""

# Measured one by one, those over twenty seconds. Files that mostly wait for processes and files that mostly compute
# alternate, so that workers side by side leave the processors neither idle nor overloaded; and no long file begins when
# all others have ended.
LONGEST = (
    "tests/supervised/test_reload.py",
    "tests/supervised/test_hangs.py",
    "tests/integration/test_haproxy.py",
    "tests/supervised/test_stop.py",
    "tests/supervised/test_installation.py",
    "tests/integration/test_database_trouble.py",
    "tests/supervised/test_socket.py",
    "tests/supervised/test_repair.py",
    "tests/integration/test_floods.py",
    "tests/supervised/test_whole_instance.py",
    "tests/supervised/test_waiting.py",
    "tests/integration/test_broken_clients.py",
    "tests/supervised/test_guard.py",
    "tests/integration/test_console_browser.py",
    "tests/supervised/test_monitoring.py",
    "tests/integration/test_browser_pages.py",
    "tests/supervised/test_logging.py",
    "tests/integration/test_durability.py",
    "tests/integration/test_openapi.py",
    "tests/unit/test_random_payments.py",
    "tests/supervised/test_production.py",
    "tests/supervised/test_fake_stripe.py",
    "tests/supervised/test_up.py",
    "tests/integration/test_postgres_log.py",
    "tests/supervised/test_embedded.py",
    "tests/integration/test_upgrades.py",
)


def place(file: str, *, side_by_side: bool) -> int:
    """The place of a test file, the smallest first; files with the same place keep their order."""
    if side_by_side:
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)
    return 1 if file.startswith("tests/supervised/") else 0
