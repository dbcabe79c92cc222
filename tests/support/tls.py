"""TLS on the loopback interface: a certificate made for one test, and clients that accept it."""

import ssl
import subprocess
from pathlib import Path


def certificate(folder: Path, address: str = "127.0.0.1") -> Path:
    """A new self-signed certificate for an address and its key, in one file; chain.pem and key.pem have one of them."""
    key, chain, both = (folder / name for name in ("key.pem", "chain.pem", "both.pem"))
    words = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
    names = [
        "-subj",
        f"/CN={address}",
        "-addext",
        f"subjectAltName=IP:{address}",
        "-keyout",
        str(key),
        "-out",
        str(chain),
    ]
    subprocess.run(["openssl", "req", "-x509", *words, *names], check=True, capture_output=True)
    both.write_text(chain.read_text() + key.read_text())
    return both


def client_context() -> ssl.SSLContext:
    """TLS for a client that accepts any certificate: ours are made for one test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
