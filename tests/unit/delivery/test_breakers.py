"""The life of one circuit breaker, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.delivery.breakers import Breaker, BreakerPolicy, admit, failing, keys_of, take_in
from emberflow.delivery.reply_codes import Action, Disposition, Scope
from emberflow.delivery.routes import server_of

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
POLICY = BreakerPolicy()


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def a_breaker_that_opened(at: datetime = NOON, policy: BreakerPolicy = POLICY) -> Breaker:
    breaker = Breaker()
    for _ in range(policy.failures):
        breaker = breaker.failed("down", at, policy)
    return breaker


def test_the_fifth_failure_in_a_row_opens_it_for_five_minutes() -> None:
    """Q-F8"""
    breaker = Breaker()
    for number in range(1, 5):
        breaker = breaker.failed("down", NOON, POLICY)
        assert (breaker.failures, breaker.phase(NOON)) == (number, "closed")
    breaker = breaker.failed("down", NOON, POLICY)
    assert breaker.phase(NOON) == "open"
    assert breaker.open_until == after(300)
    assert breaker.reason == "down"


def test_a_success_between_failures_starts_the_count_again() -> None:
    """Q-F8: five in a row, not five in all."""
    breaker = Breaker()
    for _ in range(20):
        for _ in range(4):
            breaker = breaker.failed("down", NOON, POLICY)
        breaker = breaker.succeeded(NOON)
    assert breaker == Breaker()


def test_what_comes_in_while_it_is_open_was_begun_before_and_changes_nothing() -> None:
    opened = a_breaker_that_opened()
    assert opened.failed("down", after(299), POLICY) == opened
    assert opened.succeeded(after(299)) == opened


def test_when_its_time_is_over_a_success_closes_it() -> None:
    opened = a_breaker_that_opened()
    assert opened.phase(after(300)) == "half_open"
    probing = opened.probed(after(300), POLICY)
    assert probing.phase(after(301)) == "probing"
    assert probing.succeeded(after(301)) == Breaker()


def test_a_probe_that_never_reports_ends_by_itself() -> None:
    """Q-F8"""
    probing = a_breaker_that_opened().probed(after(300), POLICY)
    assert probing.phase(after(419)) == "probing"
    assert probing.phase(after(420)) == "half_open"


def test_every_failed_probe_doubles_the_time_up_to_an_hour() -> None:
    breaker, now, times = a_breaker_that_opened(), NOON, []
    for _ in range(7):
        assert breaker.open_until is not None
        times.append((breaker.open_until - now).total_seconds())
        now = breaker.open_until
        breaker = breaker.probed(now, POLICY).failed("still down", now, POLICY)
    assert times == [300, 600, 1200, 2400, 3600, 3600, 3600]


def test_a_reply_that_names_a_time_opens_it_at_once_for_that_time() -> None:
    """Q-F8: Gmail's 4.7.28 stops its key for ten minutes, then doubles; a day stays a day."""
    throttled = Breaker().throttled(600, "rate", NOON, POLICY)
    assert throttled.open_until == after(600)
    assert throttled.throttled(600, "rate", after(600), POLICY).open_until == after(600 + 1200)
    listed = Breaker().throttled(86_400, "listed", NOON, POLICY)
    assert listed.throttled(86_400, "listed", after(86_400), POLICY).open_until == after(2 * 86_400)


def test_while_it_is_open_only_a_longer_time_counts() -> None:
    throttled = Breaker().throttled(600, "rate", NOON, POLICY)
    assert throttled.throttled(60, "rate", after(10), POLICY) == throttled
    assert throttled.throttled(3600, "reputation", after(10), POLICY).open_until == after(3610)


def test_a_server_is_the_same_on_every_port() -> None:
    """RFC 8314 3.3"""
    assert {server_of("SMTP.a.test", port) for port in (25, 465, 587, 2525, 2465, 2587, 588, 80)} == {"smtp.a.test"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "::1"])
def test_on_this_machine_a_port_of_its_own_is_a_server_of_its_own(host: str) -> None:
    """Tunnels to different servers end here."""
    assert {server_of(host, port) for port in (25, 465, 587, 2525)} == {host}
    assert [server_of(host, port) for port in (2526, 1465)] == [f"{host}:2526", f"{host}:1465"]


def test_a_mail_without_an_egress_address_has_no_key_for_one() -> None:
    route = {"smtp_host": "smtp.a.test", "mailbox_id": 17, "sender_domain": "a.test", "recipient_provider": "google"}
    keys = keys_of(**route, egress_address=None)  # type: ignore[arg-type]
    assert keys == ("host:smtp.a.test", "mailbox:17", "domain:a.test>google via smtp.a.test")
    assert keys_of(**route, egress_address="192.0.2.1") == (*keys, "ip:192.0.2.1>google via smtp.a.test")  # type: ignore[arg-type]


KEYS = ("host:a", "mailbox:1", "domain:a.test>google via a", "ip:192.0.2.1>google via a")
HOST, MAILBOX, DOMAIN, ADDRESS = KEYS


def a_disposition(scope: Scope = "host", action: Action = "retry", wait_s: int | None = None) -> Disposition:
    return Disposition(False, wait_s, scope, action, "a_rule", "it failed")


def test_a_mail_is_blocked_until_the_last_of_its_breakers_may_be_asked() -> None:
    known = {HOST: a_breaker_that_opened(), DOMAIN: Breaker().throttled(3600, "rate", NOON, POLICY)}
    blocked, probed = admit({1: KEYS, 2: ("mailbox:2",)}, known, after(10), POLICY)
    assert {slot_id: found.retry_at for slot_id, found in blocked.items()} == {1: after(3600)}
    assert blocked[1].reason == f"{DOMAIN} is left alone: rate"
    assert probed == {}


def test_of_all_that_ask_the_first_probes_and_the_others_wait_for_it() -> None:
    """Towards Q-F8"""
    known = {HOST: a_breaker_that_opened()}
    blocked, probed = admit({3: KEYS, 1: KEYS, 2: KEYS}, known, after(300), POLICY)
    assert {slot_id: found.retry_at for slot_id, found in blocked.items()} == {1: after(420), 2: after(420)}
    assert probed == {HOST: known[HOST].probed(after(300), POLICY)}
    assert known == {HOST: a_breaker_that_opened()}


def test_a_mail_that_another_breaker_blocks_takes_no_probe() -> None:
    known = {HOST: a_breaker_that_opened(), MAILBOX: a_breaker_that_opened(after(299))}
    blocked, probed = admit({1: KEYS, 2: (HOST, "mailbox:2")}, known, after(300), POLICY)
    assert set(blocked) == {1}
    assert set(probed) == {HOST}


@pytest.mark.parametrize(
    ("scope", "blamed"),
    [
        ("host", {HOST}),
        ("mailbox", {MAILBOX}),
        ("sender_domain", {DOMAIN}),
        ("egress_ip", {ADDRESS}),
        ("sender_domain_or_ip", {DOMAIN, ADDRESS}),
        ("message", set()),
        ("recipient", set()),
    ],
)
def test_a_failure_counts_against_the_keys_of_its_scope(scope: Scope, blamed: set[str]) -> None:
    outcomes = [(KEYS, a_disposition(scope))]
    assert failing(outcomes) == blamed
    changed = take_in(outcomes, dict.fromkeys(KEYS, Breaker()), NOON, POLICY)
    assert {key: breaker.failures for key, breaker in changed.items()} == dict.fromkeys(blamed, 1)


def test_what_a_provider_limits_without_an_address_of_ours_is_the_domain() -> None:
    assert failing([((HOST, MAILBOX, DOMAIN), a_disposition("egress_ip"))]) == {DOMAIN}


def test_a_mail_that_was_sent_is_a_success_for_all_its_keys_and_a_refusal_for_the_host_alone() -> None:
    known = {key: Breaker(failures=3, reason="down") for key in KEYS}
    assert take_in([(KEYS, None)], known, NOON, POLICY) == dict.fromkeys(KEYS, Breaker())
    assert take_in([(KEYS, a_disposition("recipient", "suppress"))], known, NOON, POLICY) == {HOST: Breaker()}


@pytest.mark.parametrize(("action", "opens"), [("throttle", True), ("stop_and_alert", True), ("retry", False)])
def test_a_time_that_the_server_named_opens_at_once_unless_it_is_about_the_message(action: Action, opens: bool) -> None:
    """Towards Q-F8"""
    changed = take_in([(KEYS, a_disposition("sender_domain", action, 600))], {DOMAIN: Breaker()}, NOON, POLICY)
    assert (changed[DOMAIN].open_until == after(600)) is opens


def test_outcomes_are_taken_in_one_after_the_other() -> None:
    failed, sent = (KEYS, a_disposition()), (KEYS, None)
    known = {HOST: Breaker()}
    assert take_in([failed] * 5, known, NOON, POLICY)[HOST].phase(NOON) == "open"
    assert take_in([failed] * 4 + [sent, failed], known, NOON, POLICY)[HOST].failures == 1
    assert take_in([failed, sent], known, NOON, POLICY) == {}


events = st.lists(
    st.tuples(st.sampled_from(["success", "failure", "throttle", "probe"]), st.integers(0, 2000)), max_size=60
)
policies = st.builds(BreakerPolicy, failures=st.integers(1, 6), open_s=st.integers(1, 600))


@given(events, policies)
def test_no_history_breaks_the_rules_of_a_breaker(history: list[tuple[str, int]], policy: BreakerPolicy) -> None:
    """Invariants: open after so many failures in a row, never for longer than promised, and never shortened."""
    breaker, now, in_a_row = Breaker(), NOON, 0
    for event, seconds in history:
        now += timedelta(seconds=seconds)
        before, phase = breaker, breaker.phase(now)
        if event == "success":
            breaker, in_a_row = breaker.succeeded(now), 0
        elif event == "failure":
            breaker, in_a_row = breaker.failed("down", now, policy), in_a_row + 1
        elif event == "throttle":
            breaker, in_a_row = breaker.throttled(600, "rate", now, policy), in_a_row + 1
        elif phase == "half_open":
            breaker = breaker.probed(now, policy)
            assert breaker.phase(now) == "probing"
        assert breaker.failures <= policy.failures + len(history)
        if event in ("failure", "throttle") and in_a_row >= policy.failures:
            assert breaker.phase(now) == "open"
        if breaker.open_until is not None:
            assert breaker.open_until <= now + timedelta(seconds=max(policy.longest_open_s, 600))
        if phase == "open":
            assert breaker.open_until is not None
            assert before.open_until is not None
            assert breaker.open_until >= before.open_until
        if event == "success" and phase != "open":
            assert breaker == Breaker()
