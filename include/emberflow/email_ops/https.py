"""One request to a web server that is trusted with nothing: over verified TLS, and soon over, whatever it answers.

The whole of an answer has a deadline, its content a size, compressed or not. There are neither proxies nor redirects: a
credential goes to the configured host or nowhere.
"""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Literal, Self

import httpx

from emberflow.email_ops.egress import Mode, require_mail_egress
from emberflow.email_ops.tls import client_context

_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
# From the TLS handshake to the last byte, however lively the server is; and for its addresses together to connect.
ANSWER_WITHIN_S = 30.0
# A hundred times what token endpoints answer.
CONTENT_BYTES = 262_144


@dataclass(frozen=True)
class Answer:
    """A server's answer, not judged yet."""

    status: int
    content: bytes


class UnreadableAnswerError(Exception):
    """An answer that is longer than allowed, later, or compressed in a way that was not offered."""


def ask(
    method: Literal["GET", "POST"],
    url: str,
    mode: Mode,
    ca_files: Mapping[str, Path],
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    document: Any = None,
) -> Answer:
    """Return what the server answers to one request, with ``form`` or with ``document`` as JSON.

    The addresses of the host are tried in turn until one can be connected to; the request itself is made once.

    Raises:
        UnreadableAnswerError: there is an answer, and it is not read.
        EgressRefusedError: the mode forbids to ask this host.
        ConfigurationError: a configured CA file is unusable.
        OSError, httpx.HTTPError: there is no answer. httpx.ConnectError and httpx.ConnectTimeout, and OSError outside
            of httpx: the request did not leave.
    """
    target = httpx.URL(url)
    fault: OSError | httpx.HTTPError = OSError(f"{target.host} has no address")
    give_up_at = time.monotonic() + ANSWER_WITHIN_S
    with httpx.Client(verify=client_context(target.host, ca_files), timeout=_TIMEOUT, trust_env=False) as http:
        for address in require_mail_egress(mode, target.host):
            if time.monotonic() >= give_up_at:
                break
            request = http.build_request(
                method,
                target.copy_with(host=address),
                data=form,
                json=document,
                headers={
                    **(headers or {}),
                    "Host": target.netloc.decode("ascii"),
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
            )
            request.extensions["sni_hostname"] = target.host
            try:
                return _answer_to(http, request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                fault = error
    raise fault


def _answer_to(http: httpx.Client, request: httpx.Request) -> Answer:
    """Send a request to one address of the host; whatever it does, it is over soon and in little memory."""
    with _Deadline(ANSWER_WITHIN_S) as deadline:
        request.extensions["trace"] = deadline.watch
        try:
            answer = http.send(request, stream=True)
            try:
                content = bytearray()
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > CONTENT_BYTES:
                        raise UnreadableAnswerError(f"it is longer than {CONTENT_BYTES} bytes")
            finally:
                answer.close()
            encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
            if deadline.is_over:
                raise UnreadableAnswerError(f"it took longer than {ANSWER_WITHIN_S:.0f} s")
            return Answer(answer.status_code, _decoded(bytes(content), encoding))
        except (OSError, httpx.HTTPError):
            if deadline.is_over:
                raise UnreadableAnswerError(f"it took longer than {ANSWER_WITHIN_S:.0f} s") from None
            raise


def _decoded(content: bytes, encoding: str) -> bytes:
    """Return what was compressed (RFC 9110 8.4.1) although it was not asked for, within the same bounds."""
    if encoding in ("", "identity"):
        return content
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnreadableAnswerError(f"its content encoding is {encoding!r}")
    try:
        plain = zlib.decompressobj(wbits=47).decompress(content, CONTENT_BYTES + 1)  # 32 + 15: gzip or zlib
    except zlib.error as error:
        raise UnreadableAnswerError(f"it is not {encoding}: {error}") from None
    if len(plain) > CONTENT_BYTES:
        raise UnreadableAnswerError(f"it is longer than {CONTENT_BYTES} bytes")
    return plain


class _Deadline:
    """Cuts the connection of a request that lasts too long; the time-outs of httpx are for each read alone."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._socket: socket.socket | None = None
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, details: Mapping[str, Any]) -> None:
        """Take note of the connection (httpx's extension ``trace``)."""
        if event == "connection.start_tls.complete":
            self._socket = details["return_value"].get_extra_info("socket")
            if self.is_over:
                self._cut()

    def _cut(self) -> None:
        self.is_over = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown: it drops TLS, and another thread may still be reading through it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
