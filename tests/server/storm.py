"""Clients that leave at a random moment, for tests of what they leave behind."""

import asyncio
import json
import os
import random
from collections.abc import Sequence
from urllib.parse import urlsplit

Body = dict[str, object]

# Whole answers give no sign of life to count, so their clients wait a little instead.
_MAX_WAIT_S = 0.3
_MAX_EVENTS = 12


async def storm(
    url: str, bodies: Sequence[Body], *, num_at_once: int, seed: int, path: str = "/v1/completions"
) -> None:
    """Send every body on a connection of its own, and hang up at a random event or moment.

    Args:
        bodies: requests; streamed ones are left after 0 to 11 events.
        num_at_once: clients that are connected at a time.
    """
    draw = random.Random(seed)
    gate = asyncio.Semaphore(num_at_once)

    async def visit(body: Body) -> None:
        num_events, wait_s = draw.randrange(_MAX_EVENTS), draw.uniform(0, _MAX_WAIT_S)
        async with gate:
            await _send_and_leave(url, path, body, num_events, wait_s)

    await asyncio.gather(*(visit(body) for body in bodies))


async def _send_and_leave(url: str, path: str, body: Body, num_events: int, wait_s: float) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(content), content)
    )
    await writer.drain()
    try:
        if body.get("stream"):
            async with asyncio.timeout(10 * wait_s):  # some wait in the queue for ever
                for _ in range(num_events):
                    await reader.readuntil(b"data: ")
        else:
            await asyncio.sleep(wait_s)
    except (TimeoutError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


def num_open_fds(pid: int) -> int:
    """File descriptors that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
