"""Whose word counts when a server says that a recipient does not exist.

A refusal is said by the submission server of the mailbox that sends, and a server can be wrong about everybody: a
domain that it takes for its own, an alias table that is gone, a relay that is not allowed to ask. A recipient is shared
by all, so one party's word never changes its state. Until others say the same, a refusal fails its own mail, keeps that
mailbox from trying that recipient again for a while, and lowers nothing.

* A recipient is *unknown* once ``servers`` parties (``server_parties``) have refused it, for as many mailboxes, within
  ``span_s``. A mail that another mailbox gets to it afterwards contradicts what was said before.
* A server is the *outlier* if no other party refuses the recipients that it refuses: ``outlier_recipients`` of them in
  a row, while it took no other mail, of whichever mailbox; or as many that other parties reached afterwards, before it
  did so itself. The mailboxes that met those refusals stop. If others come to say the same, they go on by themselves.
* A mailbox is the outlier at a server that serves others: as many in a row, while it got no other mail away itself,
  that others reached afterwards.

What a server said counts against a mailbox only as long as the mailbox uses that server.

Pure: ``sending.refused_recipients`` keeps the evidence, and finds outliers in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from emberflow.delivery import server_parties
from emberflow.delivery.server_parties import Party, network_of, organisation_of


class RefusalPolicy(BaseModel):
    """When it is believed that a recipient does not exist, and when a server is doubted instead.

    ``servers`` that say so for different mailboxes are the least corroboration there is. ``span_s`` is for how long a
    refusal counts, and keeps its mailbox from that recipient: a week, in which every pair of servers of a working pool
    meets. ``outlier_recipients`` in a row that nobody else refuses are no longer chance: where one recipient in twenty
    is gone, three in a row come once in eight thousand.

    ``logins`` refused in a row take a mailbox out of use (B-B10), with ``login_retry_s`` between them: three within
    half an hour stay below what gets an account locked (Microsoft Entra's smart lockout: ten).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: int = Field(
        default=2,
        ge=2,
        le=10,
        description="servers that must say so of different mailboxes before a recipient is believed to be gone",
    )
    span_s: int = Field(default=604_800, ge=60, le=2_592_000, description="for how long such a refusal counts")
    outlier_recipients: int = Field(
        default=3,
        ge=2,
        le=100,
        description="recipients in a row that one server alone refuses, until the server is doubted",
    )
    logins: int = Field(default=3, ge=1, le=10, description="logins refused in a row that take a mailbox out of use")
    login_retry_s: int = Field(
        default=600, ge=1, le=86_400, description="wait after a refused login before the next one of its mailbox"
    )


@dataclass(frozen=True)
class Said:
    """What a submission server said of a recipient: ``refusal`` is why it does not exist, None that mail was taken.

    ``recipient`` is an address in normal form; ``to_mailbox_id`` is None if it is not ours. ``peer`` is the address and
    port that said so; None: unknown.
    """

    smtp_host: str
    from_mailbox_id: int
    recipient: str
    to_mailbox_id: int | None
    refusal: str | None
    peer: tuple[str, int] | None = None

    @property
    def party(self) -> Party:
        """Whose word it is."""
        return Party(organisation_of(self.smtp_host), network_of(self.peer))


@dataclass(frozen=True)
class Outlier:
    """A mailbox whose server refuses ``recipients`` recipients that nobody else refuses."""

    mailbox_id: int
    smtp_host: str
    recipients: int


@dataclass(frozen=True)
class Findings:
    """What follows: ``unknown`` recipients with the servers that say so, ``outliers``, and mailboxes that are none."""

    unknown: dict[str, list[str]] = field(default_factory=dict)
    outliers: list[Outlier] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)
    policy: RefusalPolicy = field(default_factory=RefusalPolicy, compare=False)  # whose numbers decided


class Refused(NamedTuple):
    """A refusal that nothing has contradicted: of which recipient, by which server and party, to which mailbox."""

    recipient: str
    smtp_host: str
    from_mailbox_id: int
    party: Party


def unknown(refusals: Iterable[Refused], servers: int) -> dict[str, list[str]]:
    """Return the recipients that at least ``servers`` parties refuse, to as many mailboxes, with the servers' names."""
    of_recipient: dict[str, list[Refused]] = {}
    for refusal in refusals:
        of_recipient.setdefault(refusal.recipient, []).append(refusal)
    return {
        recipient: sorted({refusal.smtp_host for refusal in said})
        for recipient, said in of_recipient.items()
        if server_parties.count({refusal.party for refusal in said}) >= servers
        and len({refusal.from_mailbox_id for refusal in said}) >= servers
    }
