"""Which mail servers a domain names, for imports that leave a provider open (E-F2).

In sandbox mode only name servers that the operator names are asked (`domain_inquiries.servers_of`); without one, who a
provider is, the domain of an address says, or the file. An answer that does not come in time is none; all questions of
an import together have half a minute.
"""

from __future__ import annotations

import time

from emberflow.accounts.domain_inquiries import servers_of
from emberflow.accounts.import_files import MxHosts
from emberflow.email_ops.dns_questions import Question
from emberflow.email_ops.name_servers import NameServers
from emberflow.errors import ConfigurationError
from emberflow.settings import Settings

_QUESTION_S = 5.0
_IMPORT_S = 30.0


def lookup(settings: Settings) -> MxHosts | None:
    """Return what asks the name servers in use; None where there is none."""
    try:
        servers = servers_of(settings.mail_mode, settings, _QUESTION_S)
    except ConfigurationError:
        return None
    return None if servers is None else asked_of(servers)


def asked_of(servers: NameServers, seconds: float = _IMPORT_S) -> MxHosts:
    """Return what asks ``servers``, for so many seconds from now on."""
    until = time.monotonic() + seconds

    def mx_hosts(domain: str) -> list[str]:
        records = (record.partition(" ") for record in servers.ask(Question(domain, "MX"), until=until).records)
        return [host for _, host in sorted((int(preference), host) for preference, _, host in records)]

    return mx_hosts
