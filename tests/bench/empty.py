"""The empty handler: a bare aiohttp application that reads the body and answers the bytes that a webhook is answered.

It serves on the socket it inherits, like an API process, and has nothing else: no middleware, no signature, no write.
"""

import asyncio
import signal
import socket

from aiohttp import web

REPLY = b'{"received": true, "type": "payment_intent.succeeded", "idempotent": false, "handled": true}'


async def receive(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=REPLY, content_type="application/json")


async def answer(_request: web.Request) -> web.Response:
    return web.Response(body=REPLY, content_type="application/json")


async def ready(_request: web.Request) -> web.Response:
    return web.Response()


async def serve() -> None:
    """Serves until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app = web.Application()
    app.add_routes([web.post("/webhooks/stripe", receive), web.get("/", answer), web.get("/health/db", ready)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=0)).start()
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
