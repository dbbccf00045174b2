"""An SMTP server that takes everything, for measuring clients: STARTTLS (RFC 3207), AUTH PLAIN and LOGIN, PIPELINING.

It shares the machine's cores with whoever is measured, so it does the least that a client can tell apart from a real
submission server: one thread per connection on blocking sockets, without an event loop; any credentials are right; a
message is read up to its final dot, counted and forgotten. Every answer that a block of pipelined commands asks for
goes out in one packet (RFC 2920).

``HELP`` answers ``214 COUNT DIFFERENT``: the number of messages taken so far, and of different Message-IDs among them.
The server ends when its standard input does.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from itertools import count

_END = b"\r\n.\r\n"
_CAPABILITIES = b"250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n"
_ANSWERS = {
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
}
_MESSAGE_ID = b"\r\nMessage-ID: "
_taken = 0
_message_ids: set[bytes] = set()
_taken_lock = threading.Lock()
_queue_ids = count(1)


class _Connection:
    """One client's session."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket: socket.socket = connection
        self._context = context
        self._buffer = bytearray()
        self._answers = bytearray()
        self._is_secure = False

    def serve(self) -> None:
        self._answers += b"220 localhost ESMTP sink\r\n"
        while True:
            line = self._line()
            verb = line[:4].upper()
            answer = _ANSWERS.get(verb)
            if answer is not None:
                self._answers += answer
            elif verb == b"DATA":
                self._message()
            elif verb in (b"EHLO", b"HELO"):
                more = b"250-AUTH PLAIN LOGIN\r\n" if self._is_secure else b"250-STARTTLS\r\n"
                self._answers += b"250-localhost\r\n" + _CAPABILITIES + more + b"250 SMTPUTF8\r\n"
            elif verb == b"STAR":
                self._secure()
            elif verb == b"AUTH":
                self._authenticate(line)
            elif verb == b"HELP":
                self._answers += b"214 %d %d\r\n" % (_taken, len(_message_ids))
            elif verb == b"QUIT":
                self._answers += b"221 2.0.0 Bye\r\n"
                self._flush()
                return
            else:
                self._answers += b"500 5.5.2 Unknown command\r\n"

    def _message(self) -> None:
        global _taken  # noqa: PLW0603 - what a process has taken is its whole state
        self._answers += b"354 End data with <CR><LF>.<CR><LF>\r\n"
        # The dot may stand alone right at the start: an empty message.
        self._buffer[:0] = b"\r\n"
        searched = 0
        while (end := self._buffer.find(_END, searched)) < 0:
            searched = max(0, len(self._buffer) - len(_END))
            self._receive()
        named = self._buffer.find(_MESSAGE_ID, 0, end)
        message_id = b"" if named < 0 else bytes(self._buffer[named + 2 : self._buffer.find(b"\r\n", named + 2)])
        del self._buffer[: end + len(_END)]
        with _taken_lock:
            _taken += 1
            _message_ids.add(message_id)
        self._answers += b"250 2.0.0 Ok: queued as %d\r\n" % next(_queue_ids)

    def _secure(self) -> None:
        self._answers += b"220 2.0.0 Ready to start TLS\r\n"
        self._flush()
        self._buffer.clear()
        self._socket = self._context.wrap_socket(self._socket, server_side=True)
        self._is_secure = True

    def _authenticate(self, line: bytes) -> None:
        if line.upper().startswith(b"AUTH LOGIN"):
            for challenge in (b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n")[len(line.split()) - 2 :]:
                self._answers += challenge
                self._line()
        elif len(line.split()) == 2:
            self._answers += b"334 \r\n"
            self._line()
        self._answers += b"235 2.7.0 Authentication successful\r\n"

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _receive(self) -> None:
        """Answer what was asked, then wait for more."""
        self._flush()
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError
        self._buffer += received

    def _flush(self) -> None:
        if self._answers:
            self._socket.sendall(self._answers)
            self._answers.clear()

    def close(self) -> None:
        self._socket.close()


def _serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = _Connection(connection, context)
    try:
        session.serve()
    except OSError:
        pass  # the client went away
    finally:
        session.close()


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, context), daemon=True).start()


def main(cert_file: str, key_file: str) -> None:
    """Listen on a free loopback port, say which, and serve until standard input ends."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file, key_file)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
