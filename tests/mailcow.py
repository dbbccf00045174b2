"""A stand-in for mailcow's API over HTTPS: what the documentation of ``add/mailbox`` and ``get/mailbox`` says it does.

200 with a list of results, whose ``msg`` is a code alone or with details; 401 and 403 for a key that is not taken; and
``{}`` for a mailbox that is not there. The password is never repeated.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Reply = tuple[int, Any]
API_KEY = "0123AB-4567CD-89EF01-234567-89ABCD"


@dataclass
class Mailcow:
    """One domain's mailboxes by address, with what was posted for each; ``reply`` answers in place of the rules."""

    domain: str = "own.test"
    most_mailboxes: int = 1000
    most_mib: int = 3072
    is_read_only: bool = False
    aliases: set[str] = field(default_factory=set)
    mailboxes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    reply: Reply | bytes | None = None
    delay_s: float = 0.0
    forgets: bool = False  # the mailbox is made, and the answer is not given
    created: Callable[[str, str], None] = lambda _address, _password: None

    @contextmanager
    def running(self, context: ssl.SSLContext) -> Iterator[str]:
        """Serve on loopback; the value is the URL."""
        mailcow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, body: bytes) -> None:
                mailcow.requests.append((self.command, self.path, dict(self.headers)))
                reply = mailcow.reply or mailcow.answer(self.command, self.path, self.headers["X-API-Key"], body)
                time.sleep(mailcow.delay_s)
                if mailcow.forgets:
                    self.close_connection = True
                    return
                status, content = (
                    (200, reply) if isinstance(reply, bytes) else (reply[0], json.dumps(reply[1]).encode())
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Reply:
        """Return the status and the document of one request."""
        if key != API_KEY:
            return 401, {"type": "error", "msg": "authentication failed"}
        _, _, route = path.partition("/api/v1/")
        if method == "GET" and route.startswith("get/mailbox/"):
            address = unquote(route.removeprefix("get/mailbox/"))
            return 200, {"username": address, "active": 1} if address in self.mailboxes else {}
        if method != "POST" or route != "add/mailbox":
            return 404, {"type": "error", "msg": "route not found"}
        if self.is_read_only:
            return 403, {"type": "error", "msg": "API read/write access denied"}
        wanted = json.loads(body)
        address = f"{wanted['local_part']}@{wanted['domain']}"
        refusal = self._refusal(address, wanted)
        if refusal is None:
            self.mailboxes[address] = wanted
            self.created(address, wanted["password"])
        log = ["mailbox", "add", "mailbox", wanted | {"password": "*", "password2": "*"}, None]
        result = {"type": "danger", "log": log, "msg": refusal}
        return 200, [result if refusal else {"type": "success", "log": log, "msg": ["mailbox_added", address]}]

    def _refusal(self, address: str, wanted: Mapping[str, Any]) -> list[str] | str | None:
        if address in self.mailboxes:
            return ["object_exists", address]
        if address in self.aliases:
            return ["is_alias", address]
        if wanted["domain"] != self.domain:
            return ["domain_not_found", wanted["domain"]]
        if wanted["password"] != wanted["password2"] or len(wanted["password"]) < 6:
            return "password_complexity"
        if len(self.mailboxes) >= self.most_mailboxes:
            return ["max_mailbox_exceeded", str(len(self.mailboxes)), str(self.most_mailboxes)]
        if int(wanted.get("quota", self.most_mib)) > self.most_mib:
            return ["mailbox_quota_exceeded", str(self.most_mib)]
        return None
