"""The process in which strangers' messages are parsed: reads requests from its input, answers on its output.

It imports little, holds no secret, and ends when its input does. Its parent is
:class:`emberflow.email_ops.bounded_parser.BoundedParser`. Blocks are preceded by their length (4 bytes, network order);
a request is two blocks, a JSON object and the message.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import date, datetime
from functools import cache
from typing import Any, BinaryIO

from emberflow.email_ops.bounces import read_returned
from emberflow.email_ops.received import parse

READY = b"ready"
MESSAGE_CPU_SECONDS = 1.0
MEMORY_BYTES = 384 * 1024 * 1024


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    with suppress(ValueError, OSError):  # a system that has no such limit, or a lower one already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _write(answers, READY)
    while (block := _read(requests)) is not None:
        raw = _read(requests) or b""
        request = json.loads(block)
        if request["what"] == "classify":
            _prepare()
        # Its signal ends the process, wherever in the standard library it is.
        signal.setitimer(signal.ITIMER_PROF, MESSAGE_CPU_SECONDS)
        try:
            reply = {"answer": _answer(request, raw)}
        except (MemoryError, RecursionError) as error:
            reply = {"unreadable": f"{type(error).__name__} while parsing it"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        # UTF-8 has no half of a surrogate pair, and neither has a value that can be stored.
        _write(answers, json.dumps(reply, default=_iso, ensure_ascii=False).encode(errors="replace"))


def _answer(request: dict[str, Any], raw: bytes) -> Any:
    what = request.pop("what")
    if what == "report":
        read_returned(raw)
        return None
    if what == "classify":
        from emberflow.email_ops.classify import classify  # noqa: PLC0415

        received_at = request["received_at"]
        found = classify(
            raw, mailbox=request["mailbox"], received_at=datetime.fromisoformat(received_at) if received_at else None
        )
        return asdict(found)
    iso_date = request.pop("internal_date")
    return asdict(parse(raw, internal_date=datetime.fromisoformat(iso_date) if iso_date else None, **request))


@cache
def _prepare() -> None:
    """Load what classifying needs before the first message's time begins: most of a second, with data of languages."""
    from emberflow.email_ops import classify, out_of_office, unquoted  # noqa: PLC0415

    classify.classify(b"From: MAILER-DAEMON@x.test\r\nSubject: failure notice\r\n\r\n550 no\r\n")
    unquoted.unquoted("hello")
    out_of_office.load()


def _iso(value: date) -> str:
    return value.isoformat()


def _read(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("!I", head)
    return pipe.read(size)


def _write(pipe: BinaryIO, block: bytes) -> None:
    pipe.write(struct.pack("!I", len(block)) + block)
    pipe.flush()


if __name__ == "__main__":
    main()
