"""Policies: every number that a rule uses, in one versioned document.

A policy is a YAML file (``policy/shipped/standard.yaml`` ships as the default) that becomes a row of
``ops.policies`` when it comes into force; a slot refers to the row under which it was planned. Each section is
owned by the module that applies it, so a number has one home and one explanation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, func, select, update

from emberflow import yaml_files
from emberflow.bots.limits import BotPolicy
from emberflow.bots.placement import PlacementPolicy
from emberflow.bots.replies import ReplyPolicy
from emberflow.bots.tiers import SelectionPolicy
from emberflow.database.tables import policies
from emberflow.delivery.breakers import BreakerPolicy
from emberflow.delivery.caps import CapPolicy
from emberflow.delivery.connections import ConnectionPolicy
from emberflow.delivery.corroboration import RefusalPolicy
from emberflow.delivery.reply_codes import SmtpReplyPolicy
from emberflow.email_ops.timeouts import Timeouts
from emberflow.errors import ConfigurationError
from emberflow.queue_manager.slot_store import QueuePolicy
from emberflow.senders.pacing import PacingPolicy
from emberflow.senders.quota import QuotaPolicy
from emberflow.senders.ramp import LinearRamp, RampPolicy

_SHIPPED = Path(__file__).resolve().parent / "shipped"


class DispatchPolicy(BaseModel):
    """How slots leave: shards, workers, leases, retries.

    ``shards`` are shares of the mailboxes, each sent from by one worker process. Such a process uses one core, so
    shards beyond the number of cores only cost their start; each needs a slot of Airflow's pool ``mail_sending``.
    Documents of before call them ``lanes``.
    ``dialogues`` are how many mails a process has under way at once, each of another mailbox. A dialogue waits for
    about four round trips, so a process sends at most dialogues / (4 x round trip) mails per second: 64 dialogues at
    50 ms make 320.

    ``window_s`` is how long one dispatch run keeps holding slots to their second; it covers the interval between two
    runs. ``lease_s`` is renewed while a worker lives, so it is short: that long a dead worker's slots wait. From DATA
    on, ``data_start_s``, ``data_block_s`` and ``end_of_data_s`` are how long the server may take to invite, to take in
    and to answer a message (RFC 5321 4.5.3.2: 2, 3 and 10 minutes), and together they are the lease.

    ``retry_s`` doubles with each attempt (RFC 5321 4.5.4.1: at least 30 minutes), with a seeded jitter of
    ``retry_jitter`` of itself on top.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(
        default=2,
        ge=1,
        le=64,
        validation_alias=AliasChoices("shards", "lanes"),
        description="shares of the mailboxes, each sent from by one worker process: one per core",
    )
    dialogues: int = Field(
        default=64, ge=1, le=500, description="mails that one process has under way at once, each of another mailbox"
    )
    window_s: int = Field(
        default=110,
        ge=0,
        le=3600,
        description="how long a run keeps holding slots to their second; covers the interval between two runs",
    )
    lease_s: int = Field(default=120, ge=2, le=3600, description="how long the slots of a dead worker wait")
    data_start_s: float = Field(
        default=120, ge=0.5, description="how long a server may take to invite a message (RFC 5321 4.5.3.2: 2 minutes)"
    )
    data_block_s: float = Field(default=180, ge=0.5, description="how long it may take to take in a block (3 minutes)")
    end_of_data_s: float = Field(
        default=600, ge=0.5, description="how long it may take to answer the final dot (10 minutes)"
    )
    retry_s: int = Field(
        default=1800,
        ge=1,
        description="wait after a failed attempt; doubles with each (RFC 5321 4.5.4.1: at least 30 minutes)",
    )
    retry_jitter: float = Field(default=0.2, ge=0, le=1, description="share of that wait which is added at random")
    maximum_attempts: int = Field(default=4, ge=1, le=10, description="after so many attempts a mail is given up")

    @property
    def timeouts(self) -> Timeouts:
        """The SMTP driver's time-outs."""
        return Timeouts(data_start=self.data_start_s, data_block=self.data_block_s, end_of_data=self.end_of_data_s)

    @property
    def submitting_lease_s(self) -> float:
        """Seconds for which a submitted slot belongs to its worker, whatever the server does."""
        return self.timeouts.longest_after_guard_s

    @property
    def write_within_s(self) -> float:
        """Seconds after the pre-send check within which the final dot must be written, or not at all."""
        return self.data_start_s + self.data_block_s


class InboxPolicy(BaseModel):
    """How mailboxes are read: the number of shards that one run fans out to, and how long it may take.

    After ``run_s`` no other mailbox is begun: those that are left come first in the next run, 5 minutes later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(default=4, ge=1, le=64, description="parts that one reading of all mailboxes fans out to")
    run_s: int = Field(
        default=270, ge=1, le=1500, description="how long one reading takes; what is left then is read by the next one"
    )


class ReconcilePolicy(BaseModel):
    """When an ``uncertain`` mail is looked for, for how long, and how long one run may take.

    ``settle_s`` runs from the last moment at which the worker may have written the final dot (``submitted_at`` plus
    ``dispatch.write_within_s``). Before it is over it is not worth looking: a server on the way may hold the mail in
    its queue and try again after 15 to 30 minutes, for instance because it was greylisted (RFC 6647). A mail that was
    not found is looked for again until ``look_back_s`` after it was submitted: after five days no server tries any more
    (RFC 5321 4.5.4.1). After ``run_s`` no other mailbox is searched: mails that are left come first in the next run, 10
    minutes later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settle_s: int = Field(
        default=1800,
        ge=0,
        description="wait before a mail in doubt is looked for: a server on the way may still hold it",
    )
    look_back_s: int = Field(
        default=432_000,
        ge=60,
        description="for so long it is looked for again: after five days no server tries any more",
    )
    run_s: int = Field(
        default=540,
        ge=1,
        le=1500,
        description="how long one search of mailboxes takes; what is left then is looked for by the next one",
    )


class ReputationPolicy(BaseModel):
    """Which scoring model is in force (a version in dbt's seeds) and how often the marts are rebuilt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="first-1", description="scoring model, a version in the seeds of dbt")
    refresh_s: int = Field(default=3600, ge=0, description="how often the marts are rebuilt")


class Policy(BaseModel):
    """The whole document. ``label`` is shown wherever numbers made under this policy are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="what this version is called")
    label: str = Field(description="shown wherever numbers made under this policy are shown")
    ramp: RampPolicy = LinearRamp()
    quota: QuotaPolicy = QuotaPolicy()
    pacing: PacingPolicy = PacingPolicy()
    bots: BotPolicy = BotPolicy()
    selection: SelectionPolicy = SelectionPolicy()
    placement: PlacementPolicy = PlacementPolicy()
    replies: ReplyPolicy = ReplyPolicy()
    queue: QueuePolicy = QueuePolicy()
    caps: CapPolicy = CapPolicy()
    dispatch: DispatchPolicy = DispatchPolicy()
    breakers: BreakerPolicy = BreakerPolicy()
    connections: ConnectionPolicy = ConnectionPolicy()
    smtp_replies: SmtpReplyPolicy = Field(default_factory=SmtpReplyPolicy)
    refusals: RefusalPolicy = RefusalPolicy()
    inbox: InboxPolicy = InboxPolicy()
    reconcile: ReconcilePolicy = ReconcilePolicy()
    reputation: ReputationPolicy = ReputationPolicy()


@dataclass(frozen=True)
class PolicyInForce:
    """A policy and the row that gave it force."""

    policy_id: int
    policy: Policy


def shipped(name: str) -> Policy:
    """Return the policy that ships under ``name`` (``standard`` or ``demo``)."""
    return load(_SHIPPED / f"{name}.yaml")


def load(file: Path) -> Policy:
    """Read and validate a policy file.

    Raises:
        ConfigurationError: the file is missing, is not YAML, or a value is unknown or out of range.
    """
    try:
        document = yaml_files.read(file)
    except yaml_files.UnreadableYamlError as error:
        if isinstance(error.__cause__, OSError):
            raise ConfigurationError(f"cannot read the policy {file}: {error.__cause__.strerror}") from error
        raise ConfigurationError(f"{file} is not YAML that can be taken: {error}") from error
    if document.repeated:
        listed = "\n".join(f"  line {line}: {key}: is there more than once" for line, key in document.repeated)
        raise ConfigurationError(f"{file} is not a valid policy:\n{listed}")
    try:
        return Policy.model_validate(document.content, context={"folder": file.parent})
    except ValidationError as error:
        problems = "\n".join(
            f"  line {document.line(problem['loc'])}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigurationError(f"{file} is not a valid policy:\n{problems}") from error


def put_in_force(connection: Connection, policy: Policy) -> int:
    """Make ``policy`` the one in force from now on and return its row's id; unchanged, it keeps its row."""
    document = policy.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    current = connection.execute(
        select(policies.c.id, policies.c.sha256).where(policies.c.valid_to.is_(None)).with_for_update()
    ).one_or_none()
    if current is not None and current.sha256 == digest:
        return int(current.id)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    connection.execute(update(policies).where(policies.c.valid_to.is_(None)).values(valid_to=moment))
    inserted = connection.execute(
        policies.insert()
        .values(name=policy.name, document=document, sha256=digest, valid_from=moment)
        .returning(policies.c.id)
    )
    return int(inserted.scalar_one())


def ensure_in_force(connection: Connection, policy: Policy) -> None:
    """Put ``policy`` in force in a database that has none yet; the operator's choice stays."""
    if connection.execute(select(policies.c.id).where(policies.c.valid_to.is_(None))).one_or_none() is None:
        put_in_force(connection, policy)


def in_force(connection: Connection) -> PolicyInForce:
    """Return the policy in force.

    Raises:
        ConfigurationError: no policy was ever put in force in this database.
    """
    row = connection.execute(
        select(policies.c.id, policies.c.document).where(policies.c.valid_to.is_(None))
    ).one_or_none()
    if row is None:
        raise ConfigurationError("no policy is in force: run `emberflow policy apply standard`")
    return PolicyInForce(row.id, Policy.model_validate(row.document))
