"""The IMAP reader against a server that answers from a script: the traps of the protocol and of imaplib."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from emberflow.email_ops import imap
from emberflow.email_ops.header_fields import TOKEN_HEADER
from emberflow.email_ops.imap import Cursor, ImapError, ImapReader
from emberflow.errors import EgressRefusedError
from tests.unit.email_ops.fake_mail_servers import (
    PASSWORD,
    Authority,
    ScriptedImapServer,
    an_access,
    close,
    hang,
)

Script = Mapping[str, Sequence[Any]]
RAW = b"Message-ID: <a@x.test>\r\nSubject: hello\r\n\r\nhi\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def a_reader(
    authority: Authority, script: Script | None = None, timeout: float = 5.0, **server_changes: Any
) -> Iterator[tuple[ImapReader, ScriptedImapServer]]:
    """A reader on a running server; the with block of the reader itself is the test's."""
    changes = dict(server_changes)
    access_changes = changes.pop("access", {})
    context = changes.pop("context", None) or authority.server_context()
    server = ScriptedImapServer(context, script=script or {}, **changes)
    with server.running() as port:
        tls = "implicit" if server.implicit else "starttls"
        access = an_access(imap_port=port, imap_tls=tls, **access_changes)
        yield ImapReader(access, "sandbox", {"localhost": authority.ca_file}, timeout), server


def selected(uidvalidity: int = 9, uidnext: int = 100) -> list[bytes]:
    return [b"* 3 EXISTS", b"* OK [UIDVALIDITY %d] ok" % uidvalidity, b"* OK [UIDNEXT %d] ok" % uidnext]


def a_size(uid: int, size: int = len(RAW)) -> bytes:
    return b'* %d FETCH (UID %d RFC822.SIZE %d INTERNALDATE "23-Nov-2026 13:00:00 +0100")' % (uid, uid, size)


def a_body(uid: int, raw: bytes = RAW) -> bytes:
    return b"* %d FETCH (UID %d BODY[]<0> {%d}\r\n%s)" % (uid, uid, len(raw), raw)


def a_folder_with(*uids: int, search: bytes | None = None) -> dict[str, list[bytes]]:
    found = search if search is not None else b" ".join(b"%d" % uid for uid in uids)
    script = {"SELECT": selected(), "UID SEARCH": [b"* SEARCH " + found]}
    script |= {rf"UID FETCH {uid} .*BODY": [a_body(uid)] for uid in uids}
    return script | {"UID FETCH .*RFC822.SIZE": [a_size(uid) for uid in uids]}


def commands(server: ScriptedImapServer, word: str) -> list[str]:
    return [command for command in server.commands if word in command]


def test_a_folder_that_may_only_be_read_is_opened_for_reading(authority: Authority) -> None:
    """Q-F5: a shared folder, which imaplib refuses to have selected."""
    read_only = [*selected(), b"* OK [READ-ONLY] not yours"]
    with a_reader(authority, {"SELECT": read_only, "EXAMINE": read_only}) as (reader, server), reader:
        assert reader.select("Shared") == (9, 100)
        assert reader.select("Shared") == (9, 100)
    assert len(commands(server, "EXAMINE")) == 2


@pytest.mark.parametrize("implicit", [True, False])
def test_a_reader_logs_in_under_tls_and_asks_for_capabilities_again(authority: Authority, implicit: bool) -> None:
    with a_reader(authority, implicit=implicit) as (reader, server), reader:
        pass
    plain = base64.b64encode(f"\0ann@north.test\0{PASSWORD}".encode()).decode()
    assert plain in server.commands
    assert server.commands[-2:] == ["CAPABILITY", "LOGOUT"]
    assert implicit or server.commands.index("STARTTLS") < server.commands.index(plain)


def test_what_a_server_can_is_not_asked_where_it_tells_it_with_its_consent(authority: Authority) -> None:
    """RFC 9051 7.1: the response code CAPABILITY, by which MOVE is known here."""
    told: dict[str, Any] = {"LOGIN": [b"* OK [CAPABILITY IMAP4rev1 MOVE] welcome"]}
    with a_reader(authority, told, capabilities="IMAP4rev1") as (reader, server), reader:
        reader.select("INBOX")
        reader.move([1], "Junk")
    assert commands(server, "UID MOVE") == ['UID MOVE 1 "Junk"']
    after_login = server.commands[server.commands.index(commands(server, "LOGIN")[0]) :]
    assert "CAPABILITY" not in after_login


def test_a_server_without_auth_plain_gets_a_quoted_login(authority: Authority) -> None:
    access = {"password": SecretStr('pa"ss\\word')}
    with a_reader(authority, capabilities="IMAP4rev1", access=access) as (reader, server), reader:
        assert 'LOGIN "ann@north.test" "pa\\"ss\\\\word"' in server.commands


@pytest.mark.parametrize("password", ["pass\r\nA1 LOGOUT", "pässwort", "a\0b"])
def test_a_login_that_would_break_its_command_is_not_sent(authority: Authority, password: str) -> None:
    """CVE-2025-15366: imaplib puts CR, LF and NUL into commands."""
    access = {"password": SecretStr(password)}
    with a_reader(authority, capabilities="IMAP4rev1", access=access) as (reader, server):
        with pytest.raises(ImapError, match="imap_auth") as caught:
            reader.__enter__()
        assert not commands(server, "LOGIN")
    assert password not in str(caught.value)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(
    "certificate", [{"host": "mail.north.test"}, {"expired": True}, {"self_signed": True}], ids=str
)
def test_a_certificate_that_does_not_verify_ends_the_session_before_the_login(
    authority: Authority, certificate: dict[str, Any], implicit: bool
) -> None:
    """E-B7: wrong host, expired and self-signed, over STARTTLS and over implicit TLS."""
    context = authority.server_context(**certificate)
    with a_reader(authority, context=context, implicit=implicit) as (reader, server):
        with pytest.raises(ImapError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            reader.__enter__()
        assert caught.value.stage == "imap_connect"
        assert not commands(server, "AUTHENTICATE")


@pytest.mark.parametrize(
    "stripped",
    [
        {"script": {"CAPABILITY": [b"* CAPABILITY IMAP4rev1 AUTH=PLAIN"]}},
        {"script": {"STARTTLS": [b"NO not today"]}},
        {"greeting": b"* PREAUTH welcome, you are logged in already"},
    ],
    ids=["not offered", "refused", "PREAUTH"],
)
def test_stripped_starttls_ends_the_session_before_the_login(authority: Authority, stripped: dict[str, Any]) -> None:
    """E-B7"""
    with a_reader(authority, **stripped) as (reader, server):
        with pytest.raises(ImapError, match="imap_connect"):
            reader.__enter__()
        assert not commands(server, "AUTHENTICATE")
        assert not commands(server, "LOGIN")


class InjectingServer(ScriptedImapServer):
    """Somebody on the way adds an answer to the last line that is not under TLS."""

    def _look_up(self, command: str) -> tuple[list[Any] | None, str]:
        if command.upper() == "STARTTLS":
            return [], "OK begin\r\n* BYE injected"
        return super()._look_up(command)


def test_what_was_said_before_tls_counts_for_nothing_after_it(authority: Authority) -> None:
    """E-B7, RFC 3207 6: response injection, CVE-2011-0411 seen from the client's side."""
    server = InjectingServer(authority.server_context(), script={"SELECT": selected()})
    with server.running() as port:
        access = an_access(imap_port=port)
        with ImapReader(access, "sandbox", {"localhost": authority.ca_file}, 5.0) as reader:
            assert reader.select("INBOX") == (9, 100)


def test_sandbox_mode_refuses_another_machine_before_connecting() -> None:
    """E-B10"""
    with pytest.raises(EgressRefusedError):
        ImapReader(an_access(imap_host="192.0.2.1"), "sandbox", {}).__enter__()


def test_a_host_where_nobody_listens_is_a_connection_fault() -> None:
    with pytest.raises(ImapError, match="imap_connect: ConnectionRefusedError"):
        ImapReader(an_access(), "sandbox", {}).__enter__()


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        (b"NO [AUTHENTICATIONFAILED] wrong password", "imap_auth"),
        (b"NO no", "imap_auth"),
        (b"NO [UNAVAILABLE] directory is down", "imap_connect"),
        (close, "imap_connect"),
        (hang, "imap_connect"),
    ],
)
def test_only_the_servers_refusal_of_the_login_counts_as_such(
    authority: Authority, answer: bytes | Callable[..., None], stage: str
) -> None:
    """Towards B-B10: an outage must not look like a wrong password."""
    script = {"AUTHENTICATE": [answer]}
    with a_reader(authority, script, timeout=0.3) as (reader, _), pytest.raises(ImapError) as caught:
        reader.__enter__()
    assert caught.value.stage == stage


@pytest.mark.parametrize(
    ("answer", "stage", "is_transient"),
    [
        (b"NO [ALERT] Too many simultaneous connections. (Failure)", "imap_connect", True),
        (b"NO [ALERT] Account exceeded command or bandwidth limits. (Failure)", "imap_connect", True),
        (b"NO Server Unavailable. 15", "imap_connect", True),
        (b"NO Temporary authentication failure. [mail:2026-06-01]", "imap_connect", True),
        (b"NO [OVERQUOTA] rate limited", "imap_connect", True),
        (b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "imap_auth", False),
        (b"NO LOGIN failed.", "imap_auth", False),
    ],
)
@pytest.mark.parametrize("capabilities", ["IMAP4rev1 AUTH=PLAIN", "IMAP4rev1"])
def test_limits_and_outages_said_in_words_are_not_taken_for_a_wrong_password(
    authority: Authority, capabilities: str, answer: bytes, stage: str, is_transient: bool
) -> None:
    """Towards B-B10: also without the codes of RFC 5530, which most servers do not send; the login is tried once."""
    script = {"(AUTHENTICATE|LOGIN)": [answer]}
    with a_reader(authority, script, capabilities=capabilities) as (reader, server):
        with pytest.raises(ImapError) as caught:
            reader.__enter__()
        assert len(commands(server, "AUTHENTICATE") + commands(server, "LOGIN")) == 1
    assert (caught.value.stage, caught.value.transient) == (stage, is_transient)


@pytest.mark.parametrize("refusal", [b"NO Unsupported authentication mechanism.", b"BAD unknown command"])
def test_a_mechanism_that_is_announced_and_refused_gives_way_to_the_login_command(
    authority: Authority, refusal: bytes
) -> None:
    with a_reader(authority, {"AUTHENTICATE": [refusal]}) as (reader, server):
        with reader:
            pass
        assert commands(server, "LOGIN")
    with a_reader(authority, {"AUTHENTICATE": [refusal]}, capabilities="IMAP4rev1 AUTH=PLAIN LOGINDISABLED") as (
        reader,
        server,
    ):
        with pytest.raises(ImapError, match="imap_auth"):
            reader.__enter__()
        assert not commands(server, "LOGIN")


def test_a_server_that_quotes_the_login_does_not_get_it_into_our_records(authority: Authority) -> None:
    """S-B2"""
    quoted = f"NO <{PASSWORD}> is wrong".encode()
    with a_reader(authority, {"AUTHENTICATE": [quoted]}) as (reader, _), pytest.raises(ImapError) as caught:
        reader.__enter__()
    assert "<***> is wrong" in caught.value.server_text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_messages_are_read_without_marking_them(authority: Authority) -> None:
    with a_reader(authority, a_folder_with(5, 7)) as (reader, server), reader:
        messages, cursor = reader.new_messages("INBOX", None)
    assert [(message.uid, message.folder, message.subject) for message in messages] == [
        (5, "INBOX", "hello"),
        (7, "INBOX", "hello"),
    ]
    assert messages[0].internal_date == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert messages[0].body_text == "hi\n"
    assert cursor == Cursor(9, 100)
    assert not commands(server, "STORE")
    assert all("PEEK" in command for command in commands(server, "BODY"))


def test_reading_goes_on_after_the_cursor(authority: Authority) -> None:
    """E-B3"""
    with a_reader(authority, a_folder_with(8)) as (reader, server), reader:
        messages, cursor = reader.new_messages("INBOX", Cursor(9, 8))
    assert commands(server, "SEARCH") == ["UID SEARCH UID 8:*"]
    assert [message.uid for message in messages] == [8]
    assert cursor == Cursor(9, 9)


def test_the_last_message_does_not_come_back_when_nothing_is_new(authority: Authority) -> None:
    """E-B3: RFC 9051 6.4.8: "n:*" matches the last message also when n is beyond it."""
    script = a_folder_with(7) | {"SELECT": [b"* 1 EXISTS", b"* OK [UIDVALIDITY 9] ok"]}
    with a_reader(authority, script) as (reader, server), reader:
        assert reader.new_messages("INBOX", Cursor(9, 8)) == ([], Cursor(9, 8))
    assert commands(server, "SEARCH")
    assert not commands(server, "FETCH")


def test_a_folder_without_news_costs_one_command(authority: Authority) -> None:
    with a_reader(authority, {"SELECT": selected(uidnext=8)}) as (reader, server), reader:
        assert reader.new_messages("INBOX", Cursor(9, 8)) == ([], Cursor(9, 8))
    assert not commands(server, "SEARCH")


def test_a_renumbered_folder_is_scanned_again_but_only_its_newest(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B3"""
    monkeypatch.setattr(imap, "MESSAGES_PER_CALL", 2)
    script = a_folder_with(3, 4, search=b"1 2 3 4") | {"SELECT": selected(uidvalidity=10, uidnext=5)}
    with a_reader(authority, script) as (reader, _), reader:
        messages, cursor = reader.new_messages("INBOX", Cursor(9, 400))
    assert [message.uid for message in messages] == [3, 4]
    assert cursor == Cursor(10, 5)


def test_a_server_that_was_put_back_to_an_older_state_hides_no_new_mail(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-B3: its UIDVALIDITY is the old one, its UIDNEXT is below what was read already."""
    monkeypatch.setattr(imap, "MESSAGES_PER_CALL", 2)
    script = a_folder_with(3, 4, search=b"1 2 3 4") | {"SELECT": selected(uidnext=5)}
    with a_reader(authority, script) as (reader, _), reader:
        messages, cursor = reader.new_messages("INBOX", Cursor(9, 400))
        assert ([message.uid for message in messages], cursor) == ([3, 4], Cursor(9, 5))
        assert reader.strangers("INBOX", Cursor(9, 400), lacking=TOKEN_HEADER).cursor == Cursor(9, 5)
        assert reader.new_messages("INBOX", cursor) == ([], cursor)


def test_a_next_uid_that_is_none_moves_no_cursor_beyond_all_mail(authority: Authority) -> None:
    """E-B3; RFC 9051 9: a UID has 32 bits. A cursor that was moved there before counts as none."""
    script = a_folder_with(7) | {"SELECT": selected(uidnext=9_999_999_999)}
    with a_reader(authority, script) as (reader, _), reader:
        for after in (None, Cursor(9, 5), Cursor(9, 9_999_999_999)):
            messages, cursor = reader.new_messages("INBOX", after)
            assert ([message.uid for message in messages], cursor) == ([7], Cursor(9, 8))


def test_a_large_backlog_is_read_in_portions_that_follow_each_other(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "MESSAGES_PER_CALL", 2)
    with a_reader(authority, a_folder_with(5, 6, search=b"7 5 6")) as (reader, _), reader:
        messages, cursor = reader.new_messages("INBOX", Cursor(9, 5))
    assert [message.uid for message in messages] == [5, 6]
    assert cursor == Cursor(9, 7)


def test_an_empty_folder_gives_a_cursor_as_well(authority: Authority) -> None:
    script = {"SELECT": selected(uidnext=1), "UID SEARCH": [b"* SEARCH"]}
    with a_reader(authority, script) as (reader, _), reader:
        assert reader.new_messages("INBOX", None) == ([], Cursor(9, 1))


def test_flag_changes_by_others_are_not_taken_for_messages(authority: Authority) -> None:
    """Unsolicited FETCH lines make imap-tools return 45 objects for 30 messages."""
    noise = b"* 2 FETCH (FLAGS (\\Seen))"
    script = a_folder_with(5) | {
        "UID FETCH 5 .*BODY": [noise, a_body(5), b"* 1 FETCH (UID 4 FLAGS (\\Answered))", noise],
        "UID FETCH .*RFC822.SIZE": [noise, a_size(5), a_size(4), noise],
    }
    with a_reader(authority, script) as (reader, _), reader:
        messages, _ = reader.new_messages("INBOX", None)
    assert [(message.uid, message.subject) for message in messages] == [(5, "hello")]


def test_a_server_may_say_the_uid_after_the_body(authority: Authority) -> None:
    late = b"* 5 FETCH (BODY[]<0> {%d}\r\n%s UID 5)" % (len(RAW), RAW)
    script = a_folder_with(5) | {"UID FETCH 5 .*BODY": [late]}
    with a_reader(authority, script) as (reader, _), reader:
        messages, _ = reader.new_messages("INBOX", None)
    assert [message.message_id for message in messages] == ["<a@x.test>"]


def test_a_message_that_vanishes_meanwhile_is_left_out(authority: Authority) -> None:
    script: dict[str, list[bytes]] = {"UID FETCH 5 .*BODY": []}
    with a_reader(authority, script | a_folder_with(7, search=b"5 7")) as (reader, _), reader:
        messages, _ = reader.new_messages("INBOX", None)
    assert [message.uid for message in messages] == [7]


def test_of_an_oversized_message_only_the_header_is_fetched(authority: Authority) -> None:
    """Towards E-F10"""
    head = b"Message-ID: <big@x.test>\r\n\r\n"
    script = a_folder_with(5) | {
        "UID FETCH .*RFC822.SIZE": [a_size(5, 50 * 1024 * 1024)],
        "UID FETCH 5 .*BODY": [b"* 5 FETCH (UID 5 BODY[HEADER]<0> {%d}\r\n%s)" % (len(head), head)],
    }
    with a_reader(authority, script) as (reader, server), reader:
        (message,), _ = reader.new_messages("INBOX", None)
    assert message.oversized
    assert message.size == 50 * 1024 * 1024
    assert message.message_id == "<big@x.test>"
    assert "UID FETCH 5 (UID BODY.PEEK[HEADER]<0.65536>)" in server.commands


def test_a_literal_beyond_all_bounds_ends_the_session_before_it_is_allocated(authority: Authority) -> None:
    """Towards E-F10: imaplib before gh-119511 allocates what is announced."""
    script: Script = a_folder_with(7, search=b"5 7") | {
        "UID FETCH 5 .*BODY": [b"* 5 FETCH (UID 5 BODY[]<0> {4000000000}", close],
        "UID FETCH .*RFC822.SIZE": [a_size(5), a_size(7)],
    }
    with a_reader(authority, script) as (reader, _), reader:
        portion = reader.next_portion("INBOX", None)
    assert [message.uid for message in portion.messages] == [7]
    assert [(one.uid, one.is_final) for one in portion.unread] == [(5, False)]
    assert "literal of 4000000000 bytes" in portion.unread[0].reason


REFUSALS: dict[str, Any] = {
    "NO": b"NO [SERVERBUG] cannot be read",
    "BAD": b"BAD internal error",
    "hangs up": close,
    "says nothing": hang,
}


@pytest.mark.parametrize("having", [None, "X-Emberflow-Token"])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_message_that_the_server_does_not_give_keeps_no_other_back(
    authority: Authority, refusal: Any, having: Any
) -> None:
    """It is named with the reason; those before and after it are read."""
    raw = b"X-Emberflow-Token: a.b\r\n" + RAW
    fields = b"BODY[HEADER.FIELDS (X-EMBERFLOW-TOKEN)] {26}\r\nX-Emberflow-Token: a.b\r\n\r\n"
    script: dict[str, Any] = {"SELECT": selected(), "UID SEARCH": [b"* SEARCH 5 6 7"]}
    script |= {
        "UID FETCH .*RFC822.SIZE": [a_size(uid)[:-1] + b" " + fields + b")" for uid in (5, 6, 7)],
        "UID FETCH .*\\b6\\b.*BODY": [a_body(5, raw), refusal],
        "UID FETCH 5 .*BODY": [a_body(5, raw)],
        "UID FETCH 7 .*BODY": [a_body(7, raw)],
    }
    with a_reader(authority, script, timeout=1.0) as (reader, _), reader:
        portion = reader.next_portion("INBOX", None, having=having)
        assert reader.select("INBOX") == (9, 100)
    assert [(message.uid, message.token) for message in portion.messages] == [(5, "a.b"), (7, "a.b")]
    assert [(one.uid, one.size, one.is_final) for one in portion.unread] == [(6, len(RAW), False)]
    assert portion.unread[0].reason
    assert portion.cursor == Cursor(9, 100)


def test_a_server_that_hangs_up_at_every_message_is_left(authority: Authority) -> None:
    script: Script = {"SELECT": selected(), "UID SEARCH": [b"* SEARCH 5 6 7 8 9"], "UID FETCH": [close]}
    with a_reader(authority, script) as (reader, server), pytest.raises(ImapError, match="imap_command"), reader:
        reader.next_portion("INBOX", None)
    assert server.connections == 4


def test_of_messages_without_the_header_asked_for_nothing_more_is_read(authority: Authority) -> None:
    """What strangers send costs a line each, whatever is in it."""
    stranger = a_size(5)[:-1] + b" BODY[HEADER.FIELDS (X-EMBERFLOW-TOKEN)] {2}\r\n\r\n)"
    script = {"SELECT": selected(), "UID SEARCH": [b"* SEARCH 5"], "UID FETCH": [stranger]}
    with a_reader(authority, script) as (reader, server), reader:
        portion = reader.next_portion("INBOX", None, having="X-Emberflow-Token")
    assert (portion.messages, portion.unread, portion.cursor) == ([], [], Cursor(9, 100))
    assert len(commands(server, "FETCH")) == 1


def test_a_message_that_cannot_be_parsed_is_named_for_good(authority: Authority) -> None:
    bomb = b"Content-Type: text/plain" + b"; a=b" * 10_000 + b"\r\n\r\nx"
    script = a_folder_with(5, 7) | {"UID FETCH 5 .*BODY": [a_body(5, bomb)]}
    with a_reader(authority, script) as (reader, _), reader:
        portion = reader.next_portion("INBOX", None)
    assert [message.uid for message in portion.messages] == [7]
    assert [(one.uid, one.reason, one.is_final) for one in portion.unread] == [(5, "more than 2000 parameters", True)]


def test_messages_are_read_again_by_their_numbers_unless_these_changed(authority: Authority) -> None:
    with a_reader(authority, a_folder_with(5, 7)) as (reader, _), reader:
        messages, unread = reader.read_again("INBOX", 9, [7])
        assert ([message.uid for message in messages], unread) == ([7], [])
        assert reader.read_again("INBOX", 10, [7]) == ([], [])


@pytest.mark.parametrize("next_uid", [0, 1, 2**32 - 1, 2**32])
def test_no_command_names_a_uid_that_is_none(authority: Authority, next_uid: int) -> None:
    """RFC 9051 9: a UID is from 1 to 2^32 - 1, also when the server tells no UIDNEXT."""
    script = {"SELECT": [b"* 0 EXISTS", b"* OK [UIDVALIDITY 9] ok"], "UID SEARCH": [b"* SEARCH"]}
    with a_reader(authority, script) as (reader, server), reader:
        assert reader.new_messages("INBOX", None) == ([], Cursor(9, 1))
        reader.new_messages("INBOX", Cursor(9, next_uid))
    for command in commands(server, "UID SEARCH UID"):
        assert 1 <= int(command.split()[-1].split(":")[0]) < 2**32


def test_numbers_that_are_no_uids_are_not_taken_for_some(authority: Authority) -> None:
    search = b"0 7 4294967296 " + b"9" * 5_000 + b" -1 x"
    with a_reader(authority, a_folder_with(7, search=search)) as (reader, _), reader:
        messages, _ = reader.new_messages("INBOX", None)
    assert [message.uid for message in messages] == [7]


def test_of_a_large_folder_only_the_newest_are_asked_for(authority: Authority) -> None:
    """The numbers of a million messages are one line of seven megabytes."""
    script = a_folder_with(5) | {"SELECT": [b"* 1000000 EXISTS", *selected()[1:]]}
    with a_reader(authority, script) as (reader, server), reader:
        reader.new_messages("INBOX", None)
    assert commands(server, "SEARCH") == ["UID SEARCH 999501:*"]


ODD_CAPABILITIES: dict[str, list[Any]] = {
    "NO": [b"NO [SERVERBUG] not now"],
    "BAD": [b"BAD User is authenticated but not connected."],
    "OK without a list": [],
    "an empty list": [b"* CAPABILITY "],
    "a literal": [b"* CAPABILITY {3}\r\nabc"],
    "the end": [close],
}


@pytest.mark.parametrize("answer", ODD_CAPABILITIES.values(), ids=ODD_CAPABILITIES.keys())
def test_whatever_follows_the_login_is_usable_or_an_error_of_this_mailbox(
    authority: Authority, answer: list[Any]
) -> None:
    class Odd(ScriptedImapServer):
        def _look_up(self, command: str) -> tuple[list[Any] | None, str]:
            if command == "CAPABILITY" and self.commands.count("CAPABILITY") > 1:
                said = [line for line in answer if isinstance(line, bytes) and line.startswith((b"NO", b"BAD"))]
                return [line for line in answer if line not in said], said[0].decode() if said else "OK done"
            return super()._look_up(command)

    server = Odd(authority.server_context(), implicit=True)
    with server.running() as port:
        access = an_access(imap_port=port, imap_tls="implicit")
        try:
            with ImapReader(access, "sandbox", {"localhost": authority.ca_file}) as reader:
                reader.select("INBOX")
        except ImapError as error:
            assert error.stage == "imap_connect"  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("fault", [UnicodeError, ValueError, KeyError, IndexError, AssertionError, RecursionError])
def test_whatever_a_library_raises_is_an_error_of_this_mailbox(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    with a_reader(authority) as (reader, _), reader:
        monkeypatch.setattr(reader._client, "select", lambda *_: (_ for _ in ()).throw(fault("odd")))
        with pytest.raises(ImapError, match=r"imap_select: .*odd"):
            reader.select("INBOX")


@pytest.mark.parametrize("host", ["mail..north.test", "a" * 64 + ".test", "."])
def test_a_host_that_is_none_is_an_error_of_this_mailbox(host: str) -> None:
    with pytest.raises(ImapError, match="imap_connect"):
        ImapReader(an_access(imap_host=host), "sandbox", {}).__enter__()


@pytest.mark.parametrize("answer", [close, hang], ids=["close", "hang"])
def test_a_connection_lost_while_reading_is_an_imap_error(authority: Authority, answer: Any) -> None:
    script = {"SELECT": selected(), "UID SEARCH": [answer]}
    lost = pytest.raises(ImapError, match="imap_command")
    with a_reader(authority, script, timeout=0.3) as (reader, _), lost, reader:
        reader.new_messages("INBOX", None)


def test_a_folder_that_cannot_be_opened_is_named_by_its_stage(authority: Authority) -> None:
    script = {"SELECT": [b"NO [NONEXISTENT] no such folder"]}
    refused = pytest.raises(ImapError, match=r"imap_select: .*no such folder")
    with a_reader(authority, script) as (reader, _), reader, refused:
        reader.select("Nowhere")


@pytest.mark.parametrize("folder", ["", "INBOX\r\nA1 DELETE INBOX", "a\0b"])
def test_a_folder_name_cannot_become_a_command(authority: Authority, folder: str) -> None:
    with a_reader(authority) as (reader, server), reader:
        for action in (reader.select, lambda name: reader.move([1], name)):
            with pytest.raises(ValueError, match="not a folder name"):
                action(folder)
        assert not commands(server, "DELETE")


FOLDERS = [
    b'* LIST (\\HasNoChildren) "/" INBOX',
    b'* LIST (\\HasNoChildren \\Junk) "/" "Bulk &AOQ-"',
    b'* LIST (\\HasNoChildren) "/" Junk',
    b'* LIST (\\HasNoChildren) "." INBOX.Sent',
]


def test_folders_are_found_by_special_use_and_then_by_name(authority: Authority) -> None:
    with a_reader(authority, {"LIST": FOLDERS}) as (reader, _), reader:
        assert reader.find_folder("\\Junk") == "Bulk ä"
        assert reader.find_folder("\\Sent") == "INBOX.Sent"


def test_a_server_that_tells_marks_only_when_asked_is_asked(authority: Authority) -> None:
    """RFC 6154 2: it may leave them out of a plain LIST. One that refuses the question is listed plainly."""
    plain = [line.replace(b" \\Junk", b"") for line in FOLDERS[:2]]
    capabilities = "IMAP4rev1 SPECIAL-USE LIST-EXTENDED"
    for asked, found in ((FOLDERS[:2], "Bulk ä"), ([b"BAD what?"], None)):
        script = {r'LIST "" "\*" RETURN \(SPECIAL-USE\)': asked, "LIST": plain}
        with a_reader(authority, script, capabilities_after_login=capabilities) as (reader, _), reader:
            assert reader.find_folder("\\Junk") == found
    with a_reader(authority, {"LIST": FOLDERS}) as (reader, server), reader:
        assert reader.find_folder("\\Junk") == "Bulk ä"
    assert commands(server, "LIST") == ['LIST "" "*"']


def test_names_are_modified_utf_7_even_where_utf_8_is_offered(authority: Authority) -> None:
    """RFC 6855 3: without ENABLE a name is never UTF-8."""
    script: Script = {"LIST": FOLDERS, "SELECT": selected()}
    capabilities = "IMAP4rev1 ENABLE UTF8=ACCEPT"
    with a_reader(authority, script, capabilities_after_login=capabilities) as (reader, server), reader:
        reader.select(reader.find_folder("\\Junk") or "")
    assert commands(server, "SELECT") == ['SELECT "Bulk &AOQ-"']
    assert not commands(server, "ENABLE")


def test_a_server_of_utf_8_alone_is_told_so_and_its_names_stay_as_they_are(authority: Authority) -> None:
    """RFC 6855 6: it takes no command before."""
    listed = [
        '* LIST (\\Junk) "/" "Unerwünscht \\"&\\""'.encode(), b'* LIST () "/" {9}\r\nEntw\xc3\xbcrfe',
        b'* LIST () "/" "x\xff"',
    ]  # fmt: skip
    script: Script = {"ENABLE UTF8=ACCEPT": [b"* ENABLED UTF8=ACCEPT"], "LIST": listed, "SELECT": selected()}
    capabilities = "IMAP4rev1 ENABLE UTF8=ONLY MOVE"
    with a_reader(authority, script, capabilities_after_login=capabilities) as (reader, server), reader:
        assert reader.folders() == ["Entwürfe", 'Unerwünscht "&"']
        reader.select(reader.find_folder("\\Junk") or "")
        reader.move([1], "Entwürfe")
    told = [command.encode("latin-1").decode() for command in server.commands]
    assert 'SELECT "Unerwünscht \\"&\\""' in told
    assert 'UID MOVE 1 "Entwürfe"' in told


def test_a_missing_folder_is_none(authority: Authority) -> None:
    with a_reader(authority, {"LIST": FOLDERS[:1]}) as (reader, _), reader:
        assert reader.find_folder("\\Junk") is None


def test_marking_as_read_touches_nothing_else(authority: Authority) -> None:
    """B-B9: imap-tools' flag() would expunge the whole folder."""
    with a_reader(authority) as (reader, server), reader:
        reader.select("INBOX")
        reader.mark_seen([7, 5, 7])
        reader.mark_seen([])
    assert commands(server, "UID") == ["UID STORE 5,7 +FLAGS.SILENT (\\Seen)"]
    assert not commands(server, "EXPUNGE")


@pytest.mark.parametrize(
    ("flags", "capabilities", "command"),
    [
        (b"\\Seen \\Flagged \\*", "IMAP4rev1", "UID STORE 5,7 +FLAGS.SILENT ($Important)"),
        (b"\\Seen $important", "IMAP4rev1", "UID STORE 5,7 +FLAGS.SILENT ($Important)"),
        (b"\\Seen \\Flagged", "IMAP4rev1 X-GM-EXT-1", "UID STORE 5,7 +X-GM-LABELS (\\Important)"),
        (b"\\Seen \\Flagged", "IMAP4rev1", None),
        (b"", "IMAP4rev1", None),
        (None, "IMAP4rev1", None),
    ],
)
def test_what_is_important_is_marked_as_the_server_can(
    authority: Authority, flags: bytes | None, capabilities: str, command: str | None
) -> None:
    """B-F2: RFC 8457 where PERMANENTFLAGS allows it, else Gmail's label, else not at all."""
    told = [] if flags is None else [b"* OK [PERMANENTFLAGS (%s)] ok" % flags]
    script = {"SELECT": [*selected(), *told]}
    with a_reader(authority, script, capabilities_after_login=capabilities) as (reader, server), reader:
        reader.select("INBOX")
        assert reader.can_mark_important is (command is not None)
        if command is not None:
            reader.mark_important([7, 5])
            assert commands(server, "UID") == [command]


def test_a_star_is_a_flag(authority: Authority) -> None:
    """B-F2"""
    with a_reader(authority) as (reader, server), reader:
        reader.select("INBOX")
        reader.mark_starred([7, 5])
    assert commands(server, "UID") == ["UID STORE 5,7 +FLAGS.SILENT (\\Flagged)"]


def test_several_folders_are_found_by_one_command(authority: Authority) -> None:
    with a_reader(authority, {"LIST": FOLDERS}) as (reader, server), reader:
        found = reader.find_folders("\\Junk", "\\Archive", "\\Sent")
    assert found == {"\\Junk": "Bulk ä", "\\Archive": None, "\\Sent": "INBOX.Sent"}
    assert len(commands(server, "LIST")) == 1


def test_moving_is_one_command_where_the_server_can(authority: Authority) -> None:
    """B-B5, B-B9: servers announce MOVE only after the login."""
    with a_reader(authority) as (reader, server), reader:
        reader.select("Junk")
        reader.move([5], "INBOX")
    assert commands(server, "UID") == ['UID MOVE 5 "INBOX"']


@pytest.mark.parametrize(("capabilities", "expunged"), [("IMAP4rev1 UIDPLUS", True), ("IMAP4rev1", False)])
def test_without_move_the_copy_comes_first_and_only_these_messages_go(
    authority: Authority, capabilities: str, expunged: bool
) -> None:
    with a_reader(authority, capabilities_after_login=capabilities) as (reader, server), reader:
        reader.select("Junk")
        reader.move([5], "INBOX")
    last = "UID EXPUNGE 5" if expunged else "UID SEARCH DELETED"
    assert commands(server, "UID") == ['UID COPY 5 "INBOX"', "UID STORE 5 +FLAGS.SILENT (\\Deleted)", last]
    assert "EXPUNGE" not in server.commands


def test_a_failed_copy_deletes_nothing(authority: Authority) -> None:
    script = {"UID COPY": [b"NO [TRYCREATE] no such folder"]}
    with a_reader(authority, script, capabilities_after_login="IMAP4rev1") as (reader, server), reader:
        reader.select("Junk")
        with pytest.raises(ImapError, match="TRYCREATE"):
            reader.move([5], "Nowhere")
    assert not commands(server, "STORE")


def test_many_messages_are_named_in_commands_of_bearable_length(authority: Authority) -> None:
    with a_reader(authority) as (reader, server), reader:
        reader.select("INBOX")
        reader.mark_seen(range(1000, 1250))
    assert len(commands(server, "STORE")) == 3


def test_messages_are_found_by_their_ids(authority: Authority) -> None:
    """Q-F5"""
    script = {"SELECT": selected(), "UID SEARCH .*<a@": [b"* SEARCH 4"], "UID SEARCH": [b"* SEARCH"]}
    with a_reader(authority, script) as (reader, server), reader:
        assert reader.find_by_message_id(["<a@x.test>", "<b@x.test>"], "Junk") == {"<a@x.test>": [4]}
    assert commands(server, "SEARCH") == [f'UID SEARCH HEADER Message-ID "<{name}@x.test>"' for name in "ab"]
    assert len(commands(server, "SELECT")) == 1


def test_folders_that_hold_no_messages_are_not_listed(authority: Authority) -> None:
    """RFC 9051 7.3.1"""
    others = [b'* LIST (\\Noselect) "/" Groups', b'* LIST (\\NonExistent) "/" Gone']
    with a_reader(authority, {"LIST": [*reversed(FOLDERS), *others]}) as (reader, _), reader:
        assert reader.folders() == ["INBOX", "Bulk ä", "INBOX.Sent", "Junk"]


def test_delivery_reports_are_read_without_marking_them(authority: Authority) -> None:
    """Q-F5"""
    script = {"SELECT": selected(), "UID SEARCH": [b"* SEARCH 4"], "UID FETCH 4": [a_body(4)]}
    with a_reader(authority, script) as (reader, server), reader:
        assert list(reader.reports("INBOX", date(2026, 3, 1))) == [RAW]
    assert [command.removeprefix("UID SEARCH SINCE 1-Mar-2026 ") for command in commands(server, "SEARCH")] == [
        'HEADER Content-Type "multipart/report"',
        'HEADER Return-Path "<>"',
        'FROM "mailer-daemon"',
        'FROM "postmaster"',
        'FROM "mail delivery"',
    ]
    assert commands(server, "FETCH") == ["UID FETCH 4 (UID BODY.PEEK[]<0.262144>)"]


@pytest.mark.parametrize(
    "hostile",
    [
        '<a"b@x.test>',
        "<a\r\nA1 LOGOUT>",
        "<a@x.test> OR ALL",
        "a@x.test",
        "<a\0b>",
        "<a\\>",
        "<ä@x.test>",
        "<>",
    ],
)
def test_a_hostile_message_id_cannot_become_a_command(authority: Authority, hostile: str) -> None:
    """CVE-2025-15366"""
    with a_reader(authority) as (reader, server), reader:
        with pytest.raises(ValueError, match="not a Message-ID"):
            reader.find_by_message_id([hostile], "INBOX")
        assert not commands(server, "SEARCH")


@pytest.mark.parametrize("hostile", ['a"b', "a\r\nA1 LOGOUT", "a\\", "ä", ""])
def test_a_hostile_header_value_cannot_become_a_command(authority: Authority, hostile: str) -> None:
    """CVE-2025-15366"""
    with a_reader(authority) as (reader, server), reader:
        with pytest.raises(ValueError, match="cannot be searched for"):
            reader.find_by_header("X-Emberflow-Token", [hostile], "INBOX")
        assert not commands(server, "SEARCH")
