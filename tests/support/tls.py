"""TLS on the loopback interface: a certificate made for one test, and clients that accept it."""

import ssl
import subprocess
from pathlib import Path


def certificate(folder: Path, *addresses: str) -> Path:
    """A new self-signed certificate and its key, in one file; chain.pem and key.pem have one of them.

    Args:
        addresses: those that it is for, besides 127.0.0.1.
    """
    key, chain, both = (folder / name for name in ("key.pem", "chain.pem", "both.pem"))
    words = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test".split()
    names = ",".join(f"IP:{address}" for address in ("127.0.0.1", *addresses))
    files = ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(["openssl", "req", "-x509", *words, *files], check=True, capture_output=True)
    both.write_text(chain.read_text() + key.read_text())
    return both


def client_context() -> ssl.SSLContext:
    """TLS for a client that accepts any certificate: ours are made for one test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
