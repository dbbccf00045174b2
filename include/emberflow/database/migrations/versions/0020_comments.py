"""Comments say what every table and column is; the data dictionary is made from them. They name no module."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TABLES = {
    "audit_log": "What a person did, one row a transaction; each carries the hash of the row before it.",
    "database_identity": "What this database remembers of itself; a dump carries the values over, not what they name.",
    "egress_ips": "A source address of this machine.",
    "host_breakers": "One circuit breaker; a missing row is closed.",
    "keys_in_force": "The key that encrypts or signs, one row for each purpose.",
    "mail_events": "One thing that happened to a mail. Rows are only ever added.",
    "recipient_refusals": "A submission server called a recipient unknown to one of its mailboxes.",
    "restores": "One time that the database was found to be restored.",
    "scheduled_tasks": "One slot: one mail, as it was planned. A row never changes and is never deleted.",
    "script_sets": "The conversation scripts of one time. Rows are only ever added.",
    "send_counters": "What was sent in each of the last 25 UTC hours, by what a cap is about.",
    "sender_days": "Quota of one sender on one of its local days, and what is used of it. A new day is a new row.",
    "slot_states": "Where a slot is now: one narrow row for each, written with it.",
    "state_changes": "One change of a sender's, bot's or egress address's state, in the transaction of the change.",
    "suppressions": "An address or domain that gets no mail.",
    "switches": "The present position of one operator's switch; a missing row is off.",
    "zones": "One IANA time zone, as the program knows it.",
    "mailboxes": "One account, of a sender or a bot.",
    "policies": "One version of the configuration (SCD 2).",
    "bots": "One owned mailbox that receives and answers.",
    "imap_cursors": "How far one folder of a mailbox is read.",
    "mailbox_readings": "How reading one mailbox went the last time.",
    "mailbox_secrets": "The password or refresh token of one mailbox, encrypted.",
    "message_faults": "A message that was set aside, so that no other waits for it.",
    "plan_runs": "One planned UTC hour.",
    "senders": "One mailbox that is warmed up.",
    "bot_days": "What one bot received and answered on one of its local days. A new day is a new row.",
    "bot_sender_interactions": "A sender and a bot that ever had contact.",
    "conversations": "One thread between a sender and a bot.",
    "plan_inputs": "What one plan was computed from.",
}

# By table and column: the comment before, and the comment from now on.
_COLUMNS: dict[str, dict[str, tuple[str | None, str]]] = {
    "audit_log": {
        "at": (None, "when"),
        "actor": ("the name of who did it", "who: --by, EMBERFLOW_ACTOR, or the user's name"),
        "role": (None, "as what"),
        "reason": (None, "why"),
        "details": ("what was given, and what it came to", "what was given, and what it came to; never a secret"),
    },
    "database_identity": {
        "is_only": (None, "there is one row"),
    },
    "egress_ips": {
        "state": (None, "active or held"),
    },
    "host_breakers": {
        "key": (
            "host:NAME, or a key that a provider's reply names",
            "host:SERVER, mailbox:ID, or what a provider's reply names, via SERVER",
        ),
        "changed_at": (None, "when it changed"),
    },
    "keys_in_force": {
        "purpose": (None, "secrets or tokens"),
        "changed_at": (None, "when it was changed"),
    },
    "mail_events": {
        "occurred_at": (
            None,
            "when it happened; a placement: the server's arrival time, not before it was sent and not after now",
        ),
        "recorded_at": (None, "when it was written down"),
        "event_type": (None, "what happened"),
        "slot_id": (None, "scheduled_tasks.id of the mail; null: token_rejected"),
        "sender_id": (None, "senders.id of its pair"),
        "bot_id": (None, "bots.id of its pair"),
        "message_id": (None, "Message-ID of the mail"),
        "details": (None, "what else is known, by type of event"),
    },
    "restores": {
        "noticed_at": (None, "when it was noticed"),
        "newest_at": (
            "the newest thing in the backup",
            "the newest thing in the backup, or the beginning of all records if that is not certain",
        ),
        "settled_by": (None, "who settled it"),
        "outcome": (
            "how many mails were found, rebuilt and left in doubt",
            "how many mails were found, rebuilt and left in doubt, and what was unread",
        ),
    },
    "scheduled_tasks": {
        "priority_level": (
            "smaller goes first; queue_manager.slots names them",
            "smaller goes first: 10 reply, 20 cold follow-up, 30 cold first touch, 40 warm-up",
        ),
        "task_type": (None, "warmup, reply, cold_first_touch or cold_follow_up"),
        "payload": (
            "what the message is built from: script, subject, thread",
            "what the message is built from: script, script_set; tier, asked_tier; thread, in_reply_to, references",
        ),
        "idempotency_key": (None, "what makes a second planning the same slot"),
        "from_mailbox_id": ("mailboxes.id", "mailboxes.id that sends"),
        "to_mailbox_id": ("mailboxes.id", "mailboxes.id that receives; null: cold mail"),
        "sender_id": ("senders.id", "senders.id of the pair, whichever way the mail goes"),
        "bot_id": ("bots.id", "bots.id of the pair; null: cold mail"),
        "turn": (None, "place in the thread, from 1"),
        "policy_id": ("policies.id", "policies.id that it was planned under"),
        "plan_run_id": ("plan_runs.id", "plan_runs.id; null for replies"),
    },
    "send_counters": {
        "scope": (
            "what the cap is about; queue_manager.caps names them",
            "what the cap is about: sender, cold, recipient_domain, provider, egress_ip, egress_ip_logins or all",
        ),
    },
    "sender_days": {
        "ramp_volume": (None, "what the ramp allows; never below what was sent"),
        "health_multiplier": (None, "part of the quota: what the score allows"),
        "daily_factor": (None, "part of the quota: the day's draw"),
        "warmup_quota": (None, "cap for warm-up"),
        "warmup_sent": (None, "counted immediately before DATA; taken back when the mail provably did not leave"),
        "reply_sent": (None, "the same for replies of the sender"),
        "cold_sent": (None, "the same for cold mail"),
    },
    "slot_states": {
        "from_mailbox_id": ("the slot's; it decides the lane", "the slot's; it decides the shard"),
        "target_time": ("when it is due now", "when it is due now; moves when it is tried again"),
        "lease_token": (None, "proof of the claim"),
        "lease_until": (None, "until when the claim holds, by the database's clock"),
        "submitted_at": (None, "when DATA was allowed"),
        "sent_at": (None, "when the server took it; null unless sent"),
        "attempts": (None, "SMTP attempts counted"),
        "status": (None, "planned, leased, submitting, sent, failed, uncertain, cancelled, expired or parked"),
    },
    "state_changes": {
        "entity_kind": (None, "sender, bot or egress"),
        "reason": ("null: it is active", "why it is not active; null: it is"),
        "actor": (
            "who changed it: a person, or the part that did it by itself",
            "who: a person, or what did it by itself (dispatch; migration: what was there before)",
        ),
        "at": (None, "when"),
    },
    "suppressions": {
        "kind": (None, "address or domain"),
        "reason": (None, "why"),
        "added_by": (None, "who added it"),
        "added_at": (None, "when"),
    },
    "switches": {
        "name": (None, "live_mail or stop_sending"),
        "is_on": (None, "its position"),
        "changed_by": (None, "who turned it"),
        "reason": (None, "why"),
        "changed_at": (None, "when"),
    },
    "mailboxes": {
        "address": (
            "normalised: trimmed, lower case, IDNA domain",
            "trimmed, lower case, IDNA domain; unique among mailboxes that are not removed",
        ),
        "display_name": (None, "name in From"),
        "owner": (
            "who holds the mailbox: warm-up leaves it. Null: matches nobody",
            "who holds the mailbox: a sender and a bot of one owner never meet; null: matches nobody",
        ),
        "smtp_host": (None, "submission server"),
        "smtp_port": (None, "its port"),
        "smtp_tls": (None, "starttls or implicit"),
        "imap_host": (None, "server that it is read at"),
        "imap_port": (None, "its port"),
        "imap_tls": (None, "starttls or implicit"),
        "username": (None, "login at both servers"),
        "auth_method": (
            "xoauth2: the secret is a refresh token",
            "password, or xoauth2: the secret is a refresh token",
        ),
        "egress_ip_id": (None, "source address that it sends from; null: any of the machine's"),
        "check_passed": (
            "null: never checked",
            "last connection check; null: never checked. A transient failure leaves it as it is",
        ),
        "checked_at": (None, "when it was checked the last time"),
        "next_send_at": (
            "the pause after this mailbox's last mail ends here",
            "the pause after its last mail ends here, or that of a change of zone or of what the address was",
        ),
        "removed_at": (
            "null: in use. Since then it is kept for the log alone, without a secret",
            "null: in use. Since then kept for the log alone, without a secret, until its address is imported",
        ),
    },
    "policies": {
        "name": (None, "what the operator calls it"),
        "document": (None, "every number, as JSON"),
        "sha256": (None, "hash of the document"),
        "valid_from": (None, "in force from then on"),
        "valid_to": (None, "null: in force; at most one is"),
    },
    "bots": {
        "mailbox_id": (None, "its mailbox"),
        "status": (None, "unverified, active, paused (still read, not planned) or retired (neither)"),
        "status_changed_at": (None, "when the status was set, by a command, a check or a server's answer"),
        "born_at": (None, "its age counts from here"),
        "cooldown_until": (None, "no new mail is planned to it, and none leaves for it, before"),
        "attested_at": (None, "when that was declared"),
    },
    "imap_cursors": {
        "mailbox_id": (None, "the mailbox"),
        "folder": (None, "the folder"),
        "uidvalidity": (None, "of the folder; another one renumbers its messages"),
        "next_uid": (None, "every UID below is known"),
        "synced_at": (None, "when it was read"),
    },
    "mailbox_readings": {
        "mailbox_id": (None, "the mailbox"),
        "tried_at": (None, "when it was tried the last time; who waits longest is read first"),
    },
    "mailbox_secrets": {
        "mailbox_id": (None, "whose"),
        "key_id": (None, "key of EMBERFLOW_SECRET_KEYS that it is encrypted with"),
        "nonce": (None, "of AES-GCM, used once"),
        "updated_at": (None, "when it was stored"),
    },
    "message_faults": {
        "mailbox_id": (None, "the mailbox"),
        "folder": (None, "the folder"),
        "uidvalidity": (None, "of the folder"),
        "uid": (None, "number of the message in it"),
        "reason": (None, "what is wrong"),
        "tries": (None, "how often it was tried"),
        "first_at": (None, "the first failure"),
        "last_at": (None, "the last failure"),
    },
    "plan_runs": {
        "seed": (None, "with which it was planned"),
        "policy_id": (None, "policy with which it was planned"),
        "input_sha256": (None, "hash of everything read"),
        "plan_sha256": (None, "hash of the slots"),
        "senders": (None, "senders considered"),
        "planned_at": (None, "when it was planned"),
    },
    "senders": {
        "mailbox_id": (None, "its mailbox"),
        "state": (None, "unverified, active, paused or stopped (its ramp starts over)"),
        "state_reason": (
            "why it is not active; one open reason at a time",
            "why it is not active, one open reason at a time; null exactly when active",
        ),
        "state_changed_at": (None, "when the state was set, by a command, a check or a server's answer"),
        "ramp_since": (
            "days before this do not count for the ramp; set by stop",
            "days before this do not count for the ramp; set by stop, and when a removed sender comes back",
        ),
    },
    "bot_days": {
        "bot_id": (None, "the bot"),
        "inbound_sent": (None, "mails to it, counted immediately before DATA"),
        "reply_sent": (None, "its replies, counted alike"),
    },
    "bot_sender_interactions": {
        "sender_id": (None, "the sender"),
        "bot_id": (None, "the bot"),
        "tier": (
            "tier that chose the bot the last time",
            "the tier that chose the bot the last time: virgin, probabilistic or active",
        ),
        "sent_count": (None, "first mails of conversations"),
        "reply_count": (None, "replies of the bot"),
        "rescued_count": (None, "mails moved out of Junk"),
        "first_contact": (None, "the first mail between them, either way"),
        "last_contact": (None, "the latest mail between them, either way"),
    },
    "conversations": {
        "sender_id": (None, "the sender"),
        "bot_id": (None, "the bot"),
        "thread_status": (None, "awaiting_reply, reply_scheduled or closed"),
        "next_action_time": (None, "when the next reply is due; null: none is scheduled"),
        "script_id": (None, "the conversation script"),
        "subject": (None, "of its first mail"),
        "root_message_id": (None, "Message-ID of its first mail"),
        "last_message_id": (None, "Message-ID of its last mail"),
        "started_at": (None, "when its first mail was sent"),
        "updated_at": (None, "when the row changed"),
    },
    "plan_inputs": {
        "plan_run_id": (None, "the plan; its inputs are removed with it"),
        "body": (
            "what the plan was computed from, packed by queue_manager.plan_inputs: it computes it again",
            "senders, bots and every answer about pairs, packed; from it the plan is computed again",
        ),
    },
}


def upgrade() -> None:
    for table, comment in _TABLES.items():
        op.create_table_comment(table, comment, schema="ops")
    for table, columns in _COLUMNS.items():
        for column, (_, comment) in columns.items():
            op.alter_column(table, column, comment=comment, schema="ops")


def downgrade() -> None:
    for table, columns in _COLUMNS.items():
        for column, (comment, _) in columns.items():
            op.alter_column(table, column, comment=comment, schema="ops")
    for table in _TABLES:
        op.drop_table_comment(table, schema="ops")
