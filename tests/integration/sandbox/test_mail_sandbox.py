"""The mail sandbox as its clients see it: smtplib and imap-tools against the real servers (E-B7, E-B10)."""

from __future__ import annotations

import base64
import hashlib
import imaplib
import itertools
import json
import os
import select
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from imap_tools import AND, BaseMailBox, H, MailBox, MailboxLoginError, MailBoxStartTls

from emberflow.errors import StackError
from emberflow.sandbox import SandboxAddress, create_accounts, read_deliveries, running_sandbox

PASSWORD = "correct horse"
RULES = {"junk_percent": {"default": 0, "junky.test": 100, "half.test": 50}}
TIMEOUT = 10
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sandbox")
    (path / "rules.json").write_text(json.dumps(RULES))
    return path


@pytest.fixture(scope="module")
def sandbox(directory: Path) -> Iterator[SandboxAddress]:
    with running_sandbox(directory) as address:
        yield address


@pytest.fixture
def account(directory: Path, sandbox: SandboxAddress) -> Callable[..., str]:
    """Make a new account while the sandbox runs."""

    def make(domain: str = "north.test") -> str:
        address = f"user{next(numbers)}@{domain}"
        create_accounts(directory, {address: PASSWORD})
        return address

    return make


def trusting(sandbox: SandboxAddress) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(sandbox.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def a_message(text: str = "Hello", *, sender: str = "a@north.test", recipient: str = "b@north.test") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, recipient, text
    message["Message-ID"] = f"<{next(numbers)}.{time.monotonic_ns()}@{sender.partition('@')[2]}>"
    message.set_content(f"{text}\n.a line that begins with a dot\n")
    return message


@contextmanager
def submission(
    sandbox: SandboxAddress, user: str | None = None, password: str = PASSWORD, *, implicit_tls: bool = False
) -> Iterator[smtplib.SMTP]:
    context = trusting(sandbox)
    client: smtplib.SMTP
    if implicit_tls:
        client = smtplib.SMTP_SSL(
            sandbox.host, sandbox.smtps_port, local_hostname="client.test", timeout=TIMEOUT, context=context
        )
    else:
        client = smtplib.SMTP(sandbox.host, sandbox.smtp_port, local_hostname="client.test", timeout=TIMEOUT)
        client.starttls(context=context)
    try:
        client.ehlo()
        if user is not None:
            client.login(user, password)
        yield client
    finally:
        client.close()


def send(sandbox: SandboxAddress, sender: str, recipient: str, text: str = "Hello") -> EmailMessage:
    message = a_message(text, sender=sender, recipient=recipient)
    with submission(sandbox, sender) as client:
        client.send_message(message, sender, [recipient])
    return message


@contextmanager
def mailbox(
    sandbox: SandboxAddress, user: str, password: str = PASSWORD, *, implicit_tls: bool = True
) -> Iterator[BaseMailBox]:
    context = trusting(sandbox)
    box: BaseMailBox
    if implicit_tls:
        box = MailBox(sandbox.host, sandbox.imaps_port, timeout=TIMEOUT, ssl_context=context)
    else:
        box = MailBoxStartTls(sandbox.host, sandbox.imap_port, timeout=TIMEOUT, ssl_context=context)
    try:
        logged_in = box.login(user, password)
    except MailboxLoginError:
        box.client.shutdown()  # only a logout would close the connection
        raise
    with logged_in:
        # imaplib asks before LOGIN, and MOVE is announced after it.
        box.client.capabilities = tuple(box.client.capability()[1][-1].decode().upper().split())
        yield box


def raw_messages(sandbox: SandboxAddress, user: str, folder: str = "INBOX") -> list[bytes]:
    with mailbox(sandbox, user) as box:
        box.folder.set(folder)
        return [fetch_raw(box, uid) for uid in box.uids()]


def fetch_raw(box: BaseMailBox, uid: str) -> bytes:
    parts = box.client.uid("fetch", uid, "(BODY.PEEK[])")[1]
    return bytes(parts[0][1])


def stored(directory: Path, message: EmailMessage) -> list[tuple[str, str]]:
    """Return recipient and folder of every delivery of ``message``."""
    found = (entry for entry in read_deliveries(directory) if entry.message_id == message["Message-ID"])
    return [(entry.recipient, entry.folder) for entry in found]


@pytest.mark.parametrize("implicit_tls", [False, True], ids=["STARTTLS", "implicit TLS"])
def test_a_submitted_message_arrives_byte_for_byte_and_is_logged_once(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str], implicit_tls: bool
) -> None:
    sender, bot = account(), account("south.test")
    message = a_message(sender=sender, recipient=bot)
    with submission(sandbox, sender, implicit_tls=implicit_tls) as client:
        assert {"starttls", "auth", "size", "8bitmime", "pipelining"} - set(client.esmtp_features) <= {"starttls"}
        client.send_message(message, sender, [bot])
    with mailbox(sandbox, bot, implicit_tls=implicit_tls) as box:
        (uid,) = box.uids(AND(header=H("Message-ID", message["Message-ID"])))
        content = fetch_raw(box, uid)
        (parsed,) = box.fetch(AND(uid=uid), mark_seen=False, bulk=False)
    assert content == message.as_bytes()
    assert (parsed.subject, parsed.from_, parsed.flags) == ("Hello", sender, ("\\Recent",))
    (entry,) = [entry for entry in read_deliveries(directory) if entry.recipient == bot]
    assert entry.message_id == message["Message-ID"]
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert (entry.envelope_from, entry.user, entry.folder, entry.size) == (
        sender,
        sender,
        "INBOX",
        len(content),
    )


@pytest.mark.parametrize(("user", "password"), [("nobody@north.test", PASSWORD), (None, "wrong")])
def test_an_unknown_user_or_a_wrong_password_is_refused(
    sandbox: SandboxAddress, account: Callable[..., str], user: str | None, password: str
) -> None:
    user = user or account()
    with submission(sandbox) as client, pytest.raises(smtplib.SMTPAuthenticationError, match=r"5\.7\.8"):
        client.login(user, password)
    with pytest.raises(MailboxLoginError), mailbox(sandbox, user, password):
        pass


def test_an_address_logs_in_whatever_its_case(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    user = account().upper()
    with submission(sandbox, user) as client:
        assert client.mail(user)[0] == 250
    with mailbox(sandbox, user) as box:
        assert box.uids() == []


def test_a_password_in_clear_text_is_refused(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    """E-B7"""
    user = account()
    with smtplib.SMTP(sandbox.host, sandbox.smtp_port, local_hostname="client.test", timeout=TIMEOUT) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        token = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
        assert client.docmd("AUTH", f"PLAIN {token}")[0] == 538
    imap = imaplib.IMAP4(sandbox.host, sandbox.imap_port, timeout=TIMEOUT)
    assert "LOGINDISABLED" in imap.capabilities
    with pytest.raises(imaplib.IMAP4.error):
        imap.login(user, PASSWORD)
    with pytest.raises(imaplib.IMAP4.error):
        imap.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
    imap.starttls(trusting(sandbox))
    imap.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
    imap.logout()


def test_a_client_that_does_not_know_the_ca_refuses_the_server(sandbox: SandboxAddress) -> None:
    """E-B7"""
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        smtplib.SMTP_SSL(sandbox.host, sandbox.smtps_port, "client.test", timeout=TIMEOUT, context=context)


def test_mail_needs_a_login_and_its_own_sender(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    sender, other = account(), account()
    with submission(sandbox) as client:
        assert client.mail(sender)[0] == 530
        client.login(sender, PASSWORD)
        code, text = client.mail(other)
        assert (code, text[:5]) == (553, b"5.7.1")
        assert client.mail(sender)[0] == 250


FAULTS_AT_RCPT = {
    "reject": (550, b"5.1.1"),
    "full": (452, b"4.2.2"),
    "grey.area": (451, b"4.7.1"),
    "BUSY7": (421, b"4.3.2"),
    "nobody": (550, b"5.1.1"),
}


@pytest.mark.parametrize("local_part", FAULTS_AT_RCPT)
def test_a_recipient_may_be_refused(sandbox: SandboxAddress, account: Callable[..., str], local_part: str) -> None:
    sender = account()
    with submission(sandbox, sender) as client:
        client.mail(sender)
        code, text = client.rcpt(f"{local_part}@north.test")
        assert (code, text[:5]) == FAULTS_AT_RCPT[local_part]
        if code == 421:
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.rset()
        else:
            assert client.rcpt(account())[0] == 250


@pytest.mark.parametrize("recipient", ["someone@example.com", "reject@elsewhere.test", "nodomain"])
def test_nothing_is_relayed(sandbox: SandboxAddress, account: Callable[..., str], recipient: str) -> None:
    """E-B10"""
    sender = account()
    with submission(sandbox, sender) as client:
        client.mail(sender)
        code, text = client.rcpt(recipient)
        assert (code, text[:5]) == (550, b"5.7.1")


def test_a_message_may_be_refused_for_its_content(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    sender = account()
    message = a_message(sender=sender)
    with submission(sandbox, sender) as client:
        with pytest.raises(smtplib.SMTPDataError) as refusal:
            client.send_message(message, sender, ["spam-trap@north.test"])
        assert (refusal.value.smtp_code, refusal.value.smtp_error[:5]) == (554, b"5.7.1")
        assert client.noop()[0] == 250
    assert stored(directory, message) == []


def test_a_lost_reply_leaves_the_message_stored_and_the_sender_uncertain(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    """Q-F5"""
    sender, bot = account(), f"lost{next(numbers)}@north.test"
    create_accounts(directory, {bot: PASSWORD})
    message = a_message(sender=sender)
    with submission(sandbox, sender) as client, pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(message, sender, [bot])
    assert raw_messages(sandbox, bot) == [message.as_bytes()]
    assert stored(directory, message) == [(bot, "INBOX")]


def test_a_dropped_message_is_not_stored_and_the_sender_cannot_tell(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    """Q-F5"""
    sender, bot = account(), f"drop{next(numbers)}@north.test"
    create_accounts(directory, {bot: PASSWORD})
    message = a_message(sender=sender)
    with submission(sandbox, sender) as client, pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(message, sender, [bot])
    assert raw_messages(sandbox, bot) == []
    assert stored(directory, message) == []


def test_a_client_that_leaves_during_data_leaves_nothing(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    sender, bot = account(), account()
    message = a_message(sender=sender)
    with submission(sandbox, sender) as client:
        client.mail(sender)
        client.rcpt(bot)
        assert client.docmd("DATA")[0] == 354
        client.send(message.as_bytes()[:-10])
    assert raw_messages(sandbox, bot) == []
    assert stored(directory, message) == []


def test_each_recipient_gets_one_copy(sandbox: SandboxAddress, directory: Path, account: Callable[..., str]) -> None:
    sender, one, two = account(), account(), account()
    message = a_message(sender=sender)
    with submission(sandbox, sender) as client:
        client.send_message(message, sender, [one, two, one.upper()])
    assert sorted(stored(directory, message)) == sorted([(one, "INBOX"), (two, "INBOX")])
    assert len(raw_messages(sandbox, one)) == len(raw_messages(sandbox, two)) == 1


def test_pipelined_commands_are_answered_in_order(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    sender, bot = account(), account()
    with submission(sandbox, sender) as client:
        client.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{bot}>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
        client.send(b"Subject: piped\r\n\r\nHello\r\n.\r\nNOOP\r\n")
        assert [client.getreply()[0] for _ in range(2)] == [250, 250]
    assert raw_messages(sandbox, bot) == [b"Subject: piped\r\n\r\nHello\r\n"]


def test_junk_is_filed_and_rescued_to_the_inbox(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    """B-B5"""
    sender, bot = account("junky.test"), account("south.test")
    message = send(sandbox, sender, bot)
    assert stored(directory, message) == [(bot, "Junk")]
    with mailbox(sandbox, bot) as box:
        assert box.uids() == []
        (junk,) = [folder.name for folder in box.folder.list() if "\\Junk" in folder.flags]
        box.folder.set(junk)
        (uid,) = box.uids(AND(header=H("Message-ID", message["Message-ID"])))
        assert box.client.uid("move", uid, "INBOX")[0] == "OK"
        copied = box.client.response("COPYUID")[1][-1].split()
        assert box.uids() == []
        box.folder.set("INBOX")
        assert box.uids() == [copied[-1].decode()]
        assert fetch_raw(box, box.uids()[0]) == message.as_bytes()


def test_the_share_of_junk_follows_the_rules_without_a_restart(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"a@north.test": PASSWORD})
    with running_sandbox(tmp_path) as sandbox:
        for percent, folder in ((100, "Junk"), (0, "INBOX")):
            (tmp_path / "rules.json").write_text(json.dumps({"junk_percent": {"default": percent}}))
            assert stored(tmp_path, send(sandbox, "a@north.test", "a@north.test")) == [("a@north.test", folder)]
        (tmp_path / "rules.json").write_text("{")
        assert stored(tmp_path, send(sandbox, "a@north.test", "a@north.test")) == [("a@north.test", "INBOX")]
    assert "rules.json" in (tmp_path / "sandbox.log").read_text()


def test_a_new_account_has_its_special_folders(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    with mailbox(sandbox, account()) as box:
        assert "SPECIAL-USE" in box.client.capabilities
        marks = {folder.name: set(folder.flags) for folder in box.folder.list()}
        assert marks.keys() == {"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"}
        assert all(f"\\{name}" in flags for name, flags in marks.items() if name != "INBOX")
        message = a_message()
        box.append(message.as_bytes(), "Sent", flag_set=["\\Seen"])
        box.folder.set("Sent")
        assert [fetch_raw(box, uid) for uid in box.uids("SEEN")] == [message.as_bytes()]


def test_a_client_may_use_keywords_of_its_own(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    sender, bot = account(), account()
    send(sandbox, sender, bot, "first")
    second = send(sandbox, sender, bot, "second")
    with mailbox(sandbox, bot) as box:
        (uid,) = box.uids(AND(header=H("Message-ID", second["Message-ID"])))
        box.client.uid("store", uid, "+FLAGS.SILENT", "($NotJunk warmed)")
        assert box.uids("KEYWORD $NotJunk KEYWORD warmed") == [uid]
        assert len(box.uids("UNKEYWORD warmed")) == 1


def test_a_waiting_client_is_woken_by_new_mail(sandbox: SandboxAddress, account: Callable[..., str]) -> None:
    sender, bot = account(), account()
    with mailbox(sandbox, bot) as box:
        box.idle.start()
        send(sandbox, sender, bot)
        # Read by the line and blocking: imap_tools' poll() reads without blocking and loses half a line that comes
        # in two TLS records.
        assert any(b"EXISTS" in box.client.readline() for _ in range(3))
        box.idle.stop()
        assert len(box.uids()) == 1


def test_a_changed_password_holds_at_once_and_the_mail_stays(
    sandbox: SandboxAddress, directory: Path, account: Callable[..., str]
) -> None:
    user = account()
    send(sandbox, user, user)
    create_accounts(directory, {user: "another"})
    with pytest.raises(MailboxLoginError), mailbox(sandbox, user):
        pass
    with mailbox(sandbox, user, "another") as box:
        assert len(box.uids()) == 1


def test_two_hundred_accounts_hold_exactly_what_the_log_says(tmp_path: Path) -> None:
    """Forty clients submit at a time; then every mailbox is compared with the log."""
    senders = [f"sender{number}@half.test" for number in range(40)]
    bots = [f"bot{number}@south.test" for number in range(160)]
    create_accounts(tmp_path, dict.fromkeys([*senders, *bots], PASSWORD))
    (tmp_path / "rules.json").write_text(json.dumps(RULES))

    def submit(number: int) -> None:
        with submission(running, senders[number]) as client:
            for bot in bots[number % 20 :: 20]:
                message = a_message(sender=senders[number], recipient=bot)
                client.send_message(message, senders[number], [bot])

    def content_of(bot: str) -> set[tuple[str, str, str]]:
        found = set()
        with mailbox(running, bot) as box:
            for folder in ("INBOX", "Junk"):
                box.folder.set(folder)
                found |= {(bot, folder, hashlib.sha256(fetch_raw(box, uid)).hexdigest()) for uid in box.uids()}
        return found

    with running_sandbox(tmp_path) as running, ThreadPoolExecutor(40) as clients:
        list(clients.map(submit, range(len(senders))))
        in_mailboxes = set().union(*clients.map(content_of, bots))
    log = read_deliveries(tmp_path)
    assert len(log) == 2 * len(bots)
    assert in_mailboxes == {(entry.recipient, entry.folder, entry.sha256) for entry in log}
    assert 0.3 < sum(entry.folder == "Junk" for entry in log) / len(log) < 0.7


BAD_BYTES = [
    b"",
    b"\x16\x03\x01\x02\x00garbage",
    b"\x00" * 5000,
    b"A" * 200_000 + b"\r\n",
    b"EHLO x\r\nMAIL FROM:<\xff\xfe>\r\nDATA\r\n",
    b"a1 LOGIN {99999999999}\r\n",
    b"a1 LOGIN x {5+}\r\nhell",
    b"a1 STARTTLS\r\nnot tls at all\r\n",
    b"STARTTLS\r\nEHLO x\r\nSTARTTLS\r\nnot tls at all\r\n",
    b"AUTH PLAIN " + base64.b64encode(b"\0u@north.test\0" + PASSWORD.encode()) + b"\r\n" * 30,
    base64.b64encode(PASSWORD.encode()) + b"\r\n",
    b"\r\n" * 1000,
]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "inside TLS"])
def test_no_client_can_end_the_server_or_make_it_log_a_password(tmp_path: Path, tls: bool) -> None:
    create_accounts(tmp_path, {"a@north.test": PASSWORD})
    with running_sandbox(tmp_path) as sandbox:
        for port in (sandbox.smtp_port, sandbox.smtps_port, sandbox.imap_port, sandbox.imaps_port):
            for garbage in BAD_BYTES:
                client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                try:
                    if tls and port in (sandbox.smtps_port, sandbox.imaps_port):
                        client = trusting(sandbox).wrap_socket(client, server_hostname="localhost")
                    client.sendall(garbage)
                except OSError:
                    pass  # the server may hang up on it at any time
                client.close()
        send(sandbox, "a@north.test", "a@north.test")
        log = (tmp_path / "sandbox.log").read_text()
    assert PASSWORD not in log
    assert base64.b64encode(PASSWORD.encode()).decode()[:12] not in log
    assert "Traceback" not in log


def test_only_loopback_is_bound(sandbox: SandboxAddress) -> None:
    """E-B10"""
    for port in (sandbox.smtp_port, sandbox.smtps_port, sandbox.imap_port, sandbox.imaps_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=TIMEOUT)


def test_sigterm_ends_it_at_once_with_status_zero_even_while_clients_wait(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"a@north.test": PASSWORD})
    command = [sys.executable, "-m", "emberflow.sandbox", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], TIMEOUT)[0]
        ready = json.loads(process.stdout.readline())
        assert ready.pop("ready") is True
        announced = json.loads((tmp_path / "sandbox.json").read_text())
        assert announced == ready | {"pid": process.pid}
        sandbox = SandboxAddress.from_json(announced)
        waiting = MailBox(sandbox.host, sandbox.imaps_port, timeout=TIMEOUT, ssl_context=trusting(sandbox))
        waiting.login("a@north.test", PASSWORD).idle.start()
        with submission(sandbox, "a@north.test") as client:
            client.mail("a@north.test")
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(3) == 0
        waiting.client.shutdown()
        assert not (tmp_path / "sandbox.json").exists()


def test_a_second_sandbox_for_the_same_directory_is_refused(sandbox: SandboxAddress, directory: Path) -> None:
    log = (directory / "sandbox.log").read_text()
    with pytest.raises(StackError, match="already serves"), running_sandbox(directory):
        pass
    (directory / "sandbox.log").write_text(log)


def test_a_port_that_is_taken_is_named(sandbox: SandboxAddress, tmp_path: Path) -> None:
    with (
        pytest.raises(StackError, match=str(sandbox.imap_port)),
        running_sandbox(tmp_path, imap_port=sandbox.imap_port),
    ):
        pass


def test_mail_ends_with_the_process_but_accounts_ports_and_the_log_remain(tmp_path: Path) -> None:
    create_accounts(tmp_path, {"a@north.test": PASSWORD})
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    with running_sandbox(tmp_path) as first:
        message = send(first, "a@north.test", "a@north.test")
    with running_sandbox(tmp_path, smtp_port=first.smtp_port, imaps_port=first.imaps_port) as second:
        assert (second.smtp_port, second.imaps_port) == (first.smtp_port, first.imaps_port)
        assert raw_messages(second, "a@north.test") == []
    assert stored(tmp_path, message) == [("a@north.test", "INBOX")]
