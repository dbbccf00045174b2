"""One mailbox on an IMAP server of its own, whose messages and whose answers about them are a test's to make."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.email_ops.fake_mail_servers import Authority, ScriptedImapServer
from tests.worlds import Member, World

HOST = "127.0.0.1"  # not the sandbox's name: one certificate authority vouches for a host

Body = bytes | Callable[[socket.socket], None]


@dataclass(frozen=True)
class Message:
    """What the server has: its bytes, or what it does when they are asked for; ``size`` is what it announces."""

    body: Body
    size: int = 0
    has_token: bool = False
    token: bytes = b"a.b"

    @property
    def announced(self) -> int:
        return self.size or (len(self.body) if isinstance(self.body, bytes) else 1)


@dataclass
class HostileMailbox(ScriptedImapServer):
    """An INBOX with ``messages`` by UID, whatever the login; it keeps to the parts of messages that are asked for."""

    messages: Mapping[int, Message] = field(default_factory=dict)
    uidvalidity: int = 7

    def bodies_asked_for(self) -> list[int]:
        """The UIDs of the messages of which more than a header field was asked for, in order."""
        asked = (re.match(r"UID FETCH ([\d,]+) .*(?:BODY\.PEEK\[\]|\[HEADER\])", one) for one in self.commands)
        return [int(uid) for found in asked if found for uid in found[1].split(",")]

    def _look_up(self, command: str) -> tuple[list[Any] | None, str]:
        words = command.split(" ")
        verb = " ".join(words[:2]).upper() if words[0].upper() == "UID" else words[0].upper()
        if verb == "LIST":
            return [b'* LIST (\\HasNoChildren) "/" INBOX'], "OK done"
        if verb == "SELECT":
            told = b"* OK [UIDVALIDITY %d] ok", b"* OK [UIDNEXT %d] ok"
            numbers = self.uidvalidity, max(self.messages, default=0) + 1
            exists = b"* %d EXISTS" % len(self.messages)
            return [exists, *(line % number for line, number in zip(told, numbers, strict=True))], "OK done"
        if verb == "UID SEARCH":
            found = re.search(r"UID (\d+):\*", command)
            uids = [uid for uid in sorted(self.messages) if uid >= int(found[1] if found else 0)]
            return [b"* SEARCH " + b" ".join(b"%d" % uid for uid in uids)], "OK done"
        if verb == "UID FETCH":
            uids = [int(uid) for uid in words[2].split(",") if int(uid) in self.messages]
            return [self._fetched(uid, command) for uid in uids], "OK done"
        return super()._look_up(command)

    def _fetched(self, uid: int, command: str) -> Any:
        message = self.messages[uid]
        if "RFC822.SIZE" in command:
            token = b"X-Emberflow-Token: %s\r\n\r\n" % message.token if message.has_token else b"\r\n"
            cut = re.search(r"Token\)\]<0\.(\d+)>", command)
            token = token[: int(cut[1])] if cut else token
            return (
                b'* %d FETCH (UID %d RFC822.SIZE %d INTERNALDATE "02-Jun-2099 12:00:00 +0000" '
                b"BODY[HEADER.FIELDS (X-Emberflow-Token)]<0> {%d}\r\n%s)"
                % (uid, uid, message.announced, len(token), token)
            )
        if callable(message.body):
            return message.body
        raw = message.body
        if "[HEADER]" in command:
            raw = raw[: raw.index(b"\r\n\r\n") + 4]
        cut = re.search(r"<0\.(\d+)>", command)
        raw = raw[: int(cut[1])] if cut else raw
        return b"* %d FETCH (UID %d BODY[]<0> {%d}\r\n%s)" % (uid, uid, len(raw), raw)


@contextmanager
def hostile_mailbox(
    world: World, member: Member, directory: Path, messages: Mapping[int, Message]
) -> Iterator[HostileMailbox]:
    """Move a member's mailbox to a server of its own that has ``messages``; its cursor begins before them."""
    authority = Authority(directory)
    files = dict(world.settings.ca_files) | {HOST: authority.ca_file}
    world.settings = world.settings.model_copy(update={"ca_files": files})
    server = HostileMailbox(authority.server_context(HOST), implicit=True, messages=messages)
    with server.running() as port:
        world.change(
            "update ops.mailboxes set imap_host = :host, imap_port = :port, imap_tls = 'implicit' where id = :id",
            host=HOST, port=port, id=member.mailbox_id,
        )  # fmt: skip
        yield server
