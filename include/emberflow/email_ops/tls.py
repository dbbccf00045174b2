"""TLS for mail: one way to make a client context, and it always verifies.

``smtplib`` and ``imaplib`` do not verify certificates when they are called without a context
(https://github.com/python/cpython/issues/91826), so every caller passes the one made here; a test over the
source tree holds that.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from emberflow.errors import ConfigurationError


def client_context(host: str, ca_files: Mapping[str, Path]) -> ssl.SSLContext:
    """Return the shared context for ``host``: chain and host name verified, TLS 1.2 or newer (RFC 8996).

    A host named in ``ca_files`` is trusted by that CA alone; every other host by the system's CAs. Contexts
    are shared, because making one costs more than a whole SMTP session; a rewritten CA file makes a new one.

    Raises:
        ConfigurationError: the CA file is missing or is not PEM.
    """
    ca_file = ca_files.get(host)
    try:
        return _context(ca_file, 0 if ca_file is None else ca_file.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigurationError(f"the CA file {ca_file} of mail host {host} cannot be used: {error}") from error


@lru_cache(maxsize=64)
def _context(ca_file: Path | None, _modified_ns: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
