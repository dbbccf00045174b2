"""The sections of the policy that the queue manager goes by: queue, dispatch, reading, placement tests, reconciling."""

from __future__ import annotations

import re
from typing import Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from emberflow.email_ops.timeouts import Timeouts

# What separates levels on some server, and what LIST or a quoted string reads otherwise (RFC 9051 5.1, 6.3.9).
_NOT_IN_A_NAME = re.compile(r"[/.\\^%*\"]")


class QueuePolicy(BaseModel):
    """Who goes first, what is too late, and what becomes of a slot that kills its workers.

    ``warmup_share``
        The share of every claim that warm-up gets at least, if it has so much due (Q-B2): 0.2, our rule.
    ``aging_s``
        A cold mail that has waited so long moves up one class, and again after as long (Q-F9): a day, so that a
        first touch stands beside replies after two.
    ``overdue_s``
        After so long a warm-up mail is given up, because the next plan makes up for it, and other mail gets a new
        target time, because mail that waited together must not leave together (Q-B8).
    ``spread_s``
        The new target times of overdue mail lie within so many seconds, further apart than the mailbox's gaps.
    ``maximum_lapses``
        A slot whose lease ran out so often before DATA is parked: it may be what kills its workers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_share: float = Field(default=0.2, ge=0, le=1)
    aging_s: int = Field(default=86_400, ge=60)
    overdue_s: int = Field(default=3600, ge=60)
    spread_s: int = Field(default=1800, ge=1)
    maximum_lapses: int = Field(default=3, ge=1, le=20)


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

    A shard is a process, and reads ``readers`` mailboxes at once: it mostly waits for servers. Each needs a connection
    to the database for a moment, of which a process has twenty. After ``run_s`` no other mailbox is begun: those that
    are left come first in the next run, 5 minutes later. A mailbox that was not read whole for ``fresh_s`` sends
    nothing that goes on with a conversation (D-F6): an hour is a dozen readings.

    Handled warm-up mail is moved to ``folder`` and deleted there after ``retention_days`` (B-B9). Bots keep it in their
    inbox for ``bots_file_after_h``, because stars and answers count there. In a sender's mailbox, which a person uses,
    it is filed in the session in which it was handled, if ``senders_file_after_h`` is 0. A restored database is settled
    by what lies in mailboxes, which tells nothing of a backup that is older than the retention: a week is the least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(default=4, ge=1, le=64, description="parts that one reading of all mailboxes fans out to")
    fresh_s: int = Field(
        default=3600, ge=1, le=604_800, description="a mailbox not read for so long sends no replies and no follow-ups"
    )
    readers: int = Field(default=8, ge=1, le=16, description="mailboxes that one shard reads at once")
    run_s: int = Field(
        default=270, ge=1, le=1500, description="how long one reading takes; what is left then is read by the next one"
    )
    strangers_per_run: int = Field(
        default=200,
        ge=0,
        le=5000,
        description="messages without a warm-up token that one run reads per folder; the next run reads the rest",
    )
    quarantine_days: int = Field(
        default=30,
        ge=0,
        le=365,
        description="the bytes of messages that broke the parser's limits are kept for so long; 0 keeps none",
    )
    folder: str = Field(
        default="Emberflow",
        min_length=1,
        max_length=60,
        description="folder that handled warm-up mail is moved to; another name leaves the old folder as it is",
    )
    bots_file_after_h: float = Field(
        default=24, ge=0, le=720, description="hours that handled mail stays in a bot's inbox"
    )
    senders_file_after_h: float = Field(
        default=0, ge=0, le=720, description="hours that it stays in a sender's inbox; 0: it is filed at once"
    )
    retention_days: int = Field(
        default=30,
        ge=7,
        le=3650,
        description="handled warm-up mail is deleted after so many days; a backup may not be older than that",
    )

    @field_validator("folder")
    @classmethod
    def _is_a_folder_of_its_own(cls, folder: str) -> str:
        if _NOT_IN_A_NAME.search(folder) or not folder.isprintable() or folder != folder.strip():
            raise ValueError("a folder's name is printable, without / . \\ % * \" and without space around it")
        if folder.upper() == "INBOX":
            raise ValueError("handled mail is moved out of INBOX")
        return folder


class PlacementTestPolicy(BaseModel):
    """How a placement test goes (E-F5).

    ``within_s``
        After so long a test is over: half an hour, as the placement tests of deliverability tools state.
    ``arrival_s``
        So long before its end no probe leaves any more, and a reading of a mailbox must begin so long after its probe
        left, or it is not known what lies there: two readings of all mailboxes.
    ``gap_s``
        Between two probes of a sender: a minute, as somebody writes who tells a few people the same (our rule). The
        gaps of ``pacing`` would leave room for two or three in half an hour; those after other mail are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    within_s: int = Field(default=1800, ge=60, le=86_400, description="after so long a placement test is over")
    arrival_s: int = Field(
        default=600,
        ge=1,
        description="time of a probe to arrive: none leaves later before the end, and who looks earlier knows nothing",
    )
    gap_s: int = Field(default=60, ge=1, le=3600, description="pause between two probes of one test: our rule")

    @model_validator(mode="after")
    def _there_is_time_to_send(self) -> Self:
        if self.arrival_s + self.gap_s >= self.within_s:
            raise ValueError("arrival_s and gap_s together must be below within_s: no probe could leave")
        return self


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
