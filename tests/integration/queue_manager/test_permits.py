"""Limits on open connections, counted at the server that they are opened to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from emberflow.delivery.connections import ConnectionPolicy
from emberflow.queue_manager.permits import Permits


class CountingServer:
    """A TCP server that knows how many connections were open at the same time at most."""

    def __init__(self) -> None:
        self.open = self.most = self.served = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.open += 1
                self.most = max(self.most, self.open)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(1)
            with self._lock:
                self.open -= 1
                self.served += 1

    def visit(self, seconds: float) -> None:
        """Connect, stay, and leave once the server has seen it."""
        with socket.create_connection(self.address) as connection:
            time.sleep(seconds)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.close()


@pytest.fixture
def sessions(database: Engine) -> Iterator[Engine]:
    """An engine whose every connection is a session of its own."""
    engine = create_engine(database.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def a_session(sessions: Engine, stack: ExitStack) -> Connection:
    return stack.enter_context(sessions.connect())


@pytest.mark.parametrize("limits", [{"host:mx.a.test": 7, "ip:192.0.2.1": 9}, {"host:mx.a.test": 9, "ip:192.0.2.1": 7}])
def test_fifty_workers_never_open_more_connections_than_the_limit(
    sessions: Engine, server: CountingServer, limits: dict[str, int]
) -> None:
    """E-F4: ten processes' sessions, five threads on each; the limit of the host binds, then that of the address."""

    def work(slots: Permits) -> None:
        for _ in range(3):
            while (lease := slots.take(limits)) is None:
                time.sleep(0.02)
            with lease:
                server.visit(0.005)

    with ExitStack() as stack, ThreadPoolExecutor(50) as pool:
        processes = [Permits(a_session(sessions, stack)) for _ in range(10)]
        for done in [pool.submit(work, process) for process in processes * 5]:
            done.result()

    assert server.served == 150
    assert 1 < server.most <= 7


def test_hosts_and_egress_addresses_are_limited_apart_and_a_connection_needs_both(sessions: Engine) -> None:
    """E-F4"""
    with ExitStack() as stack:
        slots = Permits(a_session(sessions, stack))
        others = Permits(a_session(sessions, stack))
        assert slots.take({"host:a.test": 2, "ip:192.0.2.1": 3})
        assert slots.take({"host:a.test": 2, "ip:192.0.2.1": 3})
        assert others.take({"host:a.test": 2, "ip:192.0.2.1": 3}) is None
        assert others.take({"host:b.test": 2, "ip:192.0.2.1": 3})
        assert others.take({"host:b.test": 2, "ip:192.0.2.1": 3}) is None
        # What was refused for its address holds no place at the host.
        assert slots.take({"host:b.test": 2})
        assert slots.take({"host:b.test": 2}) is None


def test_a_place_given_back_is_anybodys_and_only_once(sessions: Engine) -> None:
    with ExitStack() as stack:
        slots, others = (Permits(a_session(sessions, stack)) for _ in range(2))
        first = slots.take({"host:a.test": 1})
        assert first is not None
        first.release()
        second = others.take({"host:a.test": 1})
        assert second is not None
        first.release()
        assert slots.take({"host:a.test": 1}) is None


def test_a_process_that_dies_leaves_its_places_to_the_others(sessions: Engine, database: Engine) -> None:
    """Towards E-F4, case 8: nothing has to be swept."""
    dying, others = sessions.connect(), sessions.connect()
    pid: int = dying.execute(text("select pg_backend_pid()")).scalar_one()
    assert Permits(dying).take({"host:a.test": 1})
    assert Permits(others).take({"host:a.test": 1}) is None

    with database.connect() as connection:
        connection.execute(text("select pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    dying.invalidate()
    dying.close()

    assert Permits(others).take({"host:a.test": 1})
    others.close()


def test_the_policy_names_the_limits_of_one_connection() -> None:
    policy = ConnectionPolicy(per_host=10, per_egress_ip=20)
    assert policy.limits(host="smtp.a.test", provider="a.test", egress_address=None) == {"host:smtp.a.test": 10}
    assert policy.limits(host="smtp.gmail.com", provider="google", egress_address="192.0.2.1") == {
        "host:smtp.gmail.com": 5,
        "ip:192.0.2.1": 20,
    }
