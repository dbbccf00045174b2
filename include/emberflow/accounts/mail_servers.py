"""Which mail servers a domain names, for imports that leave a provider open (E-F2).

In sandbox mode nobody is asked: who a provider is, the domain of an address says, or the file. An answer that does not
come in time is none; all questions of an import together have half a minute.
"""

from __future__ import annotations

import time

from emberflow.accounts.import_files import MxHosts
from emberflow.email_ops.dns_questions import Question
from emberflow.email_ops.name_servers import NameServers
from emberflow.errors import ConfigurationError
from emberflow.settings import Settings

_QUESTION_S = 5.0
_IMPORT_S = 30.0


def lookup(settings: Settings) -> MxHosts | None:
    """Return what asks this machine's name servers; None in sandbox mode, and where the machine names none."""
    if settings.mail_mode != "live":
        return None
    try:
        return asked_of(NameServers.of_this_machine(_QUESTION_S))
    except ConfigurationError:
        return None


def asked_of(servers: NameServers, seconds: float = _IMPORT_S) -> MxHosts:
    """Return what asks ``servers``, for so many seconds from now on."""
    until = time.monotonic() + seconds

    def mx_hosts(domain: str) -> list[str]:
        records = (record.partition(" ") for record in servers.ask(Question(domain, "MX"), until=until).records)
        return [host for _, host in sorted((int(preference), host) for preference, _, host in records)]

    return mx_hosts
