"""E-B10: in sandbox mode nothing leaves the machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap

import pytest

from emberflow.email_ops import egress
from emberflow.email_ops.egress import HostNameError, dial, is_lasting_fault, require_mail_egress
from emberflow.errors import EgressRefusedError


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)


def test_sandbox_mode_allows_loopback_and_returns_what_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "::1", "127.0.0.1", "127.0.0.1")
    assert require_mail_egress("sandbox", "localhost") == ["::1", "127.0.0.1"]


@pytest.mark.parametrize("outside", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "255.255.255.255", "::ffff:192.0.2.1"])
def test_one_address_outside_loopback_is_enough_to_refuse_a_mail_host(
    monkeypatch: pytest.MonkeyPatch, outside: str
) -> None:
    resolving_to(monkeypatch, "127.0.0.1", outside)
    with pytest.raises(EgressRefusedError, match="EMBERFLOW_MAIL_MODE=live"):
        require_mail_egress("sandbox", "mail.north.test")


def test_live_mode_may_connect_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "192.0.2.1")
    assert require_mail_egress("live", "mail.north.test") == ["192.0.2.1"]


def test_an_unknown_mode_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "127.0.0.1")
    with pytest.raises(EgressRefusedError):
        require_mail_egress("Live", "localhost")  # type: ignore[arg-type]


@pytest.mark.parametrize("host", [f"{'x' * 70}.test", "mail..north.test", ".north.test"])
def test_a_text_that_cannot_be_a_host_name_is_a_connection_fault_that_lasts(host: str) -> None:
    """An OSError, so that whoever handles a host that is away handles this one too."""
    with pytest.raises(HostNameError, match="not a host name") as caught:
        require_mail_egress("sandbox", host)
    assert is_lasting_fault(caught.value)


def test_the_addresses_of_a_host_share_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with fifty addresses that are all silent takes no longer than one with a single one."""
    given: list[float] = []

    def silent(_address: str, _port: int, timeout: float, _source: str | None) -> socket.socket:
        given.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(egress, "require_mail_egress", lambda _mode, _host: [f"127.0.0.{n}" for n in range(1, 51)])
    monkeypatch.setattr(egress, "_connect", silent)
    with pytest.raises(TimeoutError):
        dial("sandbox", "localhost", 25, 10)
    assert len(given) == 50
    assert given[0] <= 10 / 50


def test_dialling_tries_every_address_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(egress, "require_mail_egress", lambda _mode, _host: ["127.9.9.9", "127.0.0.1"])
        port = server.getsockname()[1]
        with dial("sandbox", "localhost", port, 5) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)


def test_dialling_a_host_where_nobody_listens_raises_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        dial("sandbox", "127.0.0.1", port, 5)


GUARDED = """
    import asyncio, os, socket, tempfile
    from emberflow.email_ops.egress import install_loopback_guard
    from emberflow.errors import EgressRefusedError

    install_loopback_guard(["192.0.2.7"])
    install_loopback_guard(["192.0.2.1"])

    def refused(action):
        try:
            action()
        except EgressRefusedError:
            return True
        except OSError as error:
            print("reached the network:", error)
        return False

    def tcp(host, family=socket.AF_INET):
        with socket.socket(family) as connection:
            connection.settimeout(0.2)
            connection.connect((host, 9))

    def tcp_ex(host):
        with socket.socket() as connection:
            connection.settimeout(0.2)
            assert connection.connect_ex((host, 9)) != 0

    def udp(host):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.sendto(b"x", (host, 9))

    def udp_message(host):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.sendmsg([b"x"], [], 0, (host, 9))

    async def stream(host):
        await asyncio.open_connection(host, 9)
"""

REFUSED = """
    assert refused(lambda: tcp("192.0.2.1"))
    assert refused(lambda: tcp_ex("192.0.2.1"))
    assert refused(lambda: tcp("0.0.0.0"))
    assert refused(lambda: tcp("2001:db8::1", socket.AF_INET6))
    assert refused(lambda: tcp("::ffff:192.0.2.1", socket.AF_INET6))
    assert refused(lambda: udp("192.0.2.1"))
    assert refused(lambda: udp_message("192.0.2.1"))
    assert refused(lambda: asyncio.run(stream("192.0.2.1")))
    assert refused(lambda: socket.create_connection(("192.0.2.1", 25), 0.2))
    print("all refused")
"""

ALLOWED = """
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1]), 5).close()
    if socket.has_ipv6:
        assert not refused(lambda: tcp("::ffff:127.0.0.1", socket.AF_INET6))
    udp("127.0.0.1")
    left, right = socket.socketpair()
    left.sendmsg([b"x"])
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.join(directory, "s"))
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.path.join(directory, "s"))
    print("all allowed")
"""


def run_guarded(code: str) -> str:
    """Run in a process of its own, because the guard cannot be taken off again."""
    script = textwrap.dedent(GUARDED) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_real_connect_to_another_machine_raises_before_any_packet() -> None:
    """E-B10: TCP, UDP and asyncio towards addresses of RFC 5737 and 3849; a network error would fail it.

    The second install names the refused address, so it also proves that a second call widens nothing.
    """
    assert run_guarded(REFUSED).splitlines() == ["all refused"]


def test_loopback_and_unix_sockets_stay_reachable() -> None:
    assert "all allowed" in run_guarded(ALLOWED)


JUDGED = """
    from emberflow.email_ops import egress

    class Connection:
        family = socket.AF_INET

    def judged(host):
        return refused(lambda: egress._refuse_egress("socket.connect", (Connection, (host, 25))))
"""


def test_a_named_control_plane_host_stays_reachable_and_the_first_list_holds() -> None:
    code = """
        assert not judged("192.0.2.7")
        assert judged("192.0.2.1")
    """
    run_guarded(textwrap.dedent(JUDGED) + textwrap.dedent(code))


def test_a_control_plane_host_is_still_no_mail_host() -> None:
    """E-B10: the list of control-plane hosts never opens a way for mail."""
    code = """
        from emberflow.email_ops.egress import require_mail_egress
        assert refused(lambda: require_mail_egress("sandbox", "192.0.2.7"))
        print("refused")
    """
    assert run_guarded(code).splitlines() == ["refused"]


def test_the_guard_refuses_host_names_because_only_the_resolver_knows_what_they_are() -> None:
    code = """
        assert judged("mail.north.test")
        assert judged("127.1")
        assert not judged(b"127.0.0.1")
    """
    run_guarded(textwrap.dedent(JUDGED) + textwrap.dedent(code))
