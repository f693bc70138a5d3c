"""Listeners that begin and end together."""

import asyncio
import socket

import pytest
from starlette.responses import Response

from motet.server.auth import Surface
from motet.server.drain import Drain
from motet.server.http_server import HttpServer


def test_a_listener_that_fails_ends_the_other_one() -> None:
    async def run() -> None:
        app = Response()
        apps = {Surface.PUBLIC: app, Surface.ADMIN: app}
        server = HttpServer(apps, Drain(30), cut_off=pytest.fail, on_close=lambda: None)
        public, admin = socket.socket(), socket.socket()
        with public, admin:
            public.bind(("127.0.0.1", 0))
            port = public.getsockname()[1]
            admin.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await server.serve({Surface.PUBLIC: public, Surface.ADMIN: admin}, pytest.fail)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(asyncio.wait_for(run(), 20))
