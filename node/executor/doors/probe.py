"""Health probes of a service, from the host's side of its port. Each has one time limit over everything."""

from __future__ import annotations

from dataclasses import dataclass

import trio

_HEAD_BYTES_MAX = 4096
_FINE = range(200, 400)


@dataclass(frozen=True)
class Health:
    """What a probe found; `reason` is short and fit for a receipt."""

    healthy: bool
    reason: str


async def tcp_open(host: str, port: int, timeout_s: float) -> Health:
    """Return healthy when a connection through the port is accepted and not closed at once.

    The portal accepts before the service does, so an accepted connection alone would prove nothing: a
    connection that the service refused is closed by the portal, and we wait a tenth of the limit for that.
    """
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(host, port)
            async with stream:
                with trio.move_on_after(timeout_s / 10):
                    if not await stream.receive_some(1):
                        return Health(False, "closed at once")
            return Health(True, "accepted")
    except trio.TooSlowError:
        return Health(False, f"no answer within {timeout_s:g} s")
    except OSError as error:
        return Health(False, error.strerror or "connection failed")


async def http_get(host: str, port: int, path: str, timeout_s: float) -> Health:
    """Return healthy when GET of `path` answers with a status from 200 to 399. Nothing but the head is read.

    Raises ValueError for a path that is not one printable line beginning with "/".
    """
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"path: one printable ASCII word that begins with '/', not {path!r}")
    ask = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gridpact\r\nConnection: close\r\n\r\n"
    head = b""
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(ask.encode())
                while b"\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
                    chunk = await stream.receive_some(_HEAD_BYTES_MAX)
                    if not chunk:
                        break
                    head += bytes(chunk)
    except trio.TooSlowError:
        return Health(False, f"no answer within {timeout_s:g} s")
    except (OSError, trio.BrokenResourceError) as error:
        return Health(False, getattr(error, "strerror", None) or "connection failed")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        return Health(False, "the answer is not HTTP" if head else "closed without an answer")
    status = int(words[1])
    return Health(status in _FINE, f"status {status}")
