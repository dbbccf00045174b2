"""What a server's refusal means: the published map, row by row, and the rules for what it does not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberflow.delivery.reply_codes import PUBLISHED, Disposition, ReplyRule, SmtpReplyPolicy, judge, read_rules
from emberflow.domain.attempt import Attempt, Outcome, Scope, Stage
from emberflow.email_ops.enhanced_codes import enhanced_code
from emberflow.errors import ImportRejectedError

PUBLISHED_RULES = read_rules(PUBLISHED)
HEADER = "rule,provider,code,enhanced,text,meaning,scope,action,wait_s,source"

# Reply -> (rule, scope, action, is final). The texts are those that providers publish, shortened.
REPLIES = {
    "421 4.7.28 Gmail has detected this sender exceeded the quota for sending messages that have the same Message-ID:":
        ("google_message_id_quota", "message", "stop_and_alert", True),
    "421 4.7.28 Gmail has detected an unusual rate of email originating from your IP address 192.0.2.1. To protect":
        ("google_rate_ip", "egress_ip", "throttle", False),
    "421 4.7.28 Gmail has detected an unusual rate of unsolicited email originating from your IP Netblock 192.0.2.0":
        ("google_rate_ip", "egress_ip", "throttle", False),
    "421 4.7.28 Gmail has detected an unusual rate of unsolicited email originating from your DKIM domain a.test":
        ("google_rate_domain", "sender_domain", "throttle", False),
    "421 4.7.28 Gmail has detected an unusual rate of unsolicited email originating from your SPF domain a.test":
        ("google_rate_domain", "sender_domain", "throttle", False),
    "421 4.7.28 Gmail has detected an unusual rate of unsolicited email containing one of your URL domains.":
        ("google_rate_domain", "sender_domain", "throttle", False),
    "421 4.7.28 Gmail has detected an unusual rate of email. To protect our users from spam, email has been":
        ("google_rate_unnamed", "sender_domain_or_ip", "throttle", False),
    "421 4.7.0 This message is suspicious due to the very low reputation of the sending IP address.":
        ("google_reputation_ip", "egress_ip", "throttle", False),
    "550 5.7.1 This message is likely suspicious due to the very low reputation of the sending domain.":
        ("google_reputation_domain", "sender_domain", "throttle", True),
    "451 4.7.23 192.0.2.1 The sending IP address for this message doesn't have a PTR record, or the PTR record's":
        ("ptr_missing", "egress_ip", "stop_and_alert", False),
    "550 5.7.25 The IP address sending this message does not have a PTR record setup, or the corresponding":
        ("ptr_missing", "egress_ip", "stop_and_alert", True),
    "550 5.7.25 Client host rejected: cannot find your hostname":
        ("reverse_dns_failed", "egress_ip", "stop_and_alert", True),
    "421 4.7.29 Your email has been rate limited because you're not using a TLS connection.":
        ("tls_required", "egress_ip", "stop_and_alert", False),
    "421 4.7.27 Your email has been rate limited because SPF authentication didn't pass for this message.":
        ("spf_failed_google", "sender_domain", "stop_and_alert", False),
    "550 5.7.23 The message was rejected because of Sender Policy Framework violation":
        ("spf_failed", "sender_domain", "stop_and_alert", True),
    "451 4.7.24 The SPF record of the sending domain has one or more suspicious entries.":
        ("spf_failed", "sender_domain", "stop_and_alert", False),
    "421 4.7.30 Your email has been rate limited because DKIM authentication didn't pass for this message.":
        ("dkim_failed_google", "sender_domain", "stop_and_alert", False),
    "550 5.7.20 No passing DKIM signature found": ("dkim_failed", "sender_domain", "stop_and_alert", True),
    "421 4.7.40 Your email has been rate limited because the sending domain doesn't have a DMARC record":
        ("dmarc_missing", "sender_domain", "stop_and_alert", False),
    "550 5.7.31 Your email has been blocked because the sending domain doesn't have a DMARC record":
        ("dmarc_missing", "sender_domain", "stop_and_alert", True),
    "421 5.7.32 Your email was blocked because the From: header (RFC5322) in this message isn't aligned with":
        ("not_aligned", "sender_domain", "stop_and_alert", False),
    "550 5.7.26 This mail has been blocked because the sender is unauthenticated.":
        ("unauthenticated", "sender_domain", "stop_and_alert", True),
    "550 5.7.515 Access denied, sending domain a.test does not meet the required authentication level.":
        ("microsoft_authentication", "sender_domain", "stop_and_alert", True),
    "550 5.7.30 Basic authentication is not supported for Client Submission.":
        ("microsoft_basic_auth_off", "mailbox", "pause_mailbox", False),
    "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.":
        ("microsoft_basic_auth_off", "mailbox", "pause_mailbox", False),
    "550 5.7.705 Access denied, tenant has exceeded threshold.":
        ("microsoft_tenant_over_limit", "mailbox", "throttle", False),
    "550 5.7.708 Access denied, traffic not accepted from this IP.":
        ("microsoft_ip_refused", "egress_ip", "stop_and_alert", True),
    "550 5.7.606 Access denied, banned sending IP [192.0.2.1]":
        ("microsoft_ip_refused", "egress_ip", "stop_and_alert", True),
    "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)":
        ("microsoft_ip_throttled", "egress_ip", "throttle", False),
    "450 4.2.1 Peak SMTP relay limit exceeded for this customer. This is a temporary error.":
        ("google_relay_peak", "mailbox", "throttle", False),
    "450 4.2.1 The user you are trying to contact is receiving email too quickly.":
        ("recipient_rate", "recipient", "retry", False),
    "550 5.2.1 The user you are trying to contact is receiving email at a rate that prevents additional messages":
        ("recipient_rate_refused", "recipient", "give_up", True),
    "550 5.2.1 The email account that you tried to reach is inactive.":
        ("recipient_disabled", "recipient", "suppress", True),
    "554 5.2.2 mailbox full; STOREDRV.Submission: submission quota exceeded":
        ("submission_quota", "mailbox", "throttle", False),
    "550 5.7.1 Daily SMTP relay sending limit exceeded for this customer.":
        ("submission_quota", "mailbox", "throttle", False),
    "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits":
        ("submission_quota", "mailbox", "throttle", False),
    "550 5.4.5 You have reached a limit for sending mail.": ("daily_limit", "mailbox", "throttle", False),
    "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients":
        ("microsoft_daily_limit", "mailbox", "throttle", False),
    "452 4.2.2 The recipient's inbox is out of storage space.": ("recipient_full", "recipient", "retry", False),
    "552 5.2.2 The recipient's inbox is out of storage space and inactive.":
        ("recipient_full_refused", "recipient", "give_up", True),
    "550 5.1.1 The email account that you tried to reach does not exist.":
        ("recipient_invalid", "recipient", "suppress", True),
    "553 5.1.2 We weren't able to find the recipient domain.": ("recipient_invalid", "recipient", "suppress", True),
    "553 5.1.3 The recipient address is not a valid RFC 5321 address.":
        ("recipient_invalid", "recipient", "suppress", True),
    "554 delivery error: dd This user doesn't have a yahoo.com account": (
        "recipient_unknown", "recipient", "suppress", True,
    ),
    "550 No such user here": ("recipient_unknown", "recipient", "suppress", True),
    "550 5.7.0 Email relay denied. The sending email account has been temporarily suspended due to abuse.":
        ("sender_suspended", "mailbox", "pause_mailbox", False),
    "550 5.1.8 Access denied, bad outbound sender AS(42004)":
        ("microsoft_bad_sender", "mailbox", "pause_mailbox", False),
    "535 5.7.8 Username and Password not accepted.": ("login_refused", "mailbox", "pause_mailbox", False),
    "534 5.7.14 Please log in through your web browser and then try again.":
        ("login_refused", "mailbox", "pause_mailbox", False),
    "530 5.7.0 Authentication required.": ("login_required", "mailbox", "stop_and_alert", False),
    "454 4.7.0 Too many login attempts, please try again later.": ("too_many_logins", "mailbox", "throttle", False),
    "454 4.7.0 Cannot authenticate due to a temporary system problem.":
        ("login_unavailable", "mailbox", "retry", False),
    "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints":
        ("yahoo_deferred", "egress_ip", "throttle", False),
    "451 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred":
        ("yahoo_deferred", "egress_ip", "throttle", False),
    "421 Message from (192.0.2.1) temporarily deferred - 4.16.50":
        ("yahoo_deferred_unnamed", "egress_ip", "throttle", False),
    "550 5.7.1 Blocked, a.test is listed: see https://www.spamhaus.org DBL":
        ("listed_domain", "sender_domain", "stop_and_alert", True),
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org":
        ("listed_ip", "egress_ip", "stop_and_alert", True),
    "550 5.7.1 messages weren't sent: part of their network is on our block list (S3140)":
        ("listed_ip", "egress_ip", "stop_and_alert", True),
    "450 4.2.0 Recipient address rejected: Greylisted": ("greylisted", "recipient", "retry", False),
    "452 4.3.1 Insufficient system storage": ("storage_short", "host", "retry", False),
    "550 5.7.1 This message is likely unsolicited email.": ("content_refused", "message", "give_up", True),
    "421 4.3.2 Service shutting down": ("service_unavailable", "host", "retry", False),
    "550 5.7.60 SMTP; Client does not have permissions to send as this sender":
        ("microsoft_send_as", "mailbox", "pause_mailbox", False),
    "553 5.7.1 <ann@a.test>: Sender address rejected: not owned by user bo@a.test":
        ("from_not_allowed", "mailbox", "pause_mailbox", False),
    "554 5.7.1 <bo@b.test>: Relay access denied": ("relay_denied", "mailbox", "pause_mailbox", False),
    "550 Domain a.test has exceeded the max emails per hour (125/100 (125%)) allowed. Message discarded.":
        ("sending_limit_hour", "mailbox", "throttle", False),
    "550 5.7.1 Sender daily message quota reached": ("sending_limit_day", "mailbox", "throttle", False),
    "554 5.2.0 Message sending limit reached for this mailbox": ("sending_limit", "mailbox", "throttle", False),
    "550 5.4.6 Unusual sending activity detected. Please try after sometime.":
        ("unusual_activity", "mailbox", "throttle", False),
    "432 4.3.2 Concurrent connections limit exceeded.": ("sender_concurrency", "mailbox", "throttle", False),
    "550 5.7.1 Too many invalid recipients": ("too_many_unknown", "mailbox", "throttle", False),
    "550 5.7.1 Sender on recipient's personal black list": ("personal_list", "recipient", "give_up", True),
    "554 5.7.1 Message contains a URL listed in SURBL": ("listed_link", "message", "give_up", True),
    "550 5.7.1 Sender address is blacklisted": ("listed_sender", "sender_domain", "stop_and_alert", True),
    "450 4.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org":
        ("listed_for_now", "egress_ip", "throttle", False),
    "450 4.1.8 <ann@a.test>: Sender address rejected: Domain not found":
        ("sender_domain_unknown", "sender_domain", "stop_and_alert", False),
    "550 Sender verify failed": ("sender_unverified", "message", "give_up", True),
    "552 mailbox unavailable: over quota": ("recipient_full_text", "recipient", "give_up", True),
    "550 mailbox bo@b.test is inactive": ("recipient_disabled_text", "recipient", "suppress", True),
    "550 #5.1.0 Address rejected.": ("recipient_rejected_cisco", "recipient", "suppress", True),
    "550 5.4.1 [bo@b.test]: Recipient address rejected: Access denied":
        ("recipient_rejected_microsoft", "recipient", "suppress", True),
    "550 Requested action not taken: mailbox unavailable": ("mailbox_unavailable", "recipient", "suppress", True),
}  # fmt: skip


def an_attempt(
    reply: str | None, stage: Stage = "rcpt", outcome: Outcome | None = None, scope: Scope | None = None
) -> Attempt:
    """An attempt that was answered with ``reply``, as the SMTP driver reports it; None: there was no answer."""
    if reply is None:
        return Attempt(outcome or "transient", stage, scope or "host", None, None, "TimeoutError: timed out")
    code, _, text = reply.partition(" ")
    usual: Scope = "host" if code == "421" else "mailbox" if stage == "auth" else "message"
    return Attempt(
        outcome or ("permanent" if code[0] == "5" else "transient"),
        stage, scope or usual, int(code), enhanced_code(int(code), text), text,
    )  # fmt: skip


def a_rule(**changes: Any) -> ReplyRule:
    row = {"rule": "own", "code": "450", "meaning": "m", "scope": "host", "action": "retry", "source": "s"}
    return ReplyRule.model_validate(row | changes)


def disposition_of(attempt: Attempt, provider: str = "") -> Disposition:
    return judge(attempt, provider=provider, rules=PUBLISHED_RULES)


@pytest.mark.parametrize(("reply", "expected"), REPLIES.items(), ids=list(REPLIES))
def test_a_published_reply_is_judged_as_the_map_says(reply: str, expected: tuple[str, str, str, bool]) -> None:
    """Q-F8, E-F6: Gmail's 4.7.28 and its like act per named key."""
    disposition = disposition_of(an_attempt(reply), "yahoo" if "4.16.50" in reply else "")
    assert (disposition.rule, disposition.scope, disposition.action, disposition.final) == expected


def test_every_row_of_the_published_map_has_an_example_and_a_source() -> None:
    assert {rule for rule, *_ in REPLIES.values()} == {rule.rule for rule in PUBLISHED_RULES}
    assert all(rule.source.startswith("https://") for rule in PUBLISHED_RULES)


def test_gmails_rate_limit_waits_ten_minutes_and_a_listing_a_day() -> None:
    """Q-F8"""
    assert disposition_of(an_attempt("421 4.7.28 an unusual rate of email")).wait_s == 600
    assert disposition_of(an_attempt("554 5.7.1 blocked using zen.spamhaus.org")).wait_s == 86_400


def test_only_a_reply_that_may_be_about_the_recipient_suppresses_it() -> None:
    """The same words said at MAIL or to a login are about us."""
    reply = "550 5.1.1 no such user"
    assert disposition_of(an_attempt(reply, "rcpt")).action == "suppress"
    assert disposition_of(an_attempt(reply, "eod")).action == "suppress"
    assert disposition_of(an_attempt(reply, "mail", scope="mailbox")).action == "pause_mailbox"
    assert disposition_of(an_attempt(reply, "auth")).action == "pause_mailbox"


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (an_attempt("499 what is this"), ("class_4", "recipient", "retry", False)),
        (an_attempt("451 4.3.0 try later", "eod"), ("class_4", "message", "retry", False)),
        (an_attempt("599 what is this"), ("class_5", "recipient", "give_up", True)),
        (an_attempt("550 5.9.9 no", "eod"), ("class_5", "message", "give_up", True)),
        (an_attempt("500 no", "auth"), ("class_5", "mailbox", "pause_mailbox", False)),
        (an_attempt("554 no SMTP service here", "dial", scope="host"), ("class_5", "host", "stop_and_alert", False)),
        (an_attempt(None, "dial"), ("no_reply", "host", "retry", False)),
        (an_attempt(None, "tls", "permanent"), ("no_reply", "host", "stop_and_alert", False)),
        (an_attempt(None, "data", scope="message"), ("no_reply", "message", "retry", False)),
    ],
)
def test_what_no_rule_names_is_judged_by_its_first_digit(
    attempt: Attempt, expected: tuple[str, str, str, bool]
) -> None:
    """RFC 5321 4.2.1; a fault of login or host never burns the message."""
    disposition = disposition_of(attempt)
    assert (disposition.rule, disposition.scope, disposition.action, disposition.final) == expected


@given(
    text=st.sampled_from(sorted(REPLIES)),
    stage=st.sampled_from(["dial", "tls", "ehlo", "auth", "mail", "rcpt", "data", "eod"]),
    scope=st.sampled_from(["message", "mailbox", "host"]),
)
def test_an_uncertain_message_is_never_offered_again(text: str, stage: Stage, scope: Scope) -> None:
    """Invariant behind Q-F5: whatever the text, an uncertain attempt's disposition is final."""
    assert disposition_of(an_attempt(text, stage, "uncertain", scope)).final


@given(st.integers(400, 599), st.text(max_size=60), st.sampled_from(["rcpt", "data", "eod"]))
def test_a_refused_message_is_not_repeated_unless_the_login_or_the_host_was_refused(
    code: int, text: str, stage: Stage
) -> None:
    """Invariant, RFC 5321 4.2.1: a 5yz to a message is final."""
    disposition = disposition_of(an_attempt(f"{code} {text}", stage))
    if code >= 500:
        assert disposition.final or disposition.scope in ("mailbox", "host")
    if disposition.action == "throttle":
        assert disposition.wait_s is not None


@pytest.mark.parametrize("code", [454, 535, 550])
def test_a_login_that_is_refused_for_a_time_pauses_no_mailbox(code: int) -> None:
    """B-B10: the driver has read a limit or an outage from the words; the same code for good pauses it."""
    text = "5.7.8 Error: authentication failed: Temporary authentication failure"
    passing = Attempt("transient", "auth", "mailbox", code, None, text)
    disposition = disposition_of(passing)
    assert (disposition.action, disposition.scope, disposition.final) == ("retry", "mailbox", False)
    if code == 535:
        assert disposition_of(Attempt("permanent", "auth", "mailbox", code, None, text)).action == "pause_mailbox"


def test_a_message_that_was_sent_is_not_judged() -> None:
    with pytest.raises(ValueError, match="needs no disposition"):
        disposition_of(an_attempt("250 2.0.0 OK", "eod", "sent"))


def test_the_first_matching_rule_wins_and_a_provider_has_rules_of_its_own() -> None:
    rules = [a_rule(rule="theirs", provider="example"), a_rule(rule="anybody")]
    judged = {name: judge(an_attempt("450 no"), provider=name, rules=rules).rule for name in ("Example", "other", "")}
    assert judged == {"Example": "theirs", "other": "anybody", "": "anybody"}


def test_a_rule_may_ask_for_a_stage_and_for_words_that_must_not_be_there() -> None:
    rules = [a_rule(rule="at_rcpt", stage="rcpt|data", text="no", unless="but")]
    said: list[tuple[str, Stage]] = [("450 no", "rcpt"), ("450 no", "eod"), ("450 no, but", "rcpt")]
    judged = [judge(an_attempt(reply, stage), provider="", rules=rules).rule for reply, stage in said]
    assert judged == ["at_rcpt", "class_4", "class_4"]


def test_words_in_an_address_are_its_owners_and_decide_nothing() -> None:
    rules = [a_rule(rule="own", text="full"), a_rule(rule="other", text="busy", unless="full")]
    said = ("450 <full@b.test> no", "450 <full@b.test> busy", "450 full@b.test: busy")
    judged = [judge(an_attempt(reply), provider="", rules=rules).rule for reply in said]
    assert judged == ["class_4", "other", "other"]


def test_a_policy_of_an_earlier_release_is_still_understood() -> None:
    """Rules that were stored without the newer columns."""
    row = {"rule": "own", "code": "450", "meaning": "m", "scope": "host", "action": "retry", "source": "s"}
    assert SmtpReplyPolicy.model_validate({"own": [row], "published": [row]}).rules[0].remedy is None


def test_an_operators_own_rules_come_first_and_are_stored_with_the_policy(tmp_path: Path) -> None:
    """D-F1: a stored policy does not follow the file that it was made from."""
    file = tmp_path / "own.csv"
    file.write_text(f"{HEADER}\nown,,421,,,busy on Mondays,host,throttle,60,our contract\n")
    policy = SmtpReplyPolicy.model_validate({"own": "own.csv"}, context={"folder": tmp_path})
    stored = policy.model_dump(mode="json")
    file.unlink()

    again = SmtpReplyPolicy.model_validate(stored)

    assert again == policy
    assert judge(an_attempt("421 4.3.2 busy"), provider="", rules=again.rules).rule == "own"
    assert again.rules[1:] == PUBLISHED_RULES


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (f"{HEADER}\na,,42(1,,,m,host,retry,,s\n", ["row 2, column code: is not a regular expression"]),
        (f"{HEADER}\na,,421,,,m,planet,retry,,s\n", ["row 2, column scope: Input should be 'message'"]),
        (f"{HEADER}\na,,421,,,m,host,wait,,s\n", ["row 2, column action: Input should be 'retry'"]),
        (f"{HEADER}\na,,421,,,m,host,throttle,,s\n", ["row 2, column -: throttle needs wait_s"]),
        (f"{HEADER}\na,,421,,,m,message,throttle,60,s\n", ["use retry"]),
        (f"{HEADER}\na,,421,,,m,host,suppress,,s\n", ["suppress is for the scope recipient"]),
        (f"{HEADER}\na,,421,,,m,host,pause_mailbox,,s\n", ["pause_mailbox is for the scope mailbox"]),
        (f"{HEADER}\na,google,,,,m,host,retry,,s\n", ["matches every reply"]),
        (f"{HEADER},unless\na,,421,,,m,host,retry,,s,(\n", ["row 2, column unless: is not a regular expression"]),
        (f"{HEADER},stage\na,,421,,,m,host,retry,,s,[\n", ["row 2, column stage: is not a regular expression"]),
        (f"{HEADER}\na,,421,,,m,host,retry,soon,s\n", ["row 2, column wait_s"]),
        (f"{HEADER}\na,,421,,,m,host,retry,,\n", ["row 2, column source: is empty or missing"]),
        (f"{HEADER}\na,,421,,,one,two,host,retry,,s\n", ["row 2, column -: has more fields"]),
        (f"{HEADER}\na,,421,,,m,host,retry,,s\na,,450,,,m,host,retry,,s\n", ["row 3, column rule: a is already in"]),
        (f"{HEADER}\nA,,421,,,m,host,retry,,s\nb,,(,,,m,host,retry,,s\n", ["row 2, column rule", "row 3, column code"]),
        (f"{HEADER}\n", ["a header and no rows"]),
        (f"{HEADER},colour\n", ["row 1, column colour: is not a known column"]),
        ("rule,code\n", ["column action: the column is missing", "column source: the column is missing"]),
        ("", ["column rule: the column is missing"]),
        (f'{HEADER}\n"a,,421\n', ["cannot be read"]),
    ],
)  # fmt: skip
def test_a_map_with_mistakes_is_refused_with_row_column_and_reason(
    tmp_path: Path, content: str, problems: list[str]
) -> None:
    file = tmp_path / "own.csv"
    file.write_text(content)
    with pytest.raises(ImportRejectedError) as caught:
        read_rules(file)
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportRejectedError, match=r"(?s)missing\.csv: .*cannot be read"):
        SmtpReplyPolicy.model_validate({"own": "missing.csv"}, context={"folder": tmp_path})
