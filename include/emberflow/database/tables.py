"""The tables of schema ``ops``, as SQLAlchemy Core metadata: the one statement of their columns.

``migrations/`` brings a database to this shape (a test holds the two together). Rules for every table:
instants are ``timestamptz`` in UTC; a column called ``local_day`` is a day of the zone of the mailbox that
the row is about; identifiers are bigint identities; statuses are text with a check constraint, so that an
analyst reads them without a join.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from emberflow.domain.events import EventType
from emberflow.domain.mail_kind import KINDS, TASK_TYPES
from emberflow.domain.slot import SlotStatus
from emberflow.domain.suppression import SUPPRESSION_KINDS, SuppressionCause
from emberflow.domain.tiers import TIERS

SCHEMA = "ops"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    },
)

# The closed vocabularies.
SENDER_STATES = ("unverified", "active", "paused", "stopped")
BOT_STATUSES = ("unverified", "active", "paused", "retired")
SLOT_STATUSES = tuple(SlotStatus)
_TASK_TYPES_WITH_A_BOT = tuple(dict.fromkeys(kind.task_type for kind in KINDS if kind.has_bot))
PLAN_KINDS = ("warmup", "campaign")
TLS_MODES = ("starttls", "implicit")
THREAD_STATUSES = ("awaiting_reply", "reply_scheduled", "closed")
EVENT_TYPES = tuple(EventType)
AUTH_METHODS = ("password", "xoauth2")
SUPPRESSION_CAUSES = tuple(SuppressionCause)
LAWFUL_BASES = ("consent", "implied_consent", "contract", "legitimate_interests")
IMPORT_MODES = ("add", "fill", "replace")
IMPORT_VERDICTS = ("added", "filled", "replaced", "duplicate", "suppressed", "invalid")
EGRESS_STATES = ("active", "held")
ENTITY_KINDS = ("sender", "bot", "egress")
CHECKED_KINDS = ("domain", "address")
CHECKS = ("spf", "dkim", "dmarc", "mx", "tls", "reverse_dns", "block_list")
CHECK_STATUSES = ("pass", "fail", "unknown")
INBOUND_KINDS = (
    "warm_up",
    "human_reply",
    "out_of_office",
    "auto_reply",
    "bounce",
    "complaint",
    "opt_out",
    "own_copy",
    "other",
)


def _id() -> Column[Any]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _instant(
    name: str, *, nullable: bool = False, default_now: bool = False, comment: str | None = None
) -> Column[Any]:
    default = text("clock_timestamp()") if default_now else None
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=default, comment=comment)


def _reference(name: str, target: Table, *, nullable: bool = False, unique: bool = False, comment: str) -> Column[Any]:
    return Column(name, BigInteger, ForeignKey(target.c.id), nullable=nullable, unique=unique, comment=comment)


def _names(name: str, *, nullable: bool = False, comment: str) -> Column[Any]:
    """An id whose row is known to exist, without a foreign key: for tables that grow by 100,000s of rows an hour.

    A foreign key is probed row by row, which takes longer than writing the row. Whoever writes has just read the row
    that is named, and rows that can be named are never deleted: a trigger refuses it.
    """
    return Column(name, BigInteger, nullable=nullable, comment=comment)


def _is_one_of(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} in ({listed})"


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    return CheckConstraint(_is_one_of(column, values), name=f"{column}_known")


egress_ips = Table(
    "egress_ips",
    metadata,
    _id(),
    Column("address", Text, nullable=False, unique=True, comment="source address of this machine, as text"),
    Column("state", Text, nullable=False, server_default="active", comment="active or held"),
    Column("state_reason", Text, comment="why it is held: a listing, an operator's decision"),
    Column("logins_per_hour", Integer, comment="SMTP and IMAP logins together; null: no cap (B-F5)"),
    Column("sends_per_hour", Integer, comment="null: no cap"),
    _instant("created_at", default_now=True),
    _one_of("state", EGRESS_STATES),
    CheckConstraint("(state = 'active') = (state_reason is null)", name="reason_unless_active"),
    comment="A source address of this machine.",
)

zones = Table(
    "zones",
    metadata,
    Column("name", Text, primary_key=True, comment="IANA name"),
    Column("changes", ARRAY(DateTime(timezone=True)), nullable=False, comment="when an offset begins, ascending"),
    Column("offsets_s", ARRAY(Integer), nullable=False, comment="seconds ahead of UTC from each change on"),
    Column("edition", Text, nullable=False, comment="release of the Python package tzdata that they are from"),
    comment="One IANA time zone, as the program knows it.",
)

mailboxes = Table(
    "mailboxes",
    metadata,
    _id(),
    Column(
        "address",
        Text,
        nullable=False,
        comment="trimmed, lower case, IDNA domain; unique among mailboxes that are not removed",
    ),
    Column("display_name", Text, nullable=False, comment="name in From"),
    Column("provider", Text, nullable=False, comment="who runs the mailbox; the grain of placement figures"),
    Column(
        "owner", Text, comment="who holds the mailbox: a sender and a bot of one owner never meet; null: matches nobody"
    ),
    Column("zone", Text, nullable=False, comment="IANA time zone; every local_day of this mailbox is its day"),
    Column("smtp_host", Text, nullable=False, comment="submission server"),
    Column("smtp_port", Integer, nullable=False, comment="its port"),
    Column("smtp_tls", Text, nullable=False, comment="starttls or implicit"),
    Column("imap_host", Text, nullable=False, comment="server that it is read at"),
    Column("imap_port", Integer, nullable=False, comment="its port"),
    Column("imap_tls", Text, nullable=False, comment="starttls or implicit"),
    Column("username", Text, nullable=False, comment="login at both servers"),
    Column(
        "auth_method",
        Text,
        nullable=False,
        server_default="password",
        comment="password, or xoauth2: the secret is a refresh token",
    ),
    _reference(
        "egress_ip_id",
        egress_ips,
        nullable=True,
        comment="source address that it sends from; null: any of the machine's",
    ),
    Column(
        "check_passed",
        Boolean,
        comment="last connection check; null: never checked. A transient failure leaves it as it is",
    ),
    Column("check_stage", Text, comment="the stage at which the last check failed"),
    Column("check_text", Text, comment="what the server said then"),
    _instant("checked_at", nullable=True, comment="when it was checked the last time"),
    Column(
        "next_send_at",
        DateTime(timezone=True),
        comment="the pause after its last mail ends here, or that of a change of zone or of what the address was",
    ),
    _instant("created_at", default_now=True),
    Column(
        "removed_at",
        DateTime(timezone=True),
        comment="null: in use. Since then kept for the log alone, without a secret, until its address is imported",
    ),
    Index("uq_mailboxes_address", "address", unique=True, postgresql_where=text("removed_at is null")),
    _one_of("smtp_tls", TLS_MODES),
    _one_of("imap_tls", TLS_MODES),
    _one_of("auth_method", AUTH_METHODS),
    comment="One account, of a sender or a bot.",
)

mailbox_secrets = Table(
    "mailbox_secrets",
    metadata,
    Column("mailbox_id", BigInteger, ForeignKey(mailboxes.c.id, ondelete="cascade"), primary_key=True, comment="whose"),
    Column("key_id", Text, nullable=False, comment="key of EMBERFLOW_SECRET_KEYS that it is encrypted with"),
    Column("nonce", LargeBinary, nullable=False, comment="of AES-GCM, used once"),
    Column("ciphertext", LargeBinary, nullable=False, comment="AES-256-GCM; associated data: the mailbox id"),
    _instant("updated_at", default_now=True, comment="when it was stored"),
    comment="The password or refresh token of one mailbox, encrypted.",
)

senders = Table(
    "senders",
    metadata,
    _id(),
    _reference("mailbox_id", mailboxes, unique=True, comment="its mailbox"),
    Column(
        "state",
        Text,
        nullable=False,
        server_default="unverified",
        comment="unverified, active, paused or stopped (its ramp starts over)",
    ),
    Column("state_reason", Text, comment="why it is not active, one open reason at a time; null exactly when active"),
    Column("state_remedy", Text, comment="what the operator can do about it"),
    _instant(
        "state_changed_at",
        default_now=True,
        comment="when the state was set, by a command, a check or a server's answer",
    ),
    Column(
        "ramp_since",
        DateTime(timezone=True),
        comment="days before this do not count for the ramp; set by stop, and when a removed sender comes back",
    ),
    _instant("created_at", default_now=True),
    Column("profile", Text, comment="the profile of the policy whose numbers it goes by; null: the document's own"),
    _one_of("state", SENDER_STATES),
    CheckConstraint("(state = 'active') = (state_reason is null)", name="reason_unless_active"),
    comment="One mailbox that is warmed up.",
)

sender_days = Table(
    "sender_days",
    metadata,
    Column("sender_id", BigInteger, primary_key=True, autoincrement=False, comment="senders.id"),
    Column("local_day", Date, primary_key=True, comment="day of the sender's own zone"),
    Column("ramp_day", Integer, nullable=False, comment="n-th day with at least one warm-up mail, from 1"),
    Column(
        "ramp_row", Integer, nullable=False, server_default="1", comment="row of the ramp that the day is on, from 1"
    ),
    Column("ramp_volume", Integer, nullable=False, comment="what the ramp allows; never below what was sent"),
    Column(
        "score",
        Double,
        comment="reputation score read by the last plan of the day; null: too little evidence",
    ),
    Column("health_multiplier", Double, nullable=False, comment="part of the quota: what the score allows"),
    Column("daily_factor", Double, nullable=False, comment="part of the quota: the day's draw"),
    Column("warmup_quota", Integer, nullable=False, comment="cap for warm-up"),
    Column("cold_quota", Integer, nullable=False, server_default="0", comment="0 until the sender has graduated"),
    Column("total_quota", Integer, nullable=False, comment="cap over warm-up, cold mail and replies together"),
    Column(
        "warmup_sent",
        Integer,
        nullable=False,
        server_default="0",
        comment="counted immediately before DATA; taken back when the mail provably did not leave",
    ),
    Column("reply_sent", Integer, nullable=False, server_default="0", comment="the same for replies of the sender"),
    Column("cold_sent", Integer, nullable=False, server_default="0", comment="the same for cold mail"),
    CheckConstraint("warmup_sent <= ramp_volume", name="within_ramp"),
    CheckConstraint("warmup_sent + reply_sent + cold_sent <= total_quota", name="within_total_quota"),
    postgresql_with={"fillfactor": "50"},
    comment="Quota of one sender on one of its local days, and what is used of it. A new day is a new row.",
)

bots = Table(
    "bots",
    metadata,
    _id(),
    _reference("mailbox_id", mailboxes, unique=True, comment="its mailbox"),
    Column(
        "status",
        Text,
        nullable=False,
        server_default="unverified",
        comment="unverified, active, paused (still read, not planned) or retired (neither)",
    ),
    Column("status_reason", Text, comment="why it is not active; one open reason at a time"),
    Column("status_remedy", Text, comment="what the operator can do about it"),
    _instant(
        "status_changed_at",
        default_now=True,
        comment="when the status was set, by a command, a check or a server's answer",
    ),
    _instant("born_at", default_now=True, comment="its age counts from here"),
    Column("interaction_limits", Integer, comment="the operator's own daily inbound cap, below the policy's"),
    _instant("cooldown_until", nullable=True, comment="no new mail is planned to it, and none leaves for it, before"),
    Column("source", Text, nullable=False, comment="imported or provisioned; there is no third way"),
    Column("attested_by", Text, nullable=False, comment="who declared that the operator owns this mailbox"),
    Column("attestation", Text, nullable=False, comment="how ownership is known"),
    _instant("attested_at", default_now=True, comment="when that was declared"),
    _instant("created_at", default_now=True),
    Column("profile", Text, comment="the profile of the policy whose numbers it goes by; null: the document's own"),
    _one_of("status", BOT_STATUSES),
    _one_of("source", ("imported", "provisioned")),
    comment="One owned mailbox that receives and answers.",
)

bot_days = Table(
    "bot_days",
    metadata,
    Column("bot_id", BigInteger, ForeignKey(bots.c.id), primary_key=True, comment="the bot"),
    Column("local_day", Date, primary_key=True, comment="day of the bot's own zone"),
    Column(
        "inbound_sent",
        Integer,
        nullable=False,
        server_default="0",
        comment="mails to it, counted immediately before DATA",
    ),
    Column("reply_sent", Integer, nullable=False, server_default="0", comment="its replies, counted alike"),
    postgresql_with={"fillfactor": "50"},
    comment="What one bot received and answered on one of its local days. A new day is a new row.",
)

# A sender's partners are scattered over the table, a few in each of its pages, but lie side by side in the key. So the
# key includes the columns that planning asks for, and the table is vacuumed early: an index-only scan still visits each
# page that is not marked as visible to everybody.
bot_sender_interactions = Table(
    "bot_sender_interactions",
    metadata,
    Column("sender_id", BigInteger, ForeignKey(senders.c.id), comment="the sender"),
    Column("bot_id", BigInteger, ForeignKey(bots.c.id), comment="the bot"),
    Column(
        "interaction_type",
        Text,
        nullable=False,
        comment="the latest: warmup_sent, bot_replied, sender_replied or rescued",
    ),
    Column(
        "tier",
        Text,
        nullable=False,
        comment="the tier that chose the bot the last time: virgin, probabilistic or active",
    ),
    Column("sent_count", Integer, nullable=False, server_default="0", comment="first mails of conversations"),
    Column("reply_count", Integer, nullable=False, server_default="0", comment="replies of the bot"),
    Column("rescued_count", Integer, nullable=False, server_default="0", comment="mails moved out of Junk"),
    _instant("first_contact", comment="the first mail between them, either way"),
    _instant("last_contact", comment="the latest mail between them, either way"),
    Column("sent_at_1", DateTime(timezone=True), comment="the pair's latest first mail; a reply is none"),
    Column("sent_at_2", DateTime(timezone=True), comment="the first mail before that"),
    Column("sent_at_3", DateTime(timezone=True), comment="and the one before: no pair has more than three in a week"),
    PrimaryKeyConstraint(
        "sender_id", "bot_id", postgresql_include=["last_contact", "sent_at_1", "sent_at_2", "sent_at_3"]
    ),
    _one_of("tier", TIERS),
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_insert_scale_factor": "0.02"},
    comment="A sender and a bot that ever had contact.",
)

script_sets = Table(
    "script_sets",
    metadata,
    _id(),
    Column("content", JSONB, nullable=False, comment="the conversation scripts of warm-up mail, by id"),
    Column("sha256", Text, nullable=False, unique=True, comment="of the content: equal scripts are one row"),
    _instant("created_at", default_now=True),
    comment="The conversation scripts of one time. Rows are only ever added.",
)

policies = Table(
    "policies",
    metadata,
    _id(),
    Column("name", Text, nullable=False, comment="what the operator calls it"),
    Column("document", JSONB, nullable=False, comment="every number, as JSON"),
    Column("sha256", Text, nullable=False, comment="hash of the document"),
    Column("seed", BigInteger, nullable=False, comment="of every random stream; all versions have the same"),
    Column(
        "script_set_id",
        BigInteger,
        ForeignKey(script_sets.c.id),
        comment="what plans choose scripts from; null: from before sets were stored, until the next migrate",
    ),
    _instant("valid_from", default_now=True, comment="in force from then on"),
    _instant("valid_to", nullable=True, comment="null: in force; at most one is"),
    Index(
        "uq_policies_in_force",
        text("(valid_to is null)"),
        unique=True,
        postgresql_where=text("valid_to is null"),
    ),
    comment="One version of the configuration (SCD 2).",
)

state_changes = Table(
    "state_changes",
    metadata,
    _id(),
    Column("entity_kind", Text, nullable=False, comment="sender, bot or egress"),
    Column("entity_id", BigInteger, nullable=False, comment="senders.id, bots.id or egress_ips.id"),
    Column("from_state", Text, comment="null: it is new"),
    Column("to_state", Text, nullable=False, comment="the same as from_state where only the reason is another"),
    Column("reason", Text, comment="why it is not active; null: it is"),
    Column("metric", Text, comment="the figure that decided; null: none did"),
    Column("n", Double, comment="its value"),
    Column("threshold", Double, comment="the value from which it decides"),
    Column(
        "actor",
        Text,
        nullable=False,
        comment="who: a person, or what did it by itself (dispatch; migration: what was there before)",
    ),
    _instant("at", default_now=True, comment="when"),
    _one_of("entity_kind", ENTITY_KINDS),
    Index("ix_state_changes_entity", "entity_kind", "entity_id"),
    comment="One change of a sender's, bot's or egress address's state, in the transaction of the change.",
)

domain_checks = Table(
    "domain_checks",
    metadata,
    _id(),
    Column("subject_kind", Text, nullable=False, comment="domain (of senders) or address (of egress)"),
    Column("subject", Text, nullable=False, comment="the domain in ASCII, or the IP address"),
    Column("check_name", Text, nullable=False, comment="spf, dkim, dmarc, mx, tls, reverse_dns or block_list"),
    Column(
        "status",
        Text,
        nullable=False,
        comment="last outcome: pass, fail or unknown (nobody answered, or what was answered proves nothing)",
    ),
    Column("summary", Text, nullable=False, comment="the outcome in one sentence"),
    Column("details", JSONB, nullable=False, comment="what it rests on: records, counts, notes; never a secret"),
    Column(
        "failing_since",
        DateTime(timezone=True),
        comment="the first failure since the last pass; kept while the outcome is unknown; null: it does not fail",
    ),
    Column("checked_at", DateTime(timezone=True), nullable=False, comment="when the questions were begun"),
    UniqueConstraint("subject_kind", "subject", "check_name", name="uq_domain_checks_subject"),
    _one_of("subject_kind", CHECKED_KINDS),
    _one_of("check_name", CHECKS),
    _one_of("status", CHECK_STATUSES),
    CheckConstraint("status <> 'fail' or failing_since is not null", name="a_failure_has_a_beginning"),
    CheckConstraint("status <> 'pass' or failing_since is null", name="a_pass_ends_it"),
    comment="The last outcome of one check of a sending domain or an egress address that is in use.",
)

domain_check_changes = Table(
    "domain_check_changes",
    metadata,
    _id(),
    Column("subject_kind", Text, nullable=False, comment="domain or address"),
    Column("subject", Text, nullable=False, comment="the domain in ASCII, or the IP address"),
    Column("check_name", Text, nullable=False, comment="as in domain_checks"),
    Column("from_status", Text, comment="null: it was not checked before"),
    Column("to_status", Text, nullable=False, comment="pass, fail or unknown"),
    Column("summary", Text, nullable=False, comment="the outcome in one sentence"),
    Column("at", DateTime(timezone=True), nullable=False, comment="when the questions were begun"),
    Index("ix_domain_check_changes_subject", "subject_kind", "subject"),
    comment="One change of a check's outcome, in the transaction of the change.",
)

audit_log = Table(
    "audit_log",
    metadata,
    _id(),
    Column("at", DateTime(timezone=True), nullable=False, comment="when"),
    Column("actor", Text, nullable=False, comment="who: --by, EMBERFLOW_ACTOR, or the user's name"),
    Column("role", Text, nullable=False, comment="as what"),
    Column("action", Text, nullable=False, comment="what was done, like senders.pause"),
    Column("subject", Text, nullable=False, comment="to what: an address, an hour, slots, a file"),
    Column("reason", Text, nullable=False, comment="why"),
    Column("details", JSONB, nullable=False, comment="what was given, and what it came to; never a secret"),
    Column("previous_hash", Text, nullable=False, unique=True, comment="of the row before it: the chain has no fork"),
    Column("hash", Text, nullable=False, comment="SHA-256 over the row and the hash before it"),
    comment="What a person did, one row a transaction; each carries the hash of the row before it.",
)

plan_runs = Table(
    "plan_runs",
    metadata,
    _id(),
    Column("kind", Text, nullable=False, comment="what was planned: warmup, or campaign"),
    Column("scope", Text, nullable=False, comment="the campaign that was planned; empty for warm-up"),
    Column("hour", DateTime(timezone=True), nullable=False, comment="start of the UTC hour planned"),
    Column("planned_from", DateTime(timezone=True), comment="the earliest instant that could be planned"),
    Column("outcome", Text, nullable=False, comment="planned, or past: the hour was over and nothing was planned"),
    Column("seed", BigInteger, nullable=False, comment="with which it was planned"),
    _reference("policy_id", policies, comment="policy with which it was planned"),
    Column("input_sha256", Text, nullable=False, comment="hash of everything read"),
    Column("plan_sha256", Text, nullable=False, comment="hash of the slots"),
    Column("senders", Integer, nullable=False, comment="senders considered"),
    Column("bots", Integer, nullable=False, comment="bots with at least one seat"),
    Column("wanted", Integer, nullable=False, comment="slots that the quotas asked for"),
    Column("slots", Integer, nullable=False, comment="slots written"),
    _instant("planned_at", default_now=True, comment="when it was planned"),
    _one_of("kind", PLAN_KINDS),
    _one_of("outcome", ("planned", "past")),
    CheckConstraint("(kind = 'warmup') = (scope = '')", name="scope_names_a_campaign"),
    UniqueConstraint("kind", "scope", "hour"),
    comment="One planned UTC hour of one kind of mail.",
)

conversations = Table(
    "conversations",
    metadata,
    _id(),
    _reference("sender_id", senders, comment="the sender"),
    _reference("bot_id", bots, nullable=True, comment="the bot; null: it is with an address"),
    Column("to_address", Text, comment="the address that cold mail goes to, normalised; null: it is with a bot"),
    Column("thread_status", Text, nullable=False, comment="awaiting_reply, reply_scheduled or closed"),
    Column("turn", SmallInteger, nullable=False, comment="turn of the last mail sent, from 1"),
    _instant("next_action_time", nullable=True, comment="when the next reply is due; null: none is scheduled"),
    Column("script_id", Text, comment="the conversation script; null: cold mail, which follows none"),
    Column("subject", Text, nullable=False, comment="of its first mail"),
    Column("root_message_id", Text, nullable=False, unique=True, comment="Message-ID of its first mail"),
    Column("last_message_id", Text, nullable=False, comment="Message-ID of its last mail"),
    _instant("started_at", comment="when its first mail was sent"),
    _instant("updated_at", default_now=True, comment="when the row changed"),
    _one_of("thread_status", THREAD_STATUSES),
    CheckConstraint("num_nonnulls(bot_id, to_address) = 1", name="one_counterpart"),
    CheckConstraint("bot_id is null or script_id is not null", name="a_bot_follows_a_script"),
    Index("ix_conversations_pair", "sender_id", "bot_id"),
    comment="One thread between a sender and a bot, or an address that cold mail goes to.",
)

scheduled_tasks = Table(
    "scheduled_tasks",
    metadata,
    _id(),
    Column(
        "priority_level",
        SmallInteger,
        nullable=False,
        comment="smaller goes first: 10 reply, 15 placement probe, 20 cold follow-up, 30 cold first touch, 40 warm-up",
    ),
    Column(
        "task_type", Text, nullable=False, comment="warmup, reply, cold_first_touch, cold_follow_up or placement_probe"
    ),
    Column(
        "target_time",
        DateTime(timezone=True),
        nullable=False,
        comment="when it shall leave, as planned; slot_states.target_time is when it is due now",
    ),
    Column(
        "payload",
        JSONB,
        nullable=False,
        comment=(
            "what the message is built from: script, script_set; tier, asked_tier; thread, in_reply_to, references; "
            "of a placement probe: test, subject, body, worth_until"
        ),
    ),
    Column("idempotency_key", Text, nullable=False, unique=True, comment="what makes a second planning the same slot"),
    _names("from_mailbox_id", comment="mailboxes.id that sends"),
    _names("to_mailbox_id", nullable=True, comment="mailboxes.id that receives; null: cold mail"),
    Column("to_address", Text, comment="the recipient of cold mail, normalised; warm-up goes to to_mailbox_id"),
    _names("sender_id", comment="senders.id of the pair, whichever way the mail goes"),
    _names("bot_id", nullable=True, comment="bots.id of the pair; null: cold mail"),
    Column(
        "conversation_id",
        BigInteger,
        comment="null for a first mail, which opens its conversation when it is sent; the view slots knows both",
    ),
    Column("parent_slot_id", BigInteger, comment="the slot whose mail this one answers"),
    Column("turn", SmallInteger, nullable=False, comment="place in the thread, from 1; 0: in none"),
    Column("local_day", Date, nullable=False, comment="day of the sending mailbox's zone at target_time"),
    Column("gap_s", Integer, nullable=False, comment="seconds that this mailbox pauses after this mail"),
    Column("message_id", Text, nullable=False, unique=True, comment="fixed before the first attempt"),
    _names("policy_id", comment="policies.id that it was planned under"),
    _names("plan_run_id", nullable=True, comment="plan_runs.id; null for replies and probes"),
    _instant("created_at", default_now=True),
    _one_of("task_type", TASK_TYPES),
    CheckConstraint(
        f"case when {_is_one_of('task_type', _TASK_TYPES_WITH_A_BOT)} then bot_id is not null "
        "and to_mailbox_id is not null and to_address is null "
        "else bot_id is null and to_mailbox_id is null and to_address is not null end",
        name="warmup_has_a_bot_and_cold_mail_an_address",
    ),
    # A plan's rows lie together, so a block range index finds few pages, and these hold little else.
    Index("ix_scheduled_tasks_plan_run", "plan_run_id", postgresql_using="brin"),
    Index(
        "ix_scheduled_tasks_answers",
        "from_mailbox_id",
        "local_day",
        postgresql_where=text("parent_slot_id is not null"),
    ),
    Index(
        "ix_scheduled_tasks_conversation",
        "conversation_id",
        postgresql_where=text("conversation_id is not null"),
    ),
    Index(
        "uq_scheduled_tasks_answer_once",
        "parent_slot_id",
        unique=True,
        postgresql_where=text("parent_slot_id is not null"),
    ),
    Index("ix_scheduled_tasks_probes", "sender_id", postgresql_where=text("task_type = 'placement_probe'")),
    # Warm-up has no address, so this holds cold mail only.
    Index("ix_scheduled_tasks_to_address", "to_address", postgresql_where=text("to_address is not null")),
    comment=(
        "One slot: one mail, as it was planned. A row never changes and is never deleted; only the address of somebody "
        "who was erased becomes a pseudonym."
    ),
)

# Narrow on purpose: a slot's state is written three to five times, and each time every index on it (PostgreSQL has no
# in-place update of a row whose index condition changes). Of its indexes only the key holds rows that have ended.
slot_states = Table(
    "slot_states",
    metadata,
    Column("slot_id", BigInteger, primary_key=True, autoincrement=False, comment="scheduled_tasks.id"),
    Column("from_mailbox_id", BigInteger, nullable=False, comment="the slot's; it decides the shard"),
    Column(
        "target_time",
        DateTime(timezone=True),
        nullable=False,
        comment="when it is due now; moves when it is tried again",
    ),
    Column(
        "due_since", DateTime(timezone=True), nullable=False, comment="its first target_time; waiting counts from it"
    ),
    Column("lease_token", Uuid, comment="proof of the claim"),
    _instant("lease_until", nullable=True, comment="until when the claim holds, by the database's clock"),
    _instant("submitted_at", nullable=True, comment="when DATA was allowed"),
    _instant("sent_at", nullable=True, comment="when the server took it; null unless sent"),
    Column("local_day", Date, nullable=False, comment="day of the sending mailbox's zone at target_time"),
    Column("priority_level", SmallInteger, nullable=False, comment="the slot's"),
    Column("attempts", SmallInteger, nullable=False, server_default="0", comment="SMTP attempts counted"),
    Column(
        "lapses",
        SmallInteger,
        nullable=False,
        server_default="0",
        comment="leases that ran out before DATA: workers that this slot may have killed",
    ),
    Column(
        "status",
        Text,
        nullable=False,
        server_default="planned",
        comment="planned, leased, submitting, sent, failed, uncertain, cancelled, expired or parked",
    ),
    Column("reason", Text, comment="why it is where it is: the binding cap, the reply code, the fault"),
    Column("binding_cap", Text, comment="the cap that held it the last time, as scope:key used/cap"),
    Column(
        "unresolved_at",
        DateTime(timezone=True),
        comment="when an uncertain mail was found nowhere; it stays counted and is not sent again by itself",
    ),
    Column(
        "look_again_at",
        DateTime(timezone=True),
        comment="when an uncertain mail is looked for again; null: as soon as it is settled, or no more",
    ),
    _one_of("status", SLOT_STATUSES),
    CheckConstraint("(status = 'sent') = (sent_at is not null)", name="sent_at_iff_sent"),
    CheckConstraint(
        "status = 'uncertain' or (unresolved_at is null and look_again_at is null)", name="in_doubt_only_if_uncertain"
    ),
    Index(
        "ix_slot_states_planned",
        "priority_level",
        "target_time",
        "slot_id",
        postgresql_where=text("status = 'planned'"),
    ),
    Index("ix_slot_states_held", "slot_id", postgresql_where=text("status in ('leased', 'submitting')")),
    Index("ix_slot_states_uncertain", "submitted_at", postgresql_where=text("status = 'uncertain'")),
    # A claim walks past what was planned before until a vacuum: a number of slots, not a share of all that ever were.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "50000"},
    comment="Where a slot is now: one narrow row for each, written with it.",
)

placement_tests = Table(
    "placement_tests",
    metadata,
    _id(),
    _reference("sender_id", senders, comment="the sender whose mail is tested"),
    Column("per_provider", SmallInteger, nullable=False, comment="probes for each provider, at most"),
    Column("subject", Text, nullable=False, comment="of the probes"),
    Column("is_own_text", Boolean, nullable=False, comment="whether the operator gave the text; false: built-in"),
    Column("left_out", JSONB, nullable=False, comment="mailboxes that got no probe: provider, then why, then how many"),
    Column("started_by", Text, nullable=False, comment="who asked for it"),
    Column("reason", Text, nullable=False, comment="why"),
    _instant("started_at", comment="when it began"),
    _instant("ends_at", comment="what was not found until then is missing"),
    Index("ix_placement_tests_sender", "sender_id"),
    comment="One placement test. Its probes are slots whose payload names it as test.",
)

keys_in_force = Table(
    "keys_in_force",
    metadata,
    Column("purpose", Text, primary_key=True, comment="secrets or tokens"),
    Column("key_id", Text, nullable=False, comment="as EMBERFLOW_SECRET_KEYS names it; tokens: empty"),
    Column("fingerprint", Text, nullable=False, comment="HMAC-SHA256 under the key itself; says nothing of the key"),
    _instant("changed_at", default_now=True, comment="when it was changed"),
    _one_of("purpose", ("secrets", "tokens")),
    comment="The key that encrypts or signs, one row for each purpose.",
)

plan_inputs = Table(
    "plan_inputs",
    metadata,
    Column(
        "plan_run_id",
        BigInteger,
        ForeignKey(plan_runs.c.id, ondelete="cascade"),
        primary_key=True,
        comment="the plan; its inputs are removed with it",
    ),
    Column(
        "body",
        LargeBinary,
        nullable=False,
        comment="senders, bots and every answer about pairs, packed; from it the plan is computed again",
    ),
    comment="What one plan was computed from.",
)

mail_events = Table(
    "mail_events",
    metadata,
    _id(),
    _instant(
        "occurred_at",
        comment="when it happened; a placement: the server's arrival time, not before it was sent and not after now",
    ),
    _instant("recorded_at", default_now=True, comment="when it was written down"),
    Column("event_type", Text, nullable=False, comment="what happened"),
    Column("natural_key", Text, nullable=False, unique=True, comment="what makes a second telling the same event"),
    Column("mailbox_id", BigInteger, nullable=False, comment="the mailbox at which it happened"),
    Column("slot_id", BigInteger, comment="scheduled_tasks.id of the mail; null: token_rejected"),
    Column("sender_id", BigInteger, comment="senders.id of its pair"),
    Column("bot_id", BigInteger, comment="bots.id of its pair"),
    Column("message_id", Text, comment="Message-ID of the mail"),
    Column(
        "details",
        JSONB,
        nullable=False,
        server_default=text("'{}'::jsonb"),
        comment="what else is known, by type of event",
    ),
    _one_of("event_type", EVENT_TYPES),
    Index("ix_mail_events_occurred_at", "occurred_at"),
    Index("ix_mail_events_slot_id", "slot_id"),
    comment="One thing that happened to a mail. Rows are only ever added; only an address that was erased is replaced.",
)

imap_cursors = Table(
    "imap_cursors",
    metadata,
    Column("mailbox_id", BigInteger, ForeignKey(mailboxes.c.id), primary_key=True, comment="the mailbox"),
    Column("folder", Text, primary_key=True, comment="the folder"),
    Column("uidvalidity", BigInteger, nullable=False, comment="of the folder; another one renumbers its messages"),
    Column("next_uid", BigInteger, nullable=False, comment="every UID below is known"),
    _instant("synced_at", default_now=True, comment="when it was read"),
    Column(
        "strangers_uidvalidity",
        BigInteger,
        comment="as uidvalidity, of messages without a token, which are read last; null: none was read yet",
    ),
    Column("strangers_next_uid", BigInteger, comment="as next_uid, of messages without a token"),
    CheckConstraint(
        "(strangers_uidvalidity is null) = (strangers_next_uid is null)", name="strangers_uids_are_of_a_folder"
    ),
    comment="How far one folder of a mailbox is read.",
)

inbound_messages = Table(
    "inbound_messages",
    metadata,
    _id(),
    Column(
        "mailbox_id",
        BigInteger,
        ForeignKey(mailboxes.c.id, ondelete="cascade"),
        nullable=False,
        comment="the mailbox that it came to",
    ),
    Column("fingerprint", Text, nullable=False, comment="SHA-256 of its Message-ID, or of its bytes if it has none"),
    Column("folder", Text, nullable=False, comment="where it was first found"),
    Column("uidvalidity", BigInteger, comment="of the folder then; null: the mailbox came back, and may be another"),
    Column("uid", BigInteger, comment="its number then"),
    Column("message_id", Text, comment="its Message-ID; null: it has none"),
    Column("from_address", Text, comment="its From; null: unreadable"),
    Column("subject", Text, comment="at most 200 characters"),
    Column(
        "kind",
        Text,
        nullable=False,
        comment=(
            "human_reply, out_of_office, auto_reply, bounce, complaint, opt_out, own_copy, other; warm_up: it carries "
            "our label and no token"
        ),
    ),
    Column("auto", Boolean, nullable=False, comment="whether a machine wrote it"),
    Column(
        "counts",
        Boolean,
        nullable=False,
        comment="whether anything may follow; a bounce, complaint or request for no more mail: only if it names a mail "
        "of this mailbox to that recipient",
    ),
    Column("bounce_action", Text, comment="failed or delayed; null: no bounce"),
    Column("bounce_severity", Text, comment="hard or soft; null: no bounce"),
    Column("bounce_status", Text, comment="enhanced status code (RFC 3463) of a bounce, if it tells one"),
    Column("bounce_recipient", Text, comment="who was not reached, if a bounce tells it"),
    Column("return_date", Date, comment="of an out-of-office, if it tells one: a day of its author's zone"),
    Column(
        "matched_by",
        Text,
        comment="how the mail that it is about was found: in_reply_to, references, token, from_to_subject; null: it "
        "was not",
    ),
    Column("slot_id", BigInteger, comment="scheduled_tasks.id of that mail"),
    Column("evidence", JSONB, nullable=False, comment="what decided, the strongest first: where it stands, and what"),
    Column(
        "followed",
        ARRAY(Text),
        nullable=False,
        server_default=text("'{}'"),
        comment="what followed: returned, the event; suppressed, an entry for who it is about",
    ),
    _instant("arrived_at", comment="not after now, and not before the mail that it is about was submitted"),
    _instant("recorded_at", comment="when it was read"),
    _one_of("kind", INBOUND_KINDS),
    CheckConstraint("followed <@ array['returned', 'suppressed']", name="followed_known"),
    CheckConstraint("(uidvalidity is null) = (uid is null)", name="a_uid_is_of_a_folder"),
    CheckConstraint("(kind = 'bounce') = (bounce_action is not null)", name="a_bounce_has_an_action"),
    CheckConstraint("(matched_by is null) = (slot_id is null)", name="a_match_names_a_mail"),
    Index("uq_inbound_messages_fingerprint", "mailbox_id", "fingerprint", unique=True),
    Index("uq_inbound_messages_place", "mailbox_id", "folder", "uidvalidity", "uid", unique=True),
    Index("ix_inbound_messages_recorded_at", "recorded_at"),
    Index("ix_inbound_messages_slot_id", "slot_id", postgresql_where=text("slot_id is not null")),
    comment="One message that came to a mailbox and carries no token of ours.",
)

# Of a person's own mail nothing is kept that says to whom it went or what it says.
outside_mails = Table(
    "outside_mails",
    metadata,
    _id(),
    Column(
        "mailbox_id",
        BigInteger,
        ForeignKey(mailboxes.c.id, ondelete="cascade"),
        nullable=False,
        comment="the sender's mailbox, under whose Sent it was found",
    ),
    Column("fingerprint", Text, nullable=False, comment="SHA-256 of its Message-ID; without one, of times and size"),
    _instant("sent_at", comment="when it was stored, or its Date if that is more than a day earlier; not after now"),
    Column("local_day", Date, nullable=False, comment="day of the mailbox's zone at sent_at, which it counts in"),
    Column("recipients", Integer, nullable=False, comment="how many mails it counts as: its recipients, 1 to 500"),
    Column(
        "conversation_id", BigInteger, comment="conversations.id of our conversation that it is part of; null: of none"
    ),
    Column("matched_by", Text, comment="what names that conversation: in_reply_to or references"),
    _instant("found_at", comment="when it was read"),
    CheckConstraint("recipients between 1 and 500", name="recipients_of_one_mail"),
    CheckConstraint("(matched_by is null) = (conversation_id is null)", name="a_match_names_a_conversation"),
    Index("uq_outside_mails_fingerprint", "mailbox_id", "fingerprint", unique=True),
    Index("ix_outside_mails_day", "mailbox_id", "local_day"),
    Index("ix_outside_mails_sent_at", "sent_at"),
    Index("ix_outside_mails_conversation_id", "conversation_id", postgresql_where=text("conversation_id is not null")),
    comment="One mail that was sent from a sender's mailbox, and not by Emberflow.",
)

mailbox_readings = Table(
    "mailbox_readings",
    metadata,
    Column(
        "mailbox_id",
        BigInteger,
        ForeignKey(mailboxes.c.id, ondelete="cascade"),
        primary_key=True,
        comment="the mailbox",
    ),
    _instant("tried_at", comment="when it was tried the last time; who waits longest is read first"),
    Column("read_at", DateTime(timezone=True), comment="when the last reading of every folder began; null: never"),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row, since it was read"),
    Column("problem", Text, comment="what could not be read the last time, and why; null: nothing"),
    Column("junk_folder", Text, comment="its Junk folder; null: none was found"),
    Column("junk_looked_for_at", DateTime(timezone=True), comment="when its folders were listed the last time"),
    Column(
        "looked_through_at",
        DateTime(timezone=True),
        comment="when handled mail was last looked for to be filed or deleted, once a day; at first: its first try",
    ),
    Column("unfiled_since", DateTime(timezone=True), comment="since when filing or deleting fails; null: it does not"),
    Column("unfiled_because", Text, comment="what could not be filed or deleted the last time, and why"),
    CheckConstraint("(unfiled_since is null) = (unfiled_because is null)", name="unfiled_for_a_reason"),
    comment="How reading one mailbox went the last time.",
)

login_refusals = Table(
    "login_refusals",
    metadata,
    Column(
        "mailbox_id",
        BigInteger,
        ForeignKey(mailboxes.c.id, ondelete="cascade"),
        primary_key=True,
        comment="the mailbox",
    ),
    Column("protocol", Text, primary_key=True, comment="smtp or imap, which count apart"),
    Column("refused", Integer, nullable=False, comment="logins refused in a row"),
    Column("server_text", Text, nullable=False, comment="what the server said the last time"),
    _instant("first_at", comment="the first of them"),
    _instant("next_try_at", comment="nobody logs in before, over this protocol"),
    _one_of("protocol", ("smtp", "imap")),
    comment="Logins to one mailbox that its server refused in a row.",
)

message_faults = Table(
    "message_faults",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column(
        "mailbox_id",
        BigInteger,
        ForeignKey(mailboxes.c.id, ondelete="cascade"),
        primary_key=True,
        comment="the mailbox",
    ),
    Column("folder", Text, primary_key=True, comment="the folder"),
    Column("uidvalidity", BigInteger, primary_key=True, comment="of the folder"),
    Column("uid", BigInteger, primary_key=True, comment="number of the message in it"),
    Column(
        "step",
        Text,
        primary_key=True,
        comment="what failed: read, rescue (the move from Junk to INBOX), mark_read, important, star or archive",
    ),
    Column("reason", Text, nullable=False, comment="what is wrong"),
    Column("size", BigInteger, comment="bytes, as the server tells; null: it did not"),
    Column("tries", Integer, nullable=False, server_default="1", comment="how often it was tried"),
    _instant("first_at", comment="the first failure"),
    _instant("last_at", comment="the last failure"),
    Column("next_try_at", DateTime(timezone=True), comment="null: given up, never read again"),
    _one_of("step", ("read", "rescue", "mark_read", "important", "star", "archive")),
    comment="A message that was set aside, so that no other waits for it.",
)

quarantined_bytes = Table(
    "quarantined_bytes",
    metadata,
    Column(
        "fault_id",
        BigInteger,
        ForeignKey(message_faults.c.id, ondelete="cascade"),
        primary_key=True,
        comment="the message, which broke a limit of the parser",
    ),
    Column("octets", Integer, nullable=False, comment="bytes that are kept: the beginning of the message"),
    Column("sha256", LargeBinary, nullable=False, comment="digest of all bytes that were read of it"),
    Column("key_id", Text, nullable=False, comment="key of EMBERFLOW_SECRET_KEYS that they are encrypted with"),
    Column("nonce", LargeBinary, nullable=False, comment="of AES-256-GCM"),
    Column("ciphertext", LargeBinary, nullable=False, comment="the bytes, compressed, then encrypted"),
    _instant("kept_at", comment="since when; they go after `inbox.quarantine_days`"),
    Index("ix_quarantined_bytes_age", "kept_at"),
    comment="The first bytes of a message that broke a limit of the parser, for whoever looks into it.",
)

filed_mail = Table(
    "filed_mail",
    metadata,
    Column(
        "slot_id", BigInteger, primary_key=True, autoincrement=False, comment="scheduled_tasks.id of the handled mail"
    ),
    Column("mailbox_id", BigInteger, nullable=False, comment="the mailbox that it came to"),
    Column("header_digest", Text, nullable=False, comment="of the header of its copy, which is known again by it"),
    Column("filed_at", DateTime(timezone=True), comment="when it was moved; null: not yet, or deleted where it lay"),
    Column("deleted_at", DateTime(timezone=True), comment="when it was deleted for good; null: not yet"),
    comment="One handled warm-up mail that was moved to the folder for such mail, or is about to be.",
)

switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True, comment="live_mail or stop_sending"),
    Column("is_on", Boolean, nullable=False, comment="its position"),
    Column("changed_by", Text, nullable=False, comment="who turned it"),
    Column("reason", Text, nullable=False, comment="why"),
    _instant("changed_at", default_now=True, comment="when"),
    _one_of("name", ("live_mail", "stop_sending")),
    comment="The present position of one operator's switch; a missing row is off.",
)

database_identity = Table(
    "database_identity",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true"), comment="there is one row"),
    Column("database_oid", BigInteger, nullable=False, comment="pg_database.oid"),
    Column("table_oid", BigInteger, nullable=False, comment="of this table"),
    Column("made_in", BigInteger, nullable=False, comment="the transaction that wrote this row, as its xmin says"),
    CheckConstraint("is_only", name="one_row"),
    comment="What this database remembers of itself; a dump carries the values over, not what they name.",
)

restores = Table(
    "restores",
    metadata,
    _id(),
    _instant("noticed_at", comment="when it was noticed"),
    Column("why", Text, nullable=False, comment="what showed that the database was restored"),
    Column(
        "newest_at",
        DateTime(timezone=True),
        nullable=False,
        comment="the newest thing in the backup, or the beginning of all records if that is not certain",
    ),
    Column("settled_at", DateTime(timezone=True), comment="null: no mail leaves until it is settled"),
    Column("settled_by", Text, comment="who settled it"),
    Column("outcome", JSONB, comment="how many mails were found, rebuilt and left in doubt, and what was unread"),
    CheckConstraint("(settled_at is null) = (settled_by is null)", name="settled_by_somebody"),
    Index(
        "uq_restores_open",
        text("(settled_at is null)"),
        unique=True,
        postgresql_where=text("settled_at is null"),
    ),
    comment="One time that the database was found to be restored.",
)

send_counters = Table(
    "send_counters",
    metadata,
    Column(
        "scope",
        Text,
        primary_key=True,
        comment="what the cap is about: sender, cold, recipient_domain, provider, egress_ip, egress_ip_logins or all",
    ),
    Column("key", Text, primary_key=True, comment="whose: a mailbox id, a domain, a provider, an address"),
    Column("hour", DateTime(timezone=True), nullable=False, comment="start of the UTC hour of the last element"),
    Column(
        "per_hour",
        ARRAY(Integer),
        nullable=False,
        comment="counts of the last 25 UTC hours, oldest first: together no less than any rolling 24 hours",
    ),
    postgresql_with={"fillfactor": "50"},
    comment="What was sent in each of the last 25 UTC hours, by what a cap is about.",
)

suppressions = Table(
    "suppressions",
    metadata,
    _id(),
    Column("kind", Text, nullable=False, comment="address, domain or hash"),
    Column(
        "value",
        Text,
        nullable=False,
        comment="normalised address; normalised domain, for it and its subdomains; the fingerprint of the key, a "
        "colon and the keyed hash of a normalised address",
    ),
    Column("reason", Text, nullable=False, comment="why, in words"),
    Column(
        "cause",
        Text,
        nullable=False,
        comment="opt_out, complaint, hard_bounce, erasure, imported (by a list without causes) or operator",
    ),
    Column("added_by", Text, nullable=False, comment="who added it"),
    _instant("added_at", default_now=True, comment="when"),
    _one_of("kind", SUPPRESSION_KINDS),
    _one_of("cause", SUPPRESSION_CAUSES),
    Index("uq_suppressions_kind_value", "kind", "value", unique=True),
    comment="An address or domain that gets no mail.",
)

suppression_key = Table(
    "suppression_key",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="always 1"),
    Column("fingerprint", Text, nullable=False, comment="HMAC-SHA256 under the key itself; says nothing of the key"),
    Column("key_id", Text, nullable=False, comment="key of EMBERFLOW_SECRET_KEYS that encrypts it"),
    Column("nonce", LargeBinary, nullable=False, comment="of AES-256-GCM"),
    Column("ciphertext", LargeBinary, nullable=False, comment="the key, encrypted"),
    _instant("created_at", default_now=True, comment="when it was made"),
    CheckConstraint("id = 1", name="is_the_only_one"),
    comment="The key of the hashes in suppressions. Never replaced while there are any: without it they say nothing.",
)

lead_imports = Table(
    "lead_imports",
    metadata,
    _id(),
    Column("file_name", Text, nullable=False, comment="without its folder"),
    Column("file_hash", Text, nullable=False, comment="SHA-256 of its bytes"),
    Column("mode", Text, nullable=False, comment="add, fill or replace: what happens to leads that are known"),
    Column("defaults", JSONB, nullable=False, comment="facts for leads whose row gives none, by name"),
    *(
        Column(verdict, Integer, nullable=False, comment=f"rows with the verdict {verdict}")
        for verdict in IMPORT_VERDICTS
    ),
    Column("rows", Integer, nullable=False, comment="rows with a value; the verdicts add up to them"),
    Column("imported_by", Text, nullable=False, comment="who imported it"),
    Column("reason", Text, nullable=False, comment="why"),
    _instant("imported_at", default_now=True, comment="when"),
    _instant("undone_at", nullable=True, comment="when it was undone; null: it was not"),
    Column("undone_by", Text, comment="who undid it"),
    _one_of("mode", IMPORT_MODES),
    CheckConstraint(f"rows = {' + '.join(IMPORT_VERDICTS)}", name="verdicts_add_up"),
    CheckConstraint("(undone_at is null) = (undone_by is null)", name="undone_by_somebody"),
    Index("ix_lead_imports_file_hash", "file_hash"),
    comment="One file of leads that was imported.",
)

leads = Table(
    "leads",
    metadata,
    _id(),
    Column("address", Text, nullable=False, unique=True, comment="normalised"),
    Column("zone", Text, comment="IANA time zone; null: nobody gave one"),
    Column("country", Text, comment="ISO 3166-1 alpha-2; null: nobody gave one"),
    Column("source", Text, comment="where the data comes from; null: nobody said"),
    Column(
        "lawful_basis",
        Text,
        comment="consent, implied_consent, contract or legitimate_interests; null: nobody said",
    ),
    Column("fields", JSONB, nullable=False, comment="custom fields by name: text, number, true or false"),
    _reference("import_id", lead_imports, comment="lead_imports.id that added it"),
    _instant("created_at", default_now=True, comment="when it was added"),
    _instant("updated_at", default_now=True, comment="when a file changed it the last time"),
    _one_of("lawful_basis", LAWFUL_BASES),
    Index("ix_leads_import_id", "import_id"),
    comment="A person who may be written to. What a person wants is in suppressions, never here.",
)

lead_import_rows = Table(
    "lead_import_rows",
    metadata,
    Column(
        "import_id",
        BigInteger,
        ForeignKey(lead_imports.c.id),
        primary_key=True,
        autoincrement=False,
        comment="lead_imports.id",
    ),
    Column(
        "row_number",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="its last line in the file; the header is 1",
    ),
    Column("verdict", Text, nullable=False, comment="added, filled, replaced, duplicate, suppressed or invalid"),
    Column("column_name", Text, comment="what is wrong with an invalid row"),
    Column("reason", Text, comment="why, for a row that brought nothing; it repeats no value of the row"),
    Column(
        "lead_id",
        BigInteger,
        ForeignKey(leads.c.id, ondelete="set null"),
        comment="leads.id that it added or changed; null: none, or it is gone",
    ),
    Column("before", JSONB, comment="what the row changed of a lead, as it was; undoing puts it back"),
    _one_of("verdict", IMPORT_VERDICTS),
    Index("ix_lead_import_rows_lead_id", "lead_id", postgresql_where=text("lead_id is not null")),
    comment="What became of one row of a file of leads. It holds nothing that is not the lead's, and goes with it.",
)

recipient_refusals = Table(
    "recipient_refusals",
    metadata,
    Column("recipient", Text, primary_key=True, comment="address that the server calls unknown, normalised"),
    Column("smtp_host", Text, primary_key=True, comment="the submission server that says so"),
    Column(
        "from_mailbox_id",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="mailboxes.id, whose mail was refused",
    ),
    Column("to_mailbox_id", BigInteger, comment="mailboxes.id; null: the recipient is not ours"),
    Column("refused_at", DateTime(timezone=True), nullable=False, comment="the last time"),
    Column("reason", Text, nullable=False, comment="the rule that read the reply, and its meaning"),
    Column("accepted_at", DateTime(timezone=True), comment="another mailbox reached the recipient after that"),
    Column("served_at", DateTime(timezone=True), comment="this mailbox got other mail away after that"),
    Column("judged_at", DateTime(timezone=True), comment="the mailbox was stopped because of it"),
    Column("organisation", Text, nullable=False, comment="the registered domain in the server's name"),
    Column("network", Text, comment="what the connection reached; null: not recorded"),
    Column(
        "contradicted_at",
        DateTime(timezone=True),
        comment="another party reached the recipient first after that, and this server has not since",
    ),
    Column(
        "server_served_at",
        DateTime(timezone=True),
        comment="this server took other mail after that, of whichever mailbox",
    ),
    comment="A submission server called a recipient unknown to one of its mailboxes.",
)

host_breakers = Table(
    "host_breakers",
    metadata,
    Column(
        "key", Text, primary_key=True, comment="host:SERVER, mailbox:ID, or what a provider's reply names, via SERVER"
    ),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row, since the last success"),
    Column("open_until", DateTime(timezone=True), comment="null: closed"),
    Column("probe_until", DateTime(timezone=True), comment="one worker probes until then; null: nobody does"),
    Column("reason", Text, comment="the failure that opened it"),
    _instant("changed_at", default_now=True, comment="when it changed"),
    comment="One circuit breaker; a missing row is closed.",
)
