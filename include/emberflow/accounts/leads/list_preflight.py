"""The preflight of leads that are known: their domains are looked up, and their servers are left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sqlalchemy import Connection, Engine, text

from emberflow.accounts.domain_inquiries import Ask, means_of, servers_of
from emberflow.accounts.switches import enter_mail_mode
from emberflow.campaigns.preflight import ROLES, Group, Preflight, is_disposable, judge
from emberflow.email_ops import authentication
from emberflow.email_ops.dns_questions import Answer, Question, settle
from emberflow.errors import EmberflowError
from emberflow.policy.versions import in_force
from emberflow.settings import Settings

NOBODY_TO_ASK: Final = "nobody is asked in sandbox mode unless EMBERFLOW_DNS_SERVERS names a server on this machine"

_DOMAINS = text("""
    select
        split_part(address, '@', 2) as domain,
        count(*) as leads,
        count(*) filter (where split_part(split_part(address, '@', 1), '+', 1) = any(:roles)) as roles
    from ops.leads
    where (cast(:batch as bigint) is null or import_id = :batch)
    group by domain
    order by leads desc, domain
""")


def run(
    engine: Engine,
    settings: Settings,
    batch: int | None,
    *,
    seconds: float,
    progress: Callable[[], None] = lambda: None,
) -> Preflight:
    """Judge all leads, or those that an import added; domains that are not reached in ``seconds`` are unknown.

    Raises:
        EmberflowError: there are no leads.
        EgressRefusedError: sandbox mode, and a name server is not on this machine.
    """
    with engine.begin() as connection:
        groups = _groups(connection, batch)
        mode = enter_mail_mode(connection, settings)
        policy = in_force(connection).policy.domain_checks
    servers = servers_of(mode, settings, policy.question_s)
    if servers is None:
        return judge(groups, lambda _: (None, NOBODY_TO_ASK))
    ask = means_of(servers, settings, policy, []).ask
    until = time.monotonic() + seconds

    def look_up(group: Group) -> tuple[bool | None, str]:
        found = (None, "not needed") if is_disposable(group.domain) else _takes_mail(group.domain, ask, until)
        progress()
        return found

    with ThreadPoolExecutor(policy.at_once) as pool:
        found = dict(zip((group.domain for group in groups), pool.map(look_up, groups), strict=True))
    return judge(groups, found.__getitem__)


def _groups(connection: Connection, batch: int | None) -> Sequence[Group]:
    rows = connection.execute(_DOMAINS, {"batch": batch, "roles": sorted(ROLES)})
    groups = [Group(row.domain, row.leads, row.roles) for row in rows]
    if not groups:
        of = "" if batch is None else f" of import {batch}"
        raise EmberflowError(f"there are no leads{of}: bring some in with `emberflow leads import`")
    return groups


def _takes_mail(domain: str, ask: Ask, until: float) -> tuple[bool | None, str]:
    def answer(question: Question) -> Answer:
        return ask(question, until=until)

    verdict = settle(authentication.mx(domain), answer)
    return {"pass": True, "fail": False, "unknown": None}[verdict.status], verdict.summary
