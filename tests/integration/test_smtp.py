"""How mails are handed to a real SMTP server: TLS, login, refusals, and nothing of what the server says."""

import asyncio
import ssl
from pathlib import Path

import pytest

from daemon.receipts.config import parse_server
from daemon.receipts.smtp import DeliveryUnknown, MailRefused, MailServerUnavailable, Transmission
from tests.support.mail_server import mail_server
from tests.support.process import WAIT_S
from tests.support.tls import certificate

SENDER, RECIPIENT = "thanks@charity.example", "canary@secret.example"
MAIL = b"Subject: x\r\n\r\n.a line that begins with a dot\r\n"
LOGIN = "smtp://ann:secret@127.0.0.1:{port}?tls=starttls"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's certificate and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


def server_context(chain: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def without_cause(error: BaseException) -> bool:
    """Whether it is chained to no error that could repeat an address."""
    return error.__cause__ is None and error.__context__ is None


async def send(url: str, *, mails: int = 1) -> None:
    """Sends mails over one connection."""
    transmission = Transmission(parse_server(url), SENDER)
    try:
        for _ in range(mails):
            await transmission.offer(RECIPIENT)
            await transmission.send(MAIL)
    finally:
        await transmission.close()


async def test_starttls_and_login(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is checked against the system's authorities; then the user's name and password are sent."""
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with mail_server(server_context(chain), wants_login=True) as server:
        await send(LOGIN.format(port=server.port), mails=2)
        assert server.was_encrypted == [True, True]
        assert server.logins == [b"ann"]
        assert server.received[0].get_content().splitlines() == [".a line that begins with a dot"]
        with pytest.raises(MailServerUnavailable) as caught:
            await send(f"smtp://ann:wrong@127.0.0.1:{server.port}?tls=starttls")
    assert str(caught.value) == "the mail server cannot be used: it does not let this program sign in (535 5.7.8)"
    assert without_cause(caught.value)


async def test_no_password_is_sent_without_a_checked_certificate(chain: Path) -> None:
    """Neither to a server whose certificate no authority has signed, nor to one that offers no TLS."""
    async with mail_server(server_context(chain), wants_login=True) as server:
        with pytest.raises(MailServerUnavailable, match="its certificate or its TLS is not accepted"):
            await send(LOGIN.format(port=server.port))
        assert server.logins == []
    async with mail_server() as server:
        with pytest.raises(MailServerUnavailable, match="it does not offer TLS or authentication"):
            await send(LOGIN.format(port=server.port))
        assert server.logins == []


@pytest.mark.parametrize(
    ("reply", "code", "is_temporary"),
    [
        ("550 5.1.1 <canary@secret.example> unknown", "550 5.1.1", False),
        ("452 4.2.2 canary's mailbox is full", "452 4.2.2", True),
        ("553 canary", "553", False),
        ("550 4.9.9999 canary", "550", False),
        ("550 2.1.1 canary", "550", False),
    ],
)
async def test_of_a_refusal_only_the_numbers_are_kept(reply: str, code: str, is_temporary: bool) -> None:
    """Of the recipient and of the mail alike; numbers that contradict each other are not kept."""
    async with mail_server() as server:
        for name in ("answer_rcpt", "answer_data"):
            setattr(server, name, lambda *_: reply)
            with pytest.raises(MailRefused) as caught:
                await send(f"smtp://127.0.0.1:{server.port}")
            assert (caught.value.code, caught.value.is_temporary) == (code, is_temporary)
            assert "canary" not in str(caught.value)
            assert without_cause(caught.value)
            server.answer_rcpt = lambda _: "250 OK"


async def test_a_lost_connection_leaves_it_unknown_whether_the_mail_arrived() -> None:
    """And the next mail is sent over a new connection."""
    async with mail_server() as server:
        transmission = Transmission(parse_server(f"smtp://127.0.0.1:{server.port}"), SENDER)
        server.loses_mails = True
        await transmission.offer(RECIPIENT)
        with pytest.raises(DeliveryUnknown) as caught:
            await transmission.send(MAIL)
        assert without_cause(caught.value)
        server.loses_mails = False
        await transmission.offer(RECIPIENT)
        await transmission.send(MAIL)
        await transmission.close()
        assert len(server.received) == 2


async def test_a_server_that_does_not_answer_the_last_command_delays_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mail is settled by then: the connection is closed after a moment."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example\r\n")
        while line := await reader.readline():
            if not line.startswith(b"QUIT"):
                writer.write(b"250 OK\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    monkeypatch.setattr("daemon.receipts.smtp.QUIT_S", 0.05)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transmission = Transmission(parse_server(f"smtp://127.0.0.1:{port}"), SENDER)
        await transmission.offer(RECIPIENT)
        async with asyncio.timeout(WAIT_S):
            await transmission.close()
            await ended.wait()
