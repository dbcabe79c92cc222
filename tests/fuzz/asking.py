"""Questions to the API and to the sidecar, drawn by Hypothesis: any text in any parameter, one connection kept open."""

import http.client
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from tests.fuzz import requests, seeds
from tests.fuzz.replies import Reply, wrong_with
from tests.fuzz.site import Site

ANSWER_S = 10.0


@dataclass(frozen=True)
class Question:
    """What is asked, of the API or of the sidecar."""

    of_sidecar: bool
    method: str
    target: str
    if_none_match: str


def _target(path: str, parameters: list[tuple[str, str]]) -> str:
    return path + ("?" + urlencode(parameters, errors="surrogatepass") if parameters else "")


TEXT = st.text(max_size=30)
METHODS = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"])
ETAGS = st.sampled_from(requests.ETAGS) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


def _parameters(known: dict[str, tuple[str, ...]]) -> st.SearchStrategy[list[tuple[str, str]]]:
    each = [st.tuples(st.just(name), st.sampled_from(values) | TEXT) for name, values in known.items()]
    return st.lists(st.one_of(*each, st.tuples(TEXT, TEXT)), max_size=4)


TICKETS = st.sampled_from(seeds.TICKETS) | TEXT
LEDGER = st.builds(
    lambda ticket, tail, parameters: _target(f"/api/tickets/{quote(ticket, safe='')}/donations{tail}", parameters),
    TICKETS,
    st.sampled_from(["", "/total"]),
    _parameters(requests.VALUES),
)
MOMENTS = ("2026-11-01T10:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-01", "1e400", "")
HISTORY = st.builds(
    _target,
    st.sampled_from(["/health/history"] * 5 + ["/health", "/health/db", "/health/live", "/health/status"]),
    _parameters({"since": MOMENTS}),
)
QUESTIONS = st.builds(Question, st.just(False), METHODS, LEDGER, ETAGS) | st.builds(
    Question, st.just(True), METHODS, HISTORY, ETAGS
)


def asker(site: Site) -> Callable[[Question], None]:
    """A check that asks this site."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S) for port in site.ports]

    def check(question: Question) -> None:
        connection = connections[question.of_sidecar]
        headers = {"If-None-Match": question.if_none_match} if question.if_none_match else {}
        try:
            connection.request(question.method, question.target, headers=headers)
            with connection.getresponse() as reply:
                answer = Reply(reply.status, {}, reply.read())
        except (ConnectionError, http.client.RemoteDisconnected):
            connection.close()  # the next case opens it again
            raise
        if question.of_sidecar:
            _check_sidecar(answer)
        else:
            problem = wrong_with(answer, no_body=question.method == "HEAD")
            assert problem is None, problem

    return check


def _check_sidecar(answer: Reply) -> None:
    assert answer.status in {200, 400, 404, 405, 503}, f"status {answer.status}: {answer.body[:200]!r}"
