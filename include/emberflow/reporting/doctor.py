"""Is everything there that a plan and its mails depend on? One finding per check, with what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from emberflow.accounts import keys_in_force
from emberflow.accounts.suppressions import SUPPRESSED_BOTS
from emberflow.accounts.switches import LIVE_MAIL, STOP_SENDING, is_on
from emberflow.clock import SystemClock
from emberflow.database import restores, server_clock, zones
from emberflow.database.engine import open_engine
from emberflow.database.migrate import VERSION_TABLE, configuration
from emberflow.database.secrets import SecretBox
from emberflow.errors import EmberflowError
from emberflow.policy import script_sets
from emberflow.policy.document import Policy
from emberflow.policy.versions import in_force
from emberflow.reporting import domains, inbound, mail_servers, profiles, queue, set_aside
from emberflow.settings import Settings

_ZONES_IN_USE = text(
    "select zone, min(address) as example from ops.mailboxes where removed_at is null group by zone order by zone"
)
_CLOCK_TOLERANCE_S = 2.0
_OPEN_TOO_LONG_S = 600
_NAMED = 3
_CHECKED_LATELY_H = 30  # checks are made every 6 hours, daily if the policy says so
# Vacuum keeps what died since the oldest of them began; a role without pg_read_all_stats sees its own sessions only.
_SUPPRESSED_BOTS = text(f"""
    select mailboxes.address from ops.mailboxes where mailboxes.id in ({SUPPRESSED_BOTS}) order by mailboxes.address
""")  # noqa: S608 - a constant

_OLDEST_TRANSACTION = text("""
    select
        pid, usename, application_name,
        extract(epoch from clock_timestamp() - xact_start)::bigint as open_s
    from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
        and (backend_xid is not null or backend_xmin is not null)
        and xact_start <= clock_timestamp() - make_interval(secs => :seconds)
    order by xact_start
    limit 1
""")

_READINGS = text("""
    select
        count(*) filter (where problem is null) as read,
        count(*) filter (where problem is not null) as unreadable,
        min(address || ': ' || problem) filter (where problem is not null) as example,
        count(*) filter (where junk_folder is null and junk_looked_for_at is not null) as without_junk,
        min(address) filter (where junk_folder is null and junk_looked_for_at is not null) as without_junk_example,
        count(*) filter (where unfiled_since < clock_timestamp() - interval '1 day') as unfiled,
        min(address || ': ' || unfiled_because)
            filter (where unfiled_since < clock_timestamp() - interval '1 day') as unfiled_example
    from ops.mailbox_readings as readings
    inner join ops.mailboxes on mailboxes.id = readings.mailbox_id
    left join ops.senders on senders.mailbox_id = mailboxes.id
    left join ops.bots on bots.mailbox_id = mailboxes.id
    where check_passed and (senders.state in ('active', 'paused') or bots.status in ('active', 'paused'))
""")


@dataclass(frozen=True)
class Finding:
    """One check; ``remedy`` is None when all is well."""

    check: str
    result: str
    remedy: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that cannot run is a finding, not an exception."""
    findings = [_guarded("keys", lambda: _keys(settings))]
    try:
        with open_engine(settings.require_database_url()).connect() as connection:
            findings += _database(connection, settings)
    except (EmberflowError, SQLAlchemyError) as error:
        remedy = "start the stack with `./emberflow up`, or correct EMBERFLOW_DATABASE_URL"
        findings.append(Finding("database", str(error).splitlines()[0], remedy))
    return findings


def _guarded(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, look())
    except EmberflowError as error:
        return Finding(check, "missing or wrong", str(error))


def _keys(settings: Settings) -> str:
    SecretBox(settings.secret_keys)
    settings.require_token_keys()
    return f"{len(settings.secret_keys)} for passwords, {len(settings.token_keys)} for tokens"


def _database(connection: Connection, settings: Settings) -> Iterator[Finding]:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    present = context.get_current_revision()
    wanted = ScriptDirectory.from_config(configuration()).get_current_head()
    if present != wanted:
        yield Finding("database schema", f"{present or 'empty'}, wanted {wanted}", "run `./emberflow up`")
        return
    yield Finding("database schema", f"revision {present}")
    yield _clocks(connection)
    yield _keys_in_force(connection, settings)
    yield _restored(connection)
    yield from _policy(connection, settings)
    yield _mode(connection, settings)
    yield _mailboxes(connection)
    yield _suppressed(connection)
    yield _mail_servers(connection, settings)
    yield from _reading(connection)
    yield _domains(connection, settings)
    yield _zones(connection)
    yield _queue(connection)
    yield _in_doubt(connection)
    yield _transactions(connection)


def _clocks(connection: Connection) -> Finding:
    skew_s = (SystemClock().now() - server_clock.now(connection)).total_seconds()
    remedy = None
    if abs(skew_s) > _CLOCK_TOLERANCE_S:
        remedy = server_clock.describe(skew_s)
    if abs(skew_s) > server_clock.MOST_SKEW_S:
        remedy = f"this machine sends nothing until that is mended: {remedy}"
    return Finding("clock against database", f"{abs(skew_s):.2f} s apart", remedy)


def _keys_in_force(connection: Connection, settings: Settings) -> Finding:
    try:
        refusal = keys_in_force.why_refused(connection, settings)
    except EmberflowError as error:
        refusal = str(error)
    return Finding(
        "keys in force", "held by this machine" if refusal is None else "this machine sends nothing", refusal
    )


def _restored(connection: Connection) -> Finding:
    held = restores.unsettled(connection)
    why = restores.evidence(connection) if held is None else held.why
    if why is None:
        return Finding("restored database", "no")
    return Finding("restored database", f"yes, all mail is held: {why}", restores.REMEDY)


def _policy(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Yield what is in force, and where this machine's settings say something else, which changes nothing."""
    try:
        force = in_force(connection)
    except EmberflowError as error:
        yield Finding("policy", "missing or wrong", str(error))
        return
    remedy = None
    if settings.seed not in (None, force.seed):
        remedy = f"EMBERFLOW_SEED={settings.seed} changes nothing, only a new database begins with it: unset it"
    yield Finding("policy", f"{force.policy.label}, version {force.policy_id}, seed {force.seed}", remedy)
    yield _profiles(connection, force.policy)
    stored = script_sets.load(connection, force.script_set_id).scripts
    remedy = None
    try:
        if settings.scripts_dir is not None and script_sets.configured(settings) != stored:
            remedy = (
                f"{settings.scripts_dir} holds others, which changes nothing: `emberflow scripts apply` puts them in "
                "force on all machines, or unset EMBERFLOW_SCRIPTS_DIR"
            )
    except EmberflowError as error:
        remedy = str(error)
    yield Finding("conversation scripts", f"{len(stored.by_id)}, set {force.script_set_id}", remedy)


def _profiles(connection: Connection, policy: Policy) -> Finding:
    """Say who goes by which profile, and name mailboxes whose profile the policy does not have."""
    used = profiles.in_use(connection)
    known = {row["profile"]: row for row in used if row["profile"] in policy.profiles}
    lost = [f"{row['profile']} of {row['example']}" for row in used if row["profile"] not in policy.profiles]
    counts = [f"{name} by {known[name]['mailboxes'] if name in known else 0}" for name in policy.profile_names]
    result = f"used: {', '.join(counts)}" if counts else "the policy has none"
    if not lost:
        return Finding("profiles", result)
    remedy = "nothing is sent from them or to them: run `emberflow senders set ADDRESS --profile`, or `bots set`"
    return Finding("profiles", f"{result}; not known: {', '.join(lost)}", remedy)


def _mode(connection: Connection, settings: Settings) -> Finding:
    if is_on(connection, STOP_SENDING):
        return Finding(
            "mail", "stopped by the kill switch", "run `emberflow mail stop off --reason ...` when it may go on"
        )
    both = {settings.mail_mode == "live", is_on(connection, LIVE_MAIL)}
    if both == {True}:
        return Finding("mail", "LIVE: real mail is sent")
    if both == {False}:
        return Finding("mail", "sandbox: loopback only")
    return Finding("mail", "live mode is only half switched on", "turn both switches on, or both off")


def _mailboxes(connection: Connection) -> Finding:
    row = connection.execute(
        text("""
            select count(*) filter (where check_passed) as passed, count(*) as total,
                min(address) filter (where check_passed is not true) as example
            from ops.mailboxes
            where removed_at is null
        """)
    ).one()
    remedy = None
    if row.passed < row.total:
        remedy = f"run `emberflow senders check`; for instance {row.example} has not passed"
    elif row.total == 0:
        remedy = "import senders and bots: `emberflow senders import`, `emberflow bots import`"
    return Finding("mailboxes", f"{row.passed} of {row.total} passed their check", remedy)


def _suppressed(connection: Connection) -> Finding:
    rows = connection.execute(_SUPPRESSED_BOTS).all()
    named = ", ".join(row.address for row in rows[:_NAMED])
    result = f"{len(rows)} bots of this installation are suppressed" if rows else "no bot of this installation"
    remedy = f"nothing is planned for them, for instance {named}: `emberflow suppressions list` says why"
    return Finding("suppressions", result, remedy if rows else None)


def _reading(connection: Connection) -> Iterator[Finding]:
    """Yield what the inbox runs could not read or file, which mailboxes show no Junk folder, and what was set aside."""
    row = connection.execute(_READINGS).one()
    remedy = None
    if row.unreadable:
        remedy = f"correct the server or the login, or look at the mail server; for instance {row.example}"
    yield Finding("inbox reading", f"{row.read} mailboxes read, {row.unreadable} not", remedy)
    remedy = None
    if row.without_junk:
        remedy = (
            "placement there looks better than it is: show the Junk folder over IMAP, or name it Junk; "
            f"for instance {row.without_junk_example}"
        )
    yield Finding("Junk folders", f"{row.without_junk} mailboxes show none", remedy)
    remedy = None
    if row.unfiled:
        remedy = (
            f"it stays where it is until the server lets it be moved and deleted; for instance {row.unfiled_example}"
        )
    yield Finding("handled mail", f"{row.unfiled} mailboxes keep it unfiled for more than a day", remedy)
    row = set_aside.counted(connection)
    remedy = None
    if row.lately:
        remedy = f"`emberflow inbox quarantined` lists them; the newest: {row.newest}"
    counts = (
        f"{row.unread} not read, {row.in_junk} not rescued, {row.not_marked} not marked or archived, "
        f"{row.given_up} of them given up"
    )
    if row.kept:
        counts += f"; bytes of {row.kept} are kept, {math.ceil(row.octets / 1024)} KiB"
    yield Finding("messages set aside", counts, remedy)
    row = inbound.lately(connection)
    counts = (
        f"{row.bounces} bounces that count within 7 days, {row.hard} of them hard, {row.complaints} complaints; "
        f"{row.suppressed} addresses suppressed for it; {row.not_counting} reports are about no mail of ours"
    )
    yield Finding("mail that came back", counts)
    yield _own_that_bounce(connection)
    yield _requests(connection)


def _own_that_bounce(connection: Connection) -> Finding:
    """Name mailboxes of ours that do not take mail: they are not suppressed, for somebody can mend them."""
    check = "own mailboxes that bounce"
    found = inbound.own_that_bounce(connection)
    if not found:
        return Finding(check, "none within 7 days")
    worst = found[0]
    kind = "bots" if worst.is_bot else "senders"
    remedy = (
        f"see at the provider that {worst.address} exists and takes mail, or take it out of use: "
        f"`emberflow {kind} pause {worst.address}`"
    )
    told = f"{worst.address} does not exist, as {worst.mailboxes} mailboxes that wrote to it were told"
    return Finding(check, f"{len(found)}; {told}", remedy)


def _requests(connection: Connection) -> Finding:
    """Name who asked for no more mail and could not be tied to one: a person decides."""
    check = "requests for no more mail"
    found = inbound.unsettled_requests(connection)
    if not found:
        return Finding(check, "every one that is known is settled")
    remedy = (
        "read them: `emberflow inbox list --kind opt_out`; then `emberflow suppressions add ADDRESS --reason WHY`; "
        f"for instance {found[0] or 'one without a readable From'}"
    )
    return Finding(check, f"{len(found)} within 7 days cannot be tied to a mail of ours", remedy)


def _domains(connection: Connection, settings: Settings) -> Finding:
    """Say which checks of domains and egress addresses fail, and which tell nothing."""
    check = "domain checks"
    found = domains.summary(connection)
    total = found.passed + found.failing + found.unknown
    if settings.mail_mode == "sandbox" and not settings.dns_servers and not total:
        return Finding(check, "not looked up: sandbox mode, and EMBERFLOW_DNS_SERVERS is empty")
    result = f"{found.passed} pass, {found.failing} fail, {found.unknown} unknown"
    if found.unknown_example is not None:
        result += f" (for instance {found.unknown_example})"
    if found.failing:
        remedy = (
            "correct the records before they stop mail: `emberflow domains list` shows them; for instance "
            f"{found.failing_example}"
        )
        return Finding(check, result, remedy)
    if found.never_checked or (found.oldest_h or 0) > _CHECKED_LATELY_H:
        remedy = f"{found.never_checked} domains in use were never checked: look at the DAG `domain_checks`"
        if not found.never_checked:
            remedy = f"the oldest outcome is {found.oldest_h:.0f} h old: look at the DAG `domain_checks`"
        return Finding(check, result, remedy)
    return Finding(check, result)


def _zones(connection: Connection) -> Finding:
    wanted, present = version("tzdata"), zones.edition(connection)
    if present != wanted:
        remedy = "run `emberflow database migrate`"
        return Finding("time zones", f"the database has tzdata {present}, this program {wanted}", remedy)
    rows = connection.execute(_ZONES_IN_USE).all()
    unknown = zones.unknown(connection, [row.zone for row in rows])
    lost = [f"{row.zone} of {row.example}" for row in rows if row.zone in unknown]
    if lost:
        remedy = "nothing is sent from them or to them: run `emberflow senders set ADDRESS --zone`, or `bots set`"
        return Finding("time zones", f"not known: {', '.join(lost)}", remedy)
    return Finding("time zones", f"{len(rows)} in use, all known; tzdata {wanted}")


def _mail_servers(connection: Connection, settings: Settings) -> Finding:
    if settings.mail_mode == "live" and not is_on(connection, LIVE_MAIL):
        return Finding("mail servers", "not looked at: live mode is only half switched on")
    servers = mail_servers.reach(connection, settings.mail_mode)
    outside = sum(server.is_outside for server in servers)
    silent = mail_servers.silent(servers)
    tried = len(servers) - outside
    notes = [f"{tried - len(silent)} of {tried} accept connections"]
    if outside:
        notes.append(f"{outside} are not on this machine: not looked at in sandbox mode")
    notes += [
        f"{server.protocol} {server.host}:{server.port} of {server.mailboxes} mailboxes: {server.fault}"
        for server in silent[:_NAMED]
    ]
    remedy = None
    if silent:
        remedy = "look at the server, its name and the network; its mail waits and is not read meanwhile"
    return Finding("mail servers", "; ".join(notes), remedy)


def _queue(connection: Connection) -> Finding:
    row = connection.execute(
        text("""
            select count(*) filter (where status = 'planned') as planned,
                count(*) filter (where status = 'planned' and target_time < now() - interval '10 minutes') as late
            from ops.slot_states
        """)
    ).one()
    remedy = "look at the DAG `dispatch`: due slots are waiting" if row.late else None
    return Finding("queue", f"{row.planned} planned, {row.late} late", remedy)


def _in_doubt(connection: Connection) -> Finding:
    mails = queue.in_doubt(connection)
    if not mails.unresolved and not mails.hindered:
        return Finding("mails in doubt", str(mails))
    remedy = (
        "`emberflow queue list` says for each where it was looked for or what hinders that; they count as sent until "
        "`emberflow queue settle` is told what you found out"
    )
    return Finding("mails in doubt", str(mails), remedy)


def _transactions(connection: Connection) -> Finding:
    oldest = connection.execute(_OLDEST_TRANSACTION, {"seconds": _OPEN_TOO_LONG_S}).one_or_none()
    if oldest is None:
        return Finding("open transactions", f"none older than {_OPEN_TOO_LONG_S // 60} min")
    return Finding(
        "open transactions",
        f"process {oldest.pid} of {oldest.usename} ({oldest.application_name or 'unnamed'}): "
        f"open for {oldest.open_s // 60} min",
        "end it, and run long reports on a replica: vacuum waits for it, and each claim walks past what died meanwhile",
    )
