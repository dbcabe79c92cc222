"""What is known of Stripe's objects from the events that were received of them, for the oracle."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from daemon.simulator.stripe_objects import Charge, Donor, Json, Report, ticket_of

T = TypeVar("T")


class ReceivedObject:
    """One Stripe object, as the events that were received carried it."""

    def __init__(self, id_: str, reports: Sequence[Report], without: frozenset[str]) -> None:
        self.id = id_
        self.reports = [report for report in reports if report.type not in without]

    def newest(self, *path: str) -> Any:
        """The newest value of a field; null, empty and zero never count."""
        return self._newest(lambda report: value_at(report.shown, path))

    def newest_ticket(self, *path: str) -> str | None:
        """The newest text of a field that can be a ticket's id."""
        return self._newest(lambda report: ticket_of(value_at(report.shown, path)))

    def newest_choice(self) -> str | None:
        """The newest option that the donor chose in the field that asks for consent."""

        def choice(report: Report) -> str | None:
            fields = report.shown.get("custom_fields") or []
            return next((each["dropdown"]["value"] for each in fields if each["key"] == "showName"), None)

        return self._newest(choice)

    def newest_donor(self) -> Donor:
        """The newest that counts of each detail."""

        def newest(detail: Callable[[Donor], str | None]) -> str | None:
            return self._newest(lambda report: detail(report.donor))

        return Donor(
            None,
            newest(lambda donor: donor.last_name),
            newest(lambda donor: donor.country),
            newest(lambda donor: (donor.email or "").strip().lower()),
            *[None] * 4,
        )

    def _newest(self, value: Callable[[Report], T | None]) -> T | None:
        return first(map(value, reversed(self.reports)))

    def times(self, holds: Callable[[Report], bool]) -> list[int]:
        """The seconds of the events that carried it so."""
        return [report.at for report in self.reports if holds(report)]

    def has(self, *types: str) -> bool:
        """Whether one of these types of events was received."""
        return any(report.type in types for report in self.reports)


class ReceivedCharge(ReceivedObject):
    """What is known of a charge. `of` is the charge in Stripe's state."""

    def __init__(self, of: Charge, without: frozenset[str]) -> None:
        super().__init__(of.id, of.reports, without)
        self.of = of
        self.taken = self.times(lambda report: took_money(report.shown))
        self.is_failed = self.reports[-1:] != [] and self.reports[-1].shown["status"] == "failed"
        self.holds_money = bool(self.taken) and not self.is_failed
        self.created = of.created

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Charges are asked in this order, the greatest first."""
        return self.holds_money, self.created, self.id

    def captured(self) -> int:
        """Its captured amount; old API versions do not have it, and the whole amount counts."""
        if self.reports and "amount_captured" not in self.reports[-1].shown:
            return self.newest("amount") if self.holds_money else 0
        return self.newest("amount_captured") or 0

    def failed_late_at(self) -> int:
        """When a charge failed that had captured money; 0 for all others."""
        if not self.is_failed or not any(r.shown.get("amount_captured") or took_money(r.shown) for r in self.reports):
            return 0
        return min(self.times(lambda report: report.shown["status"] == "failed"))

    def paid_times(self) -> list[int]:
        """The events that show when it took money: by their type, or because another snapshot shows that it had not."""
        if not self.holds_money:
            return []
        reported = {"charge.succeeded", "charge.captured"}
        has_changed = len(self.taken) < len(self.reports)
        return self.times(lambda report: took_money(report.shown) and (has_changed or report.type in reported))

    def refunded_times(self, has_amount_captured: bool) -> list[int]:
        """The `charge.refunded` events whose sum exceeds what was released, if Stripe counts that as refunded."""
        released = self.of.released if has_amount_captured and self.of.counts_release else 0
        return self.times(lambda r: r.type == "charge.refunded" and r.shown["amount_refunded"] > released)


def took_money(charge: Json) -> bool:
    """By its amount; by its flag only where the API version does not say how much was captured."""
    captured = charge["amount_captured"] > 0 if "amount_captured" in charge else charge["captured"]
    return bool(charge["paid"] and charge["status"] == "succeeded" and captured)


def value_at(shown: Any, path: Sequence[str]) -> Any:
    for name in path:
        shown = shown.get(name) if isinstance(shown, dict) else None
    return shown


def first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value), None)
