"""The fault kit does what its faults are named after: otherwise a passed chaos run would mean nothing."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from emberflow.clock import SystemClock
from emberflow.database.engine import open_engine
from emberflow.domain.attempt import Attempt
from emberflow.email_ops.mailbox import MailboxAccess
from emberflow.email_ops.smtp import SmtpConnection
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.sandbox import create_accounts, read_deliveries
from tests.faults.kit.clocks import OffsetClock, set_offset
from tests.faults.kit.cutting_sandbox import Cuts, read_transactions, running_cutting_sandbox, write_cuts
from tests.faults.kit.postgres import stop_immediately
from tests.faults.kit.tcp_proxy import CALM, FaultyProxy, Weather, Wire
from tests.worlds import PASSWORD

MESSAGE = b"Message-ID: <one@senders.test>\r\nFrom: a@senders.test\r\n\r\nHello\r\n"


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def a_client(proxy: FaultyProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def everything(client: socket.socket) -> bytes:
    """What comes until the connection ends; a reset is an end too, and is named."""
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        received += b" RESET"
    return received


# The proxy


def test_in_calm_weather_bytes_and_the_end_pass_as_they_are(echo: int) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b"hello"
        assert (proxy.accepted, proxy.cuts) == (1, 0)


def test_latency_delays_and_can_be_changed_while_a_connection_is_open(echo: int) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        proxy.set(Weather(to_server=Wire(latency_s=0.3)))
        before = time.monotonic()
        client.sendall(b"slow")
        assert client.recv(10) == b"slow"
        assert time.monotonic() - before >= 0.3


def test_a_swallowed_direction_leaves_the_connection_half_open(echo: int) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        proxy.set(Weather(to_client=Wire(swallow=True)))
        client.sendall(b"into the void")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        proxy.set(CALM)
        client.settimeout(20)
        client.sendall(b"again")
        assert client.recv(10) == b"again"


@pytest.mark.parametrize(("reset", "end"), [(True, b"1234 RESET"), (False, b"1234")])
def test_a_connection_is_cut_after_so_many_bytes_of_one_direction(echo: int, reset: bool, end: bytes) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        proxy.set(Weather(to_client=Wire(cut_after_bytes=4), reset=reset))
        client.sendall(b"123456")
        assert everything(client) in (end, b" RESET")  # a reset may overtake the bytes before it
        assert proxy.cuts == 1


def test_a_connection_is_cut_after_a_pattern_that_is_split_over_packets(echo: int) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        proxy.set(Weather(to_client=Wire(cut_after=re.compile(rb"\r\n\.\r\n")), reset=False))
        client.sendall(b"body\r\n.")
        assert client.recv(7) == b"body\r\n."
        client.sendall(b"\r\nnever seen")
        assert everything(client) == b"\r\n"


def test_open_connections_are_reset_on_demand(echo: int) -> None:
    with FaultyProxy(echo) as proxy, a_client(proxy) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert proxy.reset_all() == 1
        assert everything(client) == b" RESET"


def test_a_share_of_connections_is_hit_and_the_seed_says_which(echo: int) -> None:
    def refused(seed: int) -> list[bool]:
        fates = []
        with FaultyProxy(echo, seed=seed) as proxy:
            proxy.set(Weather(share=0.5, refuse=True))
            for _ in range(20):
                try:
                    with a_client(proxy) as client:
                        client.sendall(b"x")
                        fates.append(client.recv(1) != b"x")
                except ConnectionError:
                    fates.append(True)
        return fates

    once = refused(7)
    assert 3 <= sum(once) <= 17
    assert refused(7) == once
    assert refused(8) != once


# The server that cuts


def test_the_sandbox_cuts_before_and_after_storing_and_says_so(tmp_path: Path) -> None:
    """E-B2: both look the same to the client; only the server's log tells them apart."""
    create_accounts(tmp_path, dict.fromkeys(["a@senders.test", "b@bots.test"], PASSWORD))
    with running_cutting_sandbox(tmp_path, timeout_s=20) as at:
        access = MailboxAccess(
            mailbox_id=1, address="a@senders.test", username="a@senders.test", password=SecretStr(PASSWORD),
            smtp_host=at.host, smtp_port=at.smtp_port, smtp_tls="starttls",
            imap_host=at.host, imap_port=at.imaps_port, imap_tls="implicit",
        )  # fmt: skip

        def send() -> Attempt:
            with SmtpConnection(access, "sandbox", {at.host: at.ca_file}) as connection:
                return connection.deliver(MESSAGE, "a@senders.test", "b@bots.test", before_data=lambda: 600.0)

        write_cuts(tmp_path, Cuts(before_storing=1))
        assert (send().outcome, len(read_deliveries(tmp_path))) == ("uncertain", 0)
        write_cuts(tmp_path, Cuts(before_storing=1, after_storing=1))
        assert (send().outcome, len(read_deliveries(tmp_path))) == ("uncertain", 1)
        assert (send().outcome, len(read_deliveries(tmp_path))) == ("sent", 2)
    ends = [transaction.end for transaction in read_transactions(tmp_path)]
    assert ends == ["cut_before_storing", "cut_after_storing", "answered"]


# The database and the clock


def test_postgresql_forgets_what_was_not_committed_when_it_crashes_and_keeps_the_rest(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.start(die_with_parent=True)
    try:
        engine = open_engine(server.url("postgres"))
        with engine.begin() as connection:
            connection.execute(text("create table kept (id integer)"))
            connection.execute(text("insert into kept values (1)"))
        open_connection = engine.connect()
        open_connection.execute(text("insert into kept values (2)"))
        stop_immediately(server)
        server.start(die_with_parent=True)
        open_connection.invalidate()
        with engine.begin() as connection:
            assert connection.execute(text("select array_agg(id) from kept")).scalar_one() == [1]
        engine.dispose()
    finally:
        server.stop()


def test_a_clock_is_wrong_by_what_its_file_says(tmp_path: Path) -> None:
    clock = OffsetClock(tmp_path / "clock")
    assert abs(clock.now() - SystemClock().now()) < timedelta(minutes=1)
    set_offset(tmp_path / "clock", 7200)
    assert abs(clock.now() - SystemClock().now() - timedelta(hours=2)) < timedelta(minutes=1)
