"""The settings of the signals of fraud; they are apart, so that a command reads its settings without a database."""

from typing import NamedTuple


class Thresholds(NamedTuple):
    """From which numbers on something is a signal. Each is a setting, FRAUD_ and its name in capitals."""

    hash_failures: int = 3  # failed attempts of one e-mail hash in 24 hours, if `failed_percent` of its attempts failed
    rush_hashes: int = 100  # for each so many hashes that failed in 24 hours, one failure more is needed
    minute_failures: int = 10  # failed attempts in one minute of which at least `minute_percent` failed
    minute_percent: int = 30
    failed_percent: int = 80  # of at least `min_attempts` attempts of an account or ticket
    min_attempts: int = 10
    burst_payments: int = 5  # payments of one e-mail hash within one hour
    soon_refunds: int = 3  # of one e-mail hash or ticket, each within `soon_refund_hours` of its payment
    soon_refund_hours: int = 24
    soon_refund_percent: int = 20  # of a ticket's payments in 24 hours: with fewer a ticket is not suspicious
    country_percent: int = 2  # of the payments: a country with more of them is not unusual

    @property
    def fewest_failures(self) -> int:
        """An account, ticket or hash with fewer failures in 24 hours than this gives no signal."""
        of_attempts = -(-self.min_attempts * self.failed_percent // 100)
        return min(self.hash_failures, self.minute_failures, of_attempts)
