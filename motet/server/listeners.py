"""The sockets that a server listens on.

Owns: binding them, on a host and port or in the file system, and what they are called.
Does not know: HTTP, nor which routes are behind which.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from motet.core.errors import ConfigError
from motet.server.auth import Surface
from motet.server.config import ServeConfig, TcpAddress, UnixAddress

_ONLY_THE_OWNER = 0o177  # the bits that a mode of 600 lacks


@contextlib.contextmanager
def bound_sockets(config: ServeConfig) -> Iterator[dict[Surface, socket.socket]]:
    """Bound sockets that do not listen yet: until the server is ready, clients are refused.

    Raises:
        ConfigError: an address cannot be bound.
    """
    address = TcpAddress(config.host, config.port)
    admin = config.admin_address
    with contextlib.ExitStack() as stack:
        if admin is None:
            yield {Surface.WHOLE: stack.enter_context(_bound_tcp(address, "host"))}
            return
        public = stack.enter_context(_bound_tcp(address, "host"))
        if isinstance(admin, UnixAddress):
            private = stack.enter_context(_bound_unix(admin.path))
        else:
            private = stack.enter_context(_bound_tcp(admin, "admin_host"))
        yield {Surface.PUBLIC: public, Surface.ADMIN: private}


def url_of(listener: socket.socket) -> str:
    """Where clients find a bound socket."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def _bound_tcp(address: TcpAddress, option: str) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        host_option = f"--{option.replace('_', '-')}"
        port_option = host_option.replace("host", "port")
        raise ConfigError(
            f"Cannot listen on {address.host} port {address.port}: {error.strerror}. Choose "
            f"another {host_option} or {port_option}.",
            param=option.replace("host", "port"),
        ) from error
    with listener:
        yield listener


@contextlib.contextmanager
def _bound_unix(path: Path) -> Iterator[socket.socket]:
    """A socket that only this user may connect to; its file goes with it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        try:
            _remove_dead(path)
            # Bound under a mask, for between bind and chmod others could connect.
            mask = os.umask(_ONLY_THE_OWNER)
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on unix:{path}: {error.strerror or error}. Choose another "
                "--admin-host.",
                param="admin_host",
            ) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    """Remove a socket's file that a server left behind when it was killed.

    Anything else stays, and so does the socket of a server that runs: binding fails on them.
    """
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
