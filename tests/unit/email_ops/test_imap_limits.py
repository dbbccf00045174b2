"""What a server may cost: whatever it sends, and however slowly, its session ends within time and memory."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from emberflow.email_ops.imap import ImapError, ImapReader
from emberflow.email_ops.session_budget import SessionBudget, SessionLimitError, SessionLimits
from tests.unit.email_ops.fake_mail_servers import Authority, ScriptedImapServer, an_access

SMALL = SessionLimits(seconds=60, session_bytes=1024 * 1024, command_bytes=256 * 1024, command_lines=1_000)
BRIEF = SessionLimits(seconds=1.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def endless(block: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """Send ``block`` again and again until the client hangs up."""

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(block)
                time.sleep(pause_s)

    return send


@contextmanager
def a_reader(
    authority: Authority, command: str, action: Callable[[socket.socket], None], limits: SessionLimits
) -> Iterator[ImapReader]:
    """A reader whose server does ``action`` when it gets ``command``."""
    server = ScriptedImapServer(authority.server_context(), implicit=True, script={command: [action]})
    with server.running() as port:
        access = an_access(imap_port=port, imap_tls="implicit")
        yield ImapReader(access, "sandbox", {"localhost": authority.ca_file}, 20.0, limits)


FLOODS = {
    "untagged answers": b"* 1 EXISTS\r\n" * 500,
    "folders": b'* LIST () "/" "a folder of many"\r\n' * 500,
    "literals": b'* LIST () "/" {65536}\r\n' + b"x" * 65536 + b"\r\n",
    "one line": b"x" * 65536,
    "fetch responses": b"* 1 FETCH (UID 1 FLAGS (\\Seen))\r\n" * 500,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_server_that_sends_without_end_is_left(authority: Authority, flood: bytes) -> None:
    with a_reader(authority, "LIST", endless(flood), SMALL) as reader, reader:
        with pytest.raises(ImapError, match="the server sent") as caught:
            reader.find_folder("\\Junk")
        assert caught.value.is_lost


def in_pieces(uid: int, pieces: int) -> bytes:
    """The answer to a FETCH of one message, in so many literals of one byte."""
    return b"* %d FETCH (UID %d BODY[]<0> %s)" % (uid, uid, b" ".join([b"{1}\r\nx"] * pieces))


def many_responses(uid: int, responses: int) -> bytes:
    """The answer to a FETCH of one message, in so many responses."""
    return b"\r\n".join([b"* %d FETCH (UID %d BODY[]<0> {1}\r\nx)" % (uid, uid)] * responses)


@pytest.mark.parametrize("answer", [in_pieces(6, 500), many_responses(6, 500)], ids=["one response", "many responses"])
def test_a_message_that_is_given_in_countless_pieces_is_not_put_together(authority: Authority, answer: bytes) -> None:
    """Bytes and lines may be within bounds: putting pieces together has a bound of its own, and no other waits."""
    size = b'* %d FETCH (UID %d RFC822.SIZE 500 INTERNALDATE "01-Jan-2026 00:00:00 +0000")'
    server = ScriptedImapServer(
        authority.server_context(),
        implicit=True,
        script={
            "SELECT": [b"* 2 EXISTS", b"* OK [UIDVALIDITY 9] ok", b"* OK [UIDNEXT 8] ok"],
            "UID SEARCH": [b"* SEARCH 6 7"],
            "UID FETCH .*RFC822.SIZE": [size % (6, 6), size % (7, 7)],
            "UID FETCH 6 ": [answer],
            "UID FETCH 7 ": [b"* 7 FETCH (UID 7 BODY[]<0> {23}\r\nMessage-ID: <a@b.c>\r\n\r\n)"],
        },
    )
    with server.running() as port:
        access = an_access(imap_port=port, imap_tls="implicit")
        with ImapReader(access, "sandbox", {"localhost": authority.ca_file}, 20.0) as reader:
            portion = reader.next_portion("INBOX", None)
    assert [message.uid for message in portion.messages] == [7]
    (unread,) = portion.unread
    assert (unread.uid, unread.is_final) == (6, False)
    assert "pieces" in unread.reason
    assert server.connections == 1


def test_an_answer_of_countless_literals_ends_the_session_while_it_is_read(authority: Authority) -> None:
    """A hundred thousand of them would fit into the bytes and lines of one answer."""
    answer = in_pieces(1, 20_000) + b"\r\n"
    with a_reader(authority, "LIST", endless(answer), SessionLimits(seconds=60)) as reader, reader:
        with pytest.raises(ImapError, match="more than 10000 literals for one command") as caught:
            reader.find_folder("\\Junk")
        assert caught.value.is_lost


@pytest.mark.parametrize("command", ["CAPABILITY", "AUTHENTICATE", "SELECT", "UID SEARCH"])
def test_a_server_that_drips_is_left_at_the_sessions_deadline(authority: Authority, command: str) -> None:
    """Each byte comes in time; the connection check opens its session the same way."""
    with (
        a_reader(authority, command, endless(b"*", 0.02), BRIEF) as reader,
        pytest.raises(ImapError, match=r"longer than 1 s|timed out"),
        reader,
    ):
        reader.new_messages("INBOX", None)


def test_a_reader_without_limits_of_its_own_gets_a_deadline_all_the_same(authority: Authority) -> None:
    """The connection check names one time-out and gets five times that for all of its session."""
    server = ScriptedImapServer(
        authority.server_context(), implicit=True, script={"SELECT": [endless(b"* OK still here\r\n", 0.02)]}
    )
    with server.running() as port:
        access = an_access(imap_port=port, imap_tls="implicit")
        with (
            pytest.raises(ImapError, match=r"longer than 1 s|timed out"),
            ImapReader(access, "sandbox", {"localhost": authority.ca_file}, 0.2) as reader,
        ):
            reader.select("INBOX")


def test_a_server_that_never_says_goodbye_is_not_waited_for(authority: Authority) -> None:
    with (
        a_reader(authority, "LOGOUT", endless(b"* OK still here\r\n", 0.02), SessionLimits(seconds=2)) as reader,
        reader,
    ):
        reader.select("INBOX")


def test_the_bytes_of_all_commands_count_together() -> None:
    budget = SessionBudget(SMALL, 1.0)
    for _ in range(5):
        budget.begin_command()
        with contextlib.suppress(SessionLimitError):
            budget.count_bytes(200 * 1024)
    budget.begin_command()
    with pytest.raises(SessionLimitError, match="1048576 bytes in one session"):
        budget.count_bytes(100 * 1024)
