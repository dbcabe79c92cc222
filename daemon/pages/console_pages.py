"""Pure: the pages of the operator console and what can be done on them (SPEC 13).

A page shows what the operator API replies to a call; an action is a form that makes one. What each call may do, what it
needs and what it leaves in the audit log is said there, once for programs and for people.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from daemon.runtime.operator_tokens import Scope

Texts = Mapping[str, str | None]

# What the search takes for the id of an object at Stripe, or for an e-mail hash; any other text is a ticket's id.
OF_STRIPE = re.compile(r"(?:pi|cs|ch|py|re|pyr|dp|du|in|sub|issfr|po|txn)_\w+|[0-9A-Fa-f]{64}", re.ASCII)


def as_asked(asked: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a page as those of its call."""
    return dict(asked)


def search_parameters(asked: Mapping[str, str]) -> dict[str, str]:
    """The fields of the search form as parameters: `find` is an id, a hash or a ticket; the last day counts too."""
    parameters = dict(asked)
    if text := parameters.pop("find", "").strip():
        parameters["q" if OF_STRIPE.fullmatch(text) else "ticket"] = text
    for name, days in (("from", 0), ("to", 1)):
        if day := _day(parameters.get(name), days):
            parameters[name] = f"{day}T00:00:00Z"
    return parameters


def _day(text: str | None, days: int) -> date | None:
    """So many days after a day; None where there is no such day, so that the call says what is wrong."""
    try:
        return date.fromisoformat(text) + timedelta(days) if text else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Page:
    """A page of the console.

    Args:
        path: below /operator; it may contain `{id}`.
        name: of its template.
        operation: the call whose reply it shows; None for a page that shows none.
        parameters: makes those of the call from those of the page.
        also: calls without parameters whose replies the page needs too, such as the tickets to choose from.
        scope: what the token of the session must permit; a call checks its own.
        in_menu: whether the menu has it.
    """

    path: str
    name: str
    title: str
    operation: str | None
    parameters: Callable[[Mapping[str, str]], dict[str, str]] = as_asked
    also: tuple[str, ...] = ()
    scope: Scope = Scope.READ
    in_menu: bool = True


PAGES = (
    Page("", "overview", "Overview", "show_overview", also=("report_recent",)),
    Page("/donations", "donations", "Donations", "search_donations", search_parameters),
    Page("/donations/{id}", "donation", "Donation", "show_donation", also=("list_tickets",), in_menu=False),
    Page("/unassigned", "unassigned", "Without a ticket", "list_unassigned", also=("list_tickets",)),
    Page("/failed", "failed", "Failed events", "list_failed_events"),
    Page("/warnings", "warnings", "Early fraud warnings", "list_early_warnings"),
    Page("/mail", "mail", "Undelivered mail", "list_undelivered_mail"),
    Page("/tickets", "tickets", "Tickets", "list_tickets"),
    Page("/reports", "reports", "Reports", "report_recent", lambda asked: _without(asked, "period")),
    Page("/exports", "exports", "Exports", None, search_parameters, scope=Scope.EXPORT),
    Page("/health", "health", "Health history", "list_health_runs"),
    Page("/audit", "audit", "Audit log", "list_actions"),
)


def _without(asked: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: text for each, text in asked.items() if each != name}


@dataclass(frozen=True)
class Action:
    """A form of the console, sent to `path` below /operator.

    Args:
        operation: the call that it makes.
        fields: the parameters that are fields of the form; those in the path are parameters as well.
        null: the fields that stand for null when they are empty.
        done: what a page says afterwards.
    """

    path: str
    operation: str
    done: str
    fields: tuple[str, ...] = ()
    null: frozenset[str] = field(default_factory=frozenset)

    def parameters(self, form: Mapping[str, str]) -> dict[str, str | None]:
        """The call's parameters from the fields of the form; without those that the form lacks."""
        given = {name: form[name].strip() for name in self.fields if name in form}
        return {name: text or None if name in self.null else text for name, text in given.items()}


@dataclass(frozen=True)
class Rejected:
    """A form that was not accepted: its page is shown again, with what was entered and with what is wrong (WCAG 3.3.1).

    Args:
        form: which form of the page it is, by its field `form`.
        entered: what was entered into each field.
        field: the field that is wrong; None where no single one is.
        message: what is wrong, as the operator API says it.
    """

    form: str
    entered: Mapping[str, str]
    field: str | None
    message: str

    @classmethod
    def of(cls, action: Action, form: Mapping[str, str], text: str) -> "Rejected":
        """A form for which the call of its action has replied an error with this text: `goal: a number above 0`. An
        error that names no field is about the only one, where there is only one."""
        name, _, rest = text.partition(": ")
        names = [each for each in action.fields if each in form]
        field, message = (name, rest) if name in names else (names[0] if len(names) == 1 else None, text)
        return cls(form.get("form", ""), {each: form[each] for each in names}, field, message)


def find_page(path: str) -> tuple[Page, dict[str, str]] | None:
    """The page with this path, and the id in it; None for a path of no page."""
    head, _, last = path.rpartition("/")
    for page in PAGES:
        if page.path == path:
            return page, {}
        if page.path == f"{head}/{{id}}" and last:
            return page, {"id": last}
    return None


ACTIONS = (
    Action("/donations/{id}/assign", "assign_donation", "The donation was assigned.", ("ticket",)),
    Action("/donations/{id}/erase", "erase_donation", "The donor's data was erased from the donation."),
    Action("/donations/{id}/withdraw-consent", "withdraw_consent", "The donor's name is hidden."),
    Action("/failed/{id}/replay", "replay_event", "The event was read from Stripe again."),
    Action("/failed/{id}/dismiss", "dismiss_event", "The event was dismissed."),
    Action("/warnings/{id}/dismiss", "dismiss_early_warning", "The warning was dismissed."),
    Action("/mail/{id}/retry", "retry_mail", "The mail is sent once more."),
    Action("/mail/{id}/dismiss", "dismiss_mail", "The mail was dismissed."),
    Action(
        "/tickets", "put_ticket", "The ticket was saved.",
        ("id", "new", "title", "currency", "goal", "state"), frozenset({"currency", "goal"}),
    ),
)  # fmt: skip
