"""A TCP proxy that breaks connections on demand: what lies between a mail client and its server.

It runs in a thread of the test's process. What it does to the bytes is a `Weather`, which can be changed while
connections are open: delay, swallow one direction (a half-open connection), cut after so many bytes or after a
pattern, refuse. TLS passes through unread, so behind STARTTLS a pattern finds nothing: cut by bytes there, or
let the server cut (`tests.faults.kit.cutting_sandbox`).
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Self, TypeVar

from tests.faults.kit.luck import generator

T = TypeVar("T")
Direction = Literal["to_server", "to_client"]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65536
_LONGEST_MATCH_BYTES = 256
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, no time: close() sends RST instead of FIN


@dataclass(frozen=True)
class Wire:
    """What happens to the bytes of one direction.

    ``cut_after_bytes`` counts per connection from the moment at which this wire took effect on it;
    ``cut_after`` lets the bytes up to the end of the pattern's first match through.
    """

    latency_s: float = 0.0
    swallow: bool = False
    cut_after_bytes: int | None = None
    cut_after: re.Pattern[bytes] | None = None


@dataclass(frozen=True)
class Weather:
    """What happens to connections: to which share of them (drawn once per connection), and how they are cut."""

    to_server: Wire = Wire()
    to_client: Wire = Wire()
    share: float = 1.0
    refuse: bool = False
    reset: bool = True


CALM = Weather()


@dataclass(eq=False)
class _Link:
    """One client's connection and the one to the server."""

    luck: float
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_cut: bool = field(default=False)


class FaultyProxy:
    """A proxy to ``target_port`` on loopback, from entering the block to leaving it.

    ``accepted`` counts connections, ``cuts`` those that the proxy broke, ``carried`` pieces of data that came in,
    be they passed on or not.
    """

    def __init__(self, target_port: int, *, seed: int = 1) -> None:
        self.port = 0
        self.accepted = 0
        self.cuts = 0
        self.carried = 0
        self._target_port = target_port
        self._weather = CALM
        self._luck = generator(seed, "faulty_proxy")
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._started.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def set(self, weather: Weather) -> None:
        """Change the weather for open and coming connections."""
        self._call(lambda: setattr(self, "_weather", weather))

    def reset_all(self) -> int:
        """Reset every open connection now; return how many there were."""
        return self._call(lambda: sum(self._cut(link, reset=True) for link in list(self._links)))

    def _call(self, action: Callable[[], T]) -> T:
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(action()))
        return done.result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, _HOST, 0)
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        luck = float(self._luck.random())
        if self._weather.refuse and luck < self._weather.share:
            _close(client, reset=True)
            return
        try:
            from_server, server = await asyncio.open_connection(_HOST, self._target_port)
        except OSError:
            _close(client, reset=True)
            return
        link = _Link(luck, client, server)
        self._links.add(link)
        for writer in (client, server):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, from_client, server, "to_server"))
                pumps.create_task(self._pump(link, from_server, client, "to_client"))
        finally:
            self._links.discard(link)
            _close(client, reset=link.is_cut and self._weather.reset)
            _close(server, reset=link.is_cut and self._weather.reset)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        seen = b""
        passed, counted_for = 0, Wire()
        try:
            while chunk := await source.read(_CHUNK_BYTES):
                self.carried += 1
                wire = self._wire(link, direction)
                if wire is not counted_for:
                    passed, counted_for = 0, wire
                if wire.latency_s:
                    await asyncio.sleep(wire.latency_s)
                if wire.swallow:
                    continue
                through = _until_the_cut(wire, passed, seen, chunk)
                sink.write(chunk if through is None else chunk[:through])
                await sink.drain()
                if through is not None:
                    self._cut(link, reset=self._weather.reset)
                    return
                passed += len(chunk)
                seen = (seen + chunk)[-_LONGEST_MATCH_BYTES:]
            if not link.is_cut and sink.can_write_eof() and not sink.is_closing():
                sink.write_eof()
        except OSError:
            self._end(link)

    def _wire(self, link: _Link, direction: Direction) -> Wire:
        if link.luck >= self._weather.share:
            return CALM.to_server
        return self._weather.to_server if direction == "to_server" else self._weather.to_client

    def _cut(self, link: _Link, *, reset: bool) -> bool:
        if link.is_cut:
            return False
        link.is_cut = True
        self.cuts += 1
        for writer in (link.client, link.server):
            _close(writer, reset=reset)
        return True

    def _end(self, link: _Link) -> None:
        """One side went away by itself: so does the other."""
        for writer in (link.client, link.server):
            writer.close()


def _until_the_cut(wire: Wire, passed: int, seen: bytes, chunk: bytes) -> int | None:
    """Return how many bytes of ``chunk`` still pass before the cut, None if it passes as a whole."""
    if wire.cut_after_bytes is not None and passed + len(chunk) > wire.cut_after_bytes:
        return max(wire.cut_after_bytes - passed, 0)
    if wire.cut_after is not None:
        match = wire.cut_after.search(seen + chunk)
        if match is not None:
            return max(match.end() - len(seen), 0)
    return None


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if writer.is_closing():
        return
    if not reset:
        writer.close()
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
