"""Hands mails to the SMTP server in two steps, between which the caller notes that the mail is being sent.

A server's replies can repeat addresses, so only their numeric codes leave this module: no error has another as its
cause or context.
"""

import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import aiosmtplib
from aiosmtplib import SMTPException, SMTPResponseException, SMTPServerDisconnected, SMTPTimeoutError

from daemon.receipts.config import SmtpServer

COMMAND_S = 30.0  # for connecting, and for each command
QUIT_S = 2.0  # for the last command, on which no mail depends: a process that is to end does not wait longer for it
DATA_S = 120.0  # for the whole mail; after it, it is not known whether the server has it
ENHANCED = re.compile(r"(?P<code>[245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])", re.ASCII)  # RFC 3463

T = TypeVar("T")


class MailServerUnavailable(Exception):
    """The server cannot be used at the moment, or not with these settings; no mail was sent.

    `reason` is one of a few fixed phrases, `code` the numbers of the server's reply, or None.
    """

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(f"the mail server cannot be used: {reason}{f' ({code})' if code else ''}")
        self.reason = reason
        self.code = code


class MailRefused(Exception):
    """The server does not accept this mail or its recipient; `is_temporary`: it may do so later. Otherwise as above."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(f"the mail server refused it: {reason} ({code})")
        self.reason = reason
        self.code = code
        self.is_temporary = code.startswith("4")


class DeliveryUnknown(Exception):
    """The connection was lost while the mail was sent: the server may have it or not."""


class Transmission:
    """A connection to the server, opened when it is first needed.

    Args:
        sender: the address that the envelope names.
    """

    def __init__(self, server: SmtpServer, sender: str) -> None:
        self._sender = sender
        self._client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls == "implicit",
            start_tls=server.tls == "starttls",
            tls_context=ssl.create_default_context() if server.tls != "none" else None,
            local_hostname=sender.rpartition("@")[2],
            timeout=COMMAND_S,
        )

    async def connect(self) -> None:
        """Connects and signs in, or begins anew on the present connection. Raises MailServerUnavailable."""
        if self._client.is_connected:
            with suppress(MailServerUnavailable):  # it may have closed the connection, which was idle
                await self._reply(self._client.rset, "it does not begin another mail")
        if not self._client.is_connected:
            await self._reply(self._client.connect, "it does not let this program sign in")

    async def offer(self, recipient: str) -> None:
        """Asks the server whether it takes a mail for this address. Raises MailServerUnavailable or MailRefused."""
        await self.connect()
        await self._reply(lambda: self._client.mail(self._sender), "it refuses the sender")
        try:
            await self._reply(lambda: self._client.rcpt(recipient), "address refused")
        except MailServerUnavailable as error:
            refused = MailRefused(error.reason, error.code) if error.code else error
        else:
            return
        raise refused

    async def send(self, mail: bytes) -> None:
        """Sends the mail that was offered. Raises MailRefused (the server does not have it) or DeliveryUnknown."""
        try:
            await self._client.data(mail, timeout=DATA_S)
        except SMTPResponseException as error:
            is_refusal = 400 <= error.code <= 599
            failure: Exception = MailRefused("mail refused", numbers(error)) if is_refusal else DeliveryUnknown()
        except (SMTPException, OSError, ValueError):
            failure = DeliveryUnknown()
        else:
            return
        raise failure

    async def close(self) -> None:
        """Ends the connection."""
        if self._client.is_connected:
            with suppress(SMTPException, OSError):
                await self._client.quit(timeout=QUIT_S)
        self._client.close()

    async def _reply(self, command: Callable[[], Awaitable[T]], refusal: str) -> None:
        """Runs a command. Every failure is a MailServerUnavailable, for a refusal with this reason and its numbers."""
        try:
            await command()
        except SMTPResponseException as error:
            failure = MailServerUnavailable(refusal, numbers(error))
        except SMTPTimeoutError:
            failure = MailServerUnavailable("timeout")
        except SMTPServerDisconnected:
            failure = MailServerUnavailable("connection lost")
        except ssl.SSLError:
            failure = MailServerUnavailable("its certificate or its TLS is not accepted")
        except (SMTPException, OSError, ValueError) as error:
            failure = MailServerUnavailable(_kind(error))
        else:
            return
        raise failure


def numbers(error: SMTPResponseException) -> str:
    """The numbers of a reply and nothing else: `550 5.1.1`. A reply without a usable code counts as temporary."""
    code = str(error.code) if 400 <= error.code <= 599 else "451"
    found = ENHANCED.match(error.message)
    return f"{code} {found['code']}" if found and found["code"][0] == code[0] else code


def _kind(error: Exception) -> str:
    """The class of a failure to connect, without the library's text."""
    if isinstance(error.__cause__, ssl.SSLError):
        return "its certificate or its TLS is not accepted"
    if type(error) is SMTPException:  # the library's own, before any reply, for an extension that is missing
        return "it does not offer TLS or authentication"
    return "connection failed"
