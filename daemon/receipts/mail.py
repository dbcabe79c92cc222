"""A mail to a donor, as it is sent: RFC 5322, automatic mail by RFC 3834. No I/O."""

import hashlib
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import NamedTuple

import idna

from daemon.receipts.config import ADDRESS, Sender
from daemon.receipts.templates import MailText

ADDRESS_LENGTH = 254  # RFC 5321, with the brackets around it


class Attachment(NamedTuple):
    """A PDF that a mail contains."""

    name: str
    pdf: bytes


def usable_address(email: str) -> str | None:
    """The address as servers take it, with the domain's name in ASCII; None if it is no address of one mailbox.

    So nothing else than an address gets into a header or into a command of SMTP. A local part that is not ASCII needs
    RFC 6531, which few servers that take mails for others offer. Domains are those of IDNA 2008: Python's own codec, of
    IDNA 2003, takes `straße.example` for `strasse.example`, which may be another person's.
    """
    local, _, domain = email.rpartition("@")
    try:
        address = f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except UnicodeError:
        return None
    return address if ADDRESS.fullmatch(address) and len(address) <= ADDRESS_LENGTH else None


def message_id(donation: str, kind: str, seq: int, sender: Sender) -> str:
    """The Message-ID of a mail, always the same for it, so that a mailbox can recognise a second copy. It does not show
    what it is about."""
    digest = hashlib.sha256(f"{donation} {kind} {seq}".encode()).hexdigest()[:32]
    return f"<{digest}@{sender.address.rpartition('@')[2]}>"


def compose(
    text: MailText,
    sender: Sender,
    recipient: str,
    *,
    id_: str,
    at: datetime,
    language: str,
    attachment: Attachment | None = None,
) -> bytes:
    """The mail as bytes.

    Auto-Submitted keeps other programs from answering it (RFC 3834, section 5). Its return path is the sender's
    address, because it is no answer itself: the charity receives the reports of mails that cannot be delivered.

    Args:
        recipient: by `usable_address`.
        id_: by `message_id`.
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(sender.name, addr_spec=sender.address)
    mail["To"] = Address(addr_spec=recipient)
    mail["Subject"] = text.subject
    mail["Date"] = at
    mail["Message-ID"] = id_
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text.text)
    mail.add_alternative(text.html, subtype="html")
    if attachment:
        mail.add_attachment(attachment.pdf, maintype="application", subtype="pdf", filename=attachment.name)
    mail["Content-Language"] = language  # what sets or adds contents removes such headers
    return mail.as_bytes()
