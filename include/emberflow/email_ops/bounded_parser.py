"""Strangers' messages are parsed in a process of its own, with limits of processor time and memory per message.

Counting before parsing (:mod:`emberflow.email_ops.message_limits`) stops the attacks that are known. The process
stops all others: a message that takes more than a second of processor time, or more memory than any mail needs, ends
that process and nothing else, and the next message gets another one. Processor time, not time: a busy machine makes
no message unreadable.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from queue import LifoQueue
from typing import IO, Any, Protocol, Self

from pydantic import TypeAdapter, ValidationError

from emberflow.email_ops.classify import READ_BYTES, Classification
from emberflow.email_ops.message_limits import too_much_in, too_much_in_header
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS, READY
from emberflow.email_ops.received import ReceivedMessage
from emberflow.errors import EmberflowError

# Against a process that neither computes nor answers; a stopped or swapping machine is given the time.
_HANG_SECONDS = 60.0
_ANSWER_BYTES = 8 * 1024 * 1024
_MESSAGES = TypeAdapter(ReceivedMessage)
_CLASSIFICATIONS = TypeAdapter(Classification)


class UnreadableMessageError(EmberflowError):
    """This message cannot be parsed within the limits, now or later; the error's text says which one."""


class ParserUnavailableError(EmberflowError):
    """The parsing process does not start: nothing is known of any message."""


class Parser(Protocol):
    """What a reader of a mailbox needs of a parser; `BoundedParser` says what each method does."""

    def message(
        self,
        raw: bytes,
        *,
        uid: int,
        folder: str,
        size: int,
        internal_date: datetime | None,
        oversized: bool = False,
        with_body: bool = True,
    ) -> ReceivedMessage: ...

    def classify(
        self, raw: bytes, *, mailbox: str | None = None, received_at: datetime | None = None
    ) -> Classification: ...

    def can_read_report(self, raw: bytes) -> bool: ...


class BoundedParser:
    """One parsing process, started when it is first needed. Use it in a ``with`` statement, from one thread.

    Raises:
        ParserUnavailableError: from every method.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def message(
        self,
        raw: bytes,
        *,
        uid: int,
        folder: str,
        size: int,
        internal_date: datetime | None,
        oversized: bool = False,
        with_body: bool = True,
    ) -> ReceivedMessage:
        """Do what :func:`emberflow.email_ops.received.parse` does.

        Raises:
            UnreadableMessageError: it cannot be done within the limits.
        """
        too_much = too_much_in_header(raw) or (too_much_in(raw) if with_body else None)
        if too_much is not None:
            raise UnreadableMessageError(too_much)
        iso_date = internal_date.isoformat() if internal_date else None
        request = {
            "uid": uid,
            "folder": folder,
            "size": size,
            "internal_date": iso_date,
            "oversized": oversized,
            "with_body": with_body,
        }
        return _MESSAGES.validate_python(self._ask("message", request, raw))

    def can_read_report(self, raw: bytes) -> bool:
        """Return whether :func:`emberflow.email_ops.bounces.read_returned` gets through ``raw`` in bounds."""
        if (too_much_in_header(raw) or too_much_in(raw)) is not None:
            return False
        try:
            self._ask("report", {}, raw)
        except UnreadableMessageError:
            return False
        return True

    def classify(
        self, raw: bytes, *, mailbox: str | None = None, received_at: datetime | None = None
    ) -> Classification:
        """Do what :func:`emberflow.email_ops.classify.classify` does.

        Raises:
            UnreadableMessageError: it cannot be done within the limits.
        """
        raw = raw[:READ_BYTES]
        too_much = too_much_in_header(raw) or too_much_in(raw)
        if too_much is not None:
            raise UnreadableMessageError(too_much)
        request = {"mailbox": mailbox, "received_at": received_at.isoformat() if received_at else None}
        try:
            return _CLASSIFICATIONS.validate_python(self._ask("classify", request, raw))
        except ValidationError as error:
            raise UnreadableMessageError(f"what was found in it is no value: {error.errors()[0]['msg']}") from error

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                _open(pipe).close()

    def _ask(self, what: str, about: Mapping[str, Any], raw: bytes) -> Any:
        request = json.dumps({"what": what, **about}).encode()
        answer = self._exchange(request, raw)
        if answer is None and self._ended_by() != signal.SIGPROF:
            # Somebody else may have ended it; a message that does so twice is the reason.
            self.close()
            answer = self._exchange(request, raw)
        if answer is None:
            ended_by = self._ended_by()
            self.close()
            if ended_by == signal.SIGPROF:
                raise UnreadableMessageError(f"parsing it took more than {MESSAGE_CPU_SECONDS:g} s of processor time")
            raise UnreadableMessageError("parsing it ended the parsing process")
        reply = json.loads(answer)
        if "unreadable" in reply:
            raise UnreadableMessageError(str(reply["unreadable"]))
        return reply["answer"]

    def _ended_by(self) -> int | None:
        if self._process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            return -self._process.wait(1.0)
        return None

    def _exchange(self, request: bytes, raw: bytes) -> bytes | None:
        """Return the answer, or None from a process that ended or hangs."""
        process = self._started()
        try:
            pipe = _open(process.stdin)
            for block in (request, raw):
                pipe.write(struct.pack("!I", len(block)) + block)
            pipe.flush()
        except OSError:
            return None
        return _read_block(_open(process.stdout))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        # Nothing of this process's environment, which holds the keys.
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "emberflow.email_ops.parser_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise ParserUnavailableError(f"the parsing process does not start: {error}") from error
        if _read_block(_open(self._process.stdout)) != READY:
            self.close()
            raise ParserUnavailableError("the parsing process does not start: see what it wrote to the log")
        return self._process


class ParserPool:
    """A few parsing processes for many threads, each of which waits for one that is free; use it in a ``with``.

    Raises:
        ParserUnavailableError: from every method.
    """

    def __init__(self, processes: int) -> None:
        self._parsers = [BoundedParser() for _ in range(processes)]
        self._free: LifoQueue[BoundedParser] = LifoQueue()
        for parser in self._parsers:
            self._free.put(parser)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for parser in self._parsers:
            parser.close()

    def message(self, raw: bytes, **about: Any) -> ReceivedMessage:
        """Do what :meth:`BoundedParser.message` does."""
        with self._one() as parser:
            return parser.message(raw, **about)

    def classify(self, raw: bytes, **about: Any) -> Classification:
        """Do what :meth:`BoundedParser.classify` does."""
        with self._one() as parser:
            return parser.classify(raw, **about)

    def can_read_report(self, raw: bytes) -> bool:
        """Do what :meth:`BoundedParser.can_read_report` does."""
        with self._one() as parser:
            return parser.can_read_report(raw)

    @contextmanager
    def _one(self) -> Iterator[BoundedParser]:
        parser = self._free.get()
        try:
            yield parser
        finally:
            self._free.put(parser)


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the process was started with pipes")
    return pipe


def _read_block(pipe: IO[bytes]) -> bytes | None:
    ends_at = time.monotonic() + _HANG_SECONDS
    head = _read(pipe, 4, ends_at)
    if head is None:
        return None
    (size,) = struct.unpack("!I", head)
    return _read(pipe, size, ends_at) if size <= _ANSWER_BYTES else None


def _read(pipe: IO[bytes], size: int, ends_at: float) -> bytes | None:
    got = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(got) < size:
            if not selector.select(max(ends_at - time.monotonic(), 0)):
                return None
            piece = os.read(pipe.fileno(), size - len(got))
            if not piece:
                return None
            got += piece
    return bytes(got)
