"""What `up --with-fake-stripe` adds to an embedded instance: a fake of Stripe's API in the place of Stripe."""

import secrets
import socket
from collections.abc import Mapping

from daemon.instance.console import CannotStart

CONFIGURATION = "deploy/fake_stripe.conf"
PORTS = range(12111, 12211)  # the first is that of Stripe's own stripe-mock


def with_fake_stripe(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of all processes, in which the fake is Stripe.

    Args:
        environ: of an embedded instance.

    Raises:
        CannotStart: it is none, it is in live mode, or it has the settings of an account at Stripe.
    """
    if not environ["DONATIOND_INCLUDE"]:
        raise CannotStart("--with-fake-stripe is for trials: use it with --embedded, and without DATABASE_URL")
    if environ["STRIPE_LIVEMODE"].lower() not in {"false", "0", "no", "off", "f", "n"}:
        raise CannotStart("--with-fake-stripe is for trials, and STRIPE_LIVEMODE is set: unset it")
    if given := [name for name in ("STRIPE_API_BASE", "STRIPE_API_KEY") if environ.get(name)]:
        raise CannotStart(f"--with-fake-stripe takes the place of Stripe, and {given[0]} is set: unset it")
    port = _free_port()
    return {
        "PUBLIC_URL": f"http://{environ['HOST']}:{environ['PORT']}",
        **environ,
        "STRIPE_API_BASE": f"http://127.0.0.1:{port}",
        "STRIPE_API_KEY": f"sk_test_{secrets.token_hex(12)}",
        "DONATIOND_FAKE_PORT": str(port),
        "DONATIOND_INCLUDE": f"{environ['DONATIOND_INCLUDE']} {CONFIGURATION}",
    }


def _free_port() -> int:
    """The first of PORTS that nothing listens on."""
    for port in PORTS:
        with socket.socket() as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CannotStart(f"no port from {PORTS[0]} to {PORTS[-1]} is free on 127.0.0.1 for the fake of Stripe")
