"""The mailboxes of the sandbox and the IMAP server in front of them, on pymap's in-memory backend.

Per account: INBOX and the special-use folders of RFC 6154. What pymap 0.36 lacks or does differently, and is
put right here:

* it trusts loopback with passwords in clear text: here LOGIN needs TLS, as on any public server;
* SPECIAL-USE attributes, and keywords of the client's own (``\\*`` in PERMANENTFLAGS, RFC 3501 section 7.1);
* logins are checked against the sandbox's accounts, in microseconds instead of 500,000 hash rounds;
* a message is kept as bytes and parsed when read: 2 KB of mail take about 4 KB of memory instead of 60.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn, cast

from proxyprotocol.sock import SocketInfoLocal
from pymap.backend.dict.mailbox import MailboxData, MailboxSet, Message
from pymap.backend.session import BaseSession
from pymap.bytes import Writeable, WriteStream
from pymap.concurrent import Subsystem
from pymap.config import BackendCapability, IMAPConfig
from pymap.context import connection_exit
from pymap.exceptions import AuthorizationFailure, InvalidAuth, NotAllowedError
from pymap.imap import IMAPConnection
from pymap.imap.state import ConnectionState
from pymap.interfaces.login import IdentityInterface, LoginInterface
from pymap.mime import MessageContent, MessageHeader
from pymap.parsing.message import AppendMessage
from pymap.parsing.specials import ObjectId
from pymap.parsing.specials.flag import Flag, Wildcard
from pymap.selected import SelectedMailbox
from pymap.token import AllTokens
from pymap.user import UserMetadata
from pysasl import SASLAuth
from pysasl.creds.server import ServerCredentials
from pysasl.hashing import Cleartext
from pysasl.identity import Identity
from pysasl.mechanism.login import LoginMechanism
from pysasl.mechanism.plain import PlainMechanism

from emberflow.sandbox.accounts import Accounts
from emberflow.sandbox.rules import Folder

SPECIAL_USE = ("Archive", "Drafts", "Junk", "Sent", "Trash")  # each named after its attribute

LONGEST_COMMAND = 2**20  # bytes that a listener buffers for one command line

# Named once: looking mechanisms up by name scans the installed packages, 15 ms for each connection.
_PASSWORD_LOGINS = SASLAuth([PlainMechanism(), LoginMechanism()])

logger = logging.getLogger(__name__)


class Mailboxes:
    """The mailboxes of all accounts; one is made when its owner, or its first message, arrives."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Folders] = {}

    def of(self, address: str) -> MailboxSet:
        """Return the folders of an account."""
        address = address.lower()
        if address not in self._accounts:
            self._accounts[address] = _Folders()
        return self._accounts[address]

    async def append(self, address: str, folder: Folder, content: bytes, received: datetime) -> None:
        """Store a message as new mail and wake every client that waits in IDLE on that folder."""
        folders = self.of(address)
        try:
            target = await folders.get_mailbox(folder)
        except KeyError:  # deleted by its owner: real servers make it again
            await folders.add_mailbox(folder)
            target = await folders.get_mailbox(folder)
        await target.append(AppendMessage(content, received), recent=True)


class ImapServer:
    """Speaks IMAP on connections that a listener hands over; ``connections`` are those open now."""

    def __init__(self, accounts: Accounts, mailboxes: Mailboxes, tls: ssl.SSLContext, *, implicit_tls: bool) -> None:
        self._config = _Config(tls, starttls=not implicit_tls)
        self._commands = self._config.commands
        self._login = _Login(self._config, accounts, mailboxes)
        self.connections: set[asyncio.StreamWriter] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; no client can end the server."""
        self.connections.add(writer)
        try:
            connection = IMAPConnection(self._commands, self._config, reader, writer, _Peer(writer))
            async with AsyncExitStack() as stack:
                connection_exit.set(stack)
                stack.enter_context(closing(connection))
                await connection.run(ConnectionState(self._login, self._config))
        except (OSError, EOFError):
            logger.info("an IMAP client went away in the middle of a command")
        except Exception:
            logger.exception("an IMAP connection failed; the others go on")
        finally:
            self.connections.discard(writer)


class _Peer(SocketInfoLocal):
    """A client that is never taken for local, or pymap would accept its password without TLS."""

    @property
    def from_localhost(self) -> bool:
        return False


class _Config(IMAPConfig):
    def __init__(self, tls: ssl.SSLContext, *, starttls: bool) -> None:
        super().__init__(
            Namespace(proxy_protocol=None),
            host=None,
            port=0,
            ssl_context=tls,
            tls_enabled=starttls,
            hash_context=Cleartext(),
            cpu_subsystem=Subsystem.for_asyncio(),
            max_append_len=25 * 2**20,
        )

    @property
    def backend_capability(self) -> BackendCapability:
        return BackendCapability(idle=True, object_id=True, multi_append=True, custom=[b"SPECIAL-USE"])

    @property
    def tls_auth(self) -> SASLAuth:
        return _PASSWORD_LOGINS

    @property
    def greeting(self) -> bytes:
        return b"Emberflow mail sandbox ready"


class _Login(LoginInterface):
    def __init__(self, config: _Config, accounts: Accounts, mailboxes: Mailboxes) -> None:
        super().__init__()
        self._config = config
        self._accounts = accounts
        self._mailboxes = mailboxes

    @property
    def tokens(self) -> AllTokens:
        return AllTokens(self._config)

    async def authenticate(self, credentials: ServerCredentials) -> _User:
        address = credentials.authcid.lower()
        if not credentials.verify(_Secret(address, self._accounts)):
            raise InvalidAuth
        return _User(address, self._config, self._mailboxes)

    async def authorize(self, authenticated: IdentityInterface, authzid: str) -> _User:
        if authenticated.name != authzid.lower():
            raise AuthorizationFailure
        return _User(authenticated.name, self._config, self._mailboxes)


class _Secret(Identity):
    """What pysasl compares a login with."""

    def __init__(self, address: str, accounts: Accounts) -> None:
        self._address = address
        self._accounts = accounts

    @property
    def authcid(self) -> str:
        return self._address

    def compare_authcid(self, authcid: str) -> bool:
        return authcid.lower() == self._address

    def compare_secret(self, secret: str) -> bool:
        return self._accounts.verify(self._address, secret)

    def get_clear_secret(self) -> None:
        return None


class _User(IdentityInterface):
    def __init__(self, address: str, config: _Config, mailboxes: Mailboxes) -> None:
        super().__init__()
        self._address = address
        self._config = config
        self._mailboxes = mailboxes

    @property
    def name(self) -> str:
        return self._address

    @property
    def roles(self) -> frozenset[str]:
        return frozenset()

    @asynccontextmanager
    async def new_session(self) -> AsyncIterator[_Session]:
        yield _Session(self._address, self._config, self._mailboxes.of(self._address))

    async def new_token(self, *, expiration: datetime | None = None) -> None:
        return None

    async def get(self) -> UserMetadata:
        return UserMetadata(self._config, self._address)

    async def set(self, metadata: UserMetadata) -> NoReturn:
        raise NotAllowedError("accounts are made with create_accounts")

    async def delete(self) -> NoReturn:
        raise NotAllowedError("accounts are made with create_accounts")


class _Session(BaseSession[Message]):
    def __init__(self, owner: str, config: _Config, folders: MailboxSet) -> None:
        super().__init__(owner)
        self._config = config
        self._folders = folders

    @property
    def config(self) -> IMAPConfig:
        return self._config

    @property
    def mailbox_set(self) -> MailboxSet:
        return self._folders

    async def list_mailboxes(
        self, ref_name: str, filter_: str, subscribed: bool = False, selected: SelectedMailbox | None = None
    ) -> tuple[Iterable[tuple[str, str | None, Sequence[bytes]]], SelectedMailbox | None]:
        entries, updates = await super().list_mailboxes(ref_name, filter_, subscribed, selected)
        marked = [
            (name, separator, [*attributes, name.encode()] if name in SPECIAL_USE else attributes)
            for name, separator, attributes in entries
        ]
        return marked, updates


class _Folders(MailboxSet):
    def __init__(self) -> None:
        super().__init__()
        self._inbox = self._new_folder()
        self._set = {name: self._new_folder() for name in SPECIAL_USE}
        self._subscribed = dict.fromkeys(SPECIAL_USE, True)

    async def add_mailbox(self, name: str) -> ObjectId:
        if name in self._set:
            raise ValueError(name)
        self._set[name] = folder = self._new_folder()
        return folder.mailbox_id

    def _new_folder(self) -> _Folder:
        return _Folder(self._content_cache, self._thread_cache)


class _Folder(MailboxData):
    @property
    def permanent_flags(self) -> frozenset[Flag]:
        return super().permanent_flags | {Wildcard}

    async def append(self, append_msg: AppendMessage, *, recent: bool = False) -> Message:
        if append_msg.when is None:
            raise ValueError("a message needs its internal date")
        async with self.messages_lock.write_lock():
            self._max_uid = uid = self._max_uid + 1
            message = Message(
                uid,
                append_msg.when,
                append_msg.flag_set,
                email_id=ObjectId.random_email_id(),
                thread_id=ObjectId.random_thread_id(),
                recent=recent,
                content=cast(MessageContent, _Content(append_msg.literal)),
            )
            self._messages[uid] = message
            self._mod_sequences.update([uid])
            self._updated.set()
            return message


class _Content(Writeable):
    """Stands in for pymap's parsed content and parses only what a command asks for."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @property
    def header(self) -> MessageHeader:
        return _parse_header(self._raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(_parse(self._raw), name)

    def write(self, writer: WriteStream) -> None:
        writer.write(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __bytes__(self) -> bytes:
        return self._raw


# A client fetches size, structure and text of a message in turn; searches go over the same headers again.
@lru_cache(maxsize=16)
def _parse(raw: bytes) -> MessageContent:
    return MessageContent.parse(raw)


@lru_cache(maxsize=1024)
def _parse_header(raw: bytes) -> MessageHeader:
    end = raw.find(b"\r\n\r\n")
    header = raw if end < 0 else raw[: end + 4]
    return MessageContent.parse(header).header
