"""Pure: what a reply must be like, whatever was asked."""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from tests.fuzz.mutation import CANARY

DONATION = {
    *("id", "amount", "currency", "status", "donor", "country", "createdAt", "paidAt", "refundedAt", "sessionId"),
    *("refundedAmount", "disputedAmount"),
}
PAGE = {"success", "count", "ticketId", "donations", "nextCursor"}
FIGURES = {"total", "currency", "breakdown", "counts"}
TOTAL = {"success", *FIGURES, "lastDonation", "byCurrency"}
ALIVE = {"status", "timestamp", "uptime", "pid"}
READY = {"ready", "lastPingAt", "lastError", "failureCount", "databaseUrl", "message"}
RECEIVED = {"received", "type", "idempotent", "handled"}
REFUSED = {"success", "error", "message"}
DOCUMENTED = (PAGE, TOTAL, ALIVE, READY, ALIVE | READY, RECEIVED, RECEIVED | {"reason"})
NO_BODY = {204, 303, 304}


@dataclass(frozen=True)
class Reply:
    """A reply as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ends_connection(self) -> bool:
        """Whether nothing more comes on this connection."""
        return self.headers.get("connection", "").lower() == "close"


def wrong_with(reply: Reply, *, no_body: bool = False, page: bool = False) -> str | None:
    """What is wrong with a reply to a request that is HTTP; None if nothing. Only a page may be HTML or an image."""
    if reply.status >= 500:
        return f"status {reply.status}"
    if reply.status != 200 and CANARY.encode() in reply.body:
        return "a refusal that repeats a donor's word"
    if no_body or reply.status in NO_BODY:
        return "a body where none belongs" if reply.body else None
    match page and reply.headers.get("content-type", "").partition(";")[0]:
        case "text/html":
            return None if _is_whole_page(reply.body) else "a page that is not whole"
        case "image/svg+xml":
            return None if _is_xml(reply.body) else "an image that is no XML"
    return _wrong_json(reply)


def _is_whole_page(body: bytes) -> bool:
    return body.startswith(b"<!doctype html>") and body.rstrip().endswith(b"</html>")


def _is_xml(body: bytes) -> bool:
    try:
        ET.fromstring(body)  # noqa: S314 - the badge of our own server
    except ET.ParseError:
        return False
    return True


def _wrong_json(reply: Reply) -> str | None:
    try:
        content = json.loads(reply.body)
    except ValueError:
        return f"status {reply.status} with a body that is no JSON: {reply.body[:200]!r}"
    if not isinstance(content, dict):
        return "a body that is no object"
    return _wrong_keys(reply.status, content)


def _wrong_keys(status: int, content: dict[str, Any]) -> str | None:
    if status != 200:
        return None if set(content) == REFUSED and content["success"] is False else "a refusal with other keys"
    if set(content) not in DOCUMENTED:
        return f"keys that are not documented: {sorted(content)}"
    if "donations" in content:
        fits = content["count"] == len(content["donations"]) and all(
            set(each) == DONATION for each in content["donations"]
        )
        return None if fits else "a page of another form"
    if "byCurrency" in content:
        return (
            None if all(set(each) == FIGURES for each in content["byCurrency"].values()) else "totals of another form"
        )
    return None
