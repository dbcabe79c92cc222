"""A real SMTP server on loopback, in the test's own event loop (aiosmtpd)."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

ACCEPTED = "250 2.0.0 OK"


@dataclass
class MailServer:
    """What it has received, and what it answers.

    Attributes:
        answer_rcpt, answer_data: the reply to a recipient's address, and to a mail.
        received: the mails that it accepted.
        on_data: is called with each mail before it is answered.
        loses_mails: ends the connection in the place of the answer to a mail.
    """

    port: int = 0
    answer_rcpt: Callable[[str], str] = lambda _address: ACCEPTED
    answer_data: Callable[[], str] = lambda: ACCEPTED
    on_data: Callable[[], Any] = lambda: None
    loses_mails: bool = False
    received: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    was_encrypted: list[bool] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - named by aiosmtpd, as the one below
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Answers a recipient."""
        reply = self.answer_rcpt(address)
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Takes a mail."""
        waiting = self.on_data()
        if asyncio.iscoroutine(waiting):
            await waiting
        if self.loses_mails:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        reply = self.answer_data()
        if reply.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.received.append(message_from_bytes(envelope.content, policy=policy.SMTP))
            self.envelopes.append((envelope.mail_from or "", [str(each) for each in envelope.rcpt_tos]))
            self.was_encrypted.append(session.ssl is not None)
        return reply

    def authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: Any) -> AuthResult:
        """Accepts one user."""
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=(data.login, data.password) == (b"ann", b"secret"), handled=False)


@asynccontextmanager
async def mail_server(tls: ssl.SSLContext | None = None, *, wants_login: bool = False) -> AsyncIterator[MailServer]:
    """A server; with a context of TLS it wants STARTTLS before anything else."""
    server = MailServer()

    def protocol() -> SMTP:
        return SMTP(
            server,
            hostname="mail.test",
            ident="test",
            tls_context=tls,
            require_starttls=tls is not None,
            authenticator=server.authenticate if wants_login else None,
            auth_required=wants_login,
        )

    listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
