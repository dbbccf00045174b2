"""Where connections may go. In sandbox mode nothing but loopback (RFC 1122 3.2.1.3, RFC 4291 2.5.3).

Two independent layers: every mail connection is opened by :func:`dial`, which asks
:func:`require_mail_egress`; and :func:`install_loopback_guard` puts an audit hook (PEP 578) under all Python
sockets of the process. The hook sees Python's ``socket`` module only: a C library with sockets of its own
(libpq, for instance) and the system's resolver do not pass it, and a new program does not inherit it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import sys
import time
from collections.abc import Iterable
from typing import Any, Literal

from emberflow.errors import ConfigurationError, EgressRefusedError
from emberflow.loopback import is_loopback

Mode = Literal["sandbox", "live"]

_GUARDED_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_guard: list[frozenset[str]] = []


class HostNameError(OSError):
    """A text is not a possible host name: an empty label (two dots), or one of over 63 characters."""


class SourceAddressError(OSError):
    """The egress address is not one of this machine's, or cannot reach the host: its configuration is wrong."""


def require_mail_egress(mode: Mode, host: str) -> list[str]:
    """Resolve a mail host once and return the IP addresses to connect to, in the resolver's order.

    Whoever connects uses these addresses and never resolves again: a name that changes its mind between
    check and connect (DNS rebinding) gains nothing.

    Raises:
        EgressRefusedError: sandbox mode, and at least one address is not loopback.
        HostNameError: the host is not a possible host name.
        socket.gaierror: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except ValueError as error:  # of the IDNA codec
        raise HostNameError(f"{host!r} is not a host name: {error}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if mode == "live":
        return addresses
    outside = [address for address in addresses if not is_loopback(address)]
    if outside or mode != "sandbox":
        raise EgressRefusedError(
            f"mail mode is {mode!r}: a mail connection to {host} ({', '.join(outside)}) was not opened, only "
            "loopback is allowed. Real mail needs EMBERFLOW_MAIL_MODE=live and `emberflow mail live on --reason ...`."
        )
    return addresses


def require_name_server_egress(mode: Mode, address: str) -> None:
    """Judge the IP address of a name server before it is asked anything, by UDP or TCP.

    Raises:
        EgressRefusedError: sandbox mode, and the address is not loopback.
    """
    if mode != "live" and not is_loopback(address):
        raise EgressRefusedError(
            f"mail mode is {mode!r}: the name server {address} was not asked, only loopback is allowed. Name one on "
            "this machine in EMBERFLOW_DNS_SERVERS, or leave it empty: then nothing is looked up."
        )


def dial(mode: Mode, host: str, port: int, timeout: float, source_address: str | None = None) -> socket.socket:
    """Open a TCP connection to a mail server.

    ``timeout`` (seconds) is for all addresses of the host together, each of which gets a share, and then stays the
    socket's; the name server's own time-out comes on top.

    With ``source_address`` the connection comes from that IP address of this machine, and only addresses of the
    host in the same IP version are tried.

    Raises:
        EgressRefusedError: see :func:`require_mail_egress`.
        SourceAddressError: nothing can be sent from ``source_address``.
        OSError: no address of the host answered; the error is that of the last one.
    """
    addresses = require_mail_egress(mode, host)
    if source_address is not None:
        version = _version(source_address)
        addresses = [address for address in addresses if _version(address) == version]
        if not addresses:
            raise SourceAddressError(f"{host} has no address that egress address {source_address} could reach")
    fault = OSError(f"{host} has no address")
    give_up_at = time.monotonic() + timeout
    for tried, address in enumerate(addresses):
        share_s = max((give_up_at - time.monotonic()) / (len(addresses) - tried), 0.001)
        try:
            connection = _connect(address, port, share_s, source_address)
        except SourceAddressError:
            raise
        except OSError as error:
            fault = error
        else:
            connection.settimeout(timeout)
            return connection
    raise fault


def is_lasting_fault(error: OSError) -> bool:
    """Return whether a connection that failed so fails again until somebody changes something.

    That is an impossible host name, one that does not exist, a certificate that does not verify, a port that does not
    speak TLS, and an egress address that this machine does not have. A name server that does not answer passes
    (``EAI_AGAIN``), and so does a closed port.
    """
    if isinstance(error, socket.gaierror):
        return error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL"):
        return True
    return isinstance(error, ssl.SSLCertVerificationError | SourceAddressError | HostNameError)


def install_loopback_guard(allowed_hosts: Iterable[str] = ()) -> None:
    """Make every Python socket of this process refuse destinations that are not loopback, for good.

    ``allowed_hosts`` are control-plane hosts (never mail hosts); they are resolved once, now. An audit hook
    cannot be removed, and a second call neither adds a hook nor widens the first one's list.

    Raises:
        ConfigurationError: an allowed host does not resolve.
    """
    if _guard:
        return
    _guard.append(frozenset(address for host in allowed_hosts for address in _resolve(host)))
    sys.addaudithook(_refuse_egress)


def _refuse_egress(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _GUARDED_EVENTS:
        return
    connection, destination = arguments[0], arguments[1]
    # sendmsg() on a connected socket carries no destination; its connect() has been judged already.
    if destination is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    host = destination[0]
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
    if name == "localhost" or is_loopback(name) or name in _guard[0]:
        return
    raise EgressRefusedError(
        f"sandbox mode: {event} to {name} was stopped, only loopback is allowed. "
        "Hosts of the control plane can be named in EMBERFLOW_CONTROL_PLANE_HOSTS."
    )


def _version(address: str) -> int:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        raise SourceAddressError(f"{address!r} is not an IP address") from None


def _connect(address: str, port: int, timeout: float, source_address: str | None) -> socket.socket:
    connection = socket.socket(socket.AF_INET if _version(address) == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        if source_address is not None:
            _bind(connection, source_address)
        connection.connect((address, port))
        # The final dot is written on its own; without this it would wait for the acknowledgement of the body.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def _bind(connection: socket.socket, source_address: str) -> None:
    try:
        connection.bind((source_address, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        raise SourceAddressError(f"egress address {source_address} is not one of this machine's: {error}") from error


def _resolve(host: str) -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"control-plane host {host!r} does not resolve: {error}") from error
