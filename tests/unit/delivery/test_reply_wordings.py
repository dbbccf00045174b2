"""What servers say in words of their own: whom it is about, and what no wording may be taken for.

The replies are wordings that the named servers and providers publish or are known to use, with invented addresses.
"""

from __future__ import annotations

import pytest

from emberflow.delivery.reply_codes import Disposition, SmtpReplyPolicy, judge
from emberflow.domain.attempt import Attempt, Outcome, Scope, Stage
from emberflow.email_ops.enhanced_codes import enhanced_code

RULES = SmtpReplyPolicy().rules

UNKNOWN_AT_RCPT = [
    "550 5.1.1 No such user here",
    "550 5.1.1 <x@y.test>: Recipient address rejected: User unknown in virtual mailbox table",  # Postfix
    "550 <x@y.test>: Recipient address rejected: User unknown in local recipient table",
    "550 5.1.1 <x@y.test>... User unknown",  # sendmail
    "553 5.3.0 <x@y.test>... No such user here",
    "550 Mailbox unknown. Either there is no mailbox associated with this name or you do not have authorization.",
    "550 Unrouteable address",  # Exim
    "550 unroutable address",
    "550 No such person at this address.",
    "550 #5.1.0 Address rejected.",  # Cisco
    "550 5.1.0 <x@y.test> Address rejected",
    "511 sorry, no mailbox here by that name (#5.1.1 - chkuser)",  # qmail
    "550 sorry, no mailbox here by that name. (#5.1.7)",
    "550 Requested action not taken: mailbox unavailable",  # RFC 5321, GMX
    "550 <x@y.test>: Requested action not taken: mailbox unavailable",
    "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302). [AM7.protection.test]",  # Outlook.com
    "550 mailbox unavailable",
    "550 Invalid recipient",
    "550 Invalid recipient <x@y.test>",
    "550 Recipient not found",
    "550 No user found",
    "550 Unknown user",
    "550 Unknown local part x in <x@y.test>",
    "550 unknown or illegal alias: x@y.test",
    "550 <x@y.test> no such address",
    "550 no such mailbox",
    "550 no such recipient",
    "554 5.7.1 <x@y.test>: Recipient address rejected: undeliverable address",
    "550 5.1.1 <x@y.test>: Recipient address rejected: undeliverable address: host mx.y.test[192.0.2.7] said: 550 no",
    "550 5.4.1 [x@y.test]: Recipient address rejected: Access denied [AM7EUR.prod.protection.test]",  # Exchange Online
    "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)",
    "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient x@y.test not found by SMTP address lookup",
    "550 5.7.1 Recipient unknown",
    "550 Account not available",
    "550 This account is unavailable",
    "550 User does not exist",
    "550 user x@y.test does not exist",
    "550 User doesn't exist: x@y.test",
    "550 the recipient's address does not exist",
    "550 5.0.0 mailbox not found",
    "550 Mailbox does not exist!",
    "550 x@y.test is not a valid mailbox",
    "550 <x@y.test> is not a known user",
    "550 not a valid recipient",
    "550 There is no one here by that name",
    "550 address unknown",
    "550 email address could not be found",
    "554 delivery error: dd This user doesn't have a y.test account (x@y.test) [0] - mta1",  # Yahoo
    "550 nonexistent user",
    "550 This address is no longer valid",
    "550 mailbox is no longer in use",
    "550 5.2.1 The email account that you tried to reach is disabled.",
    "550 mailbox x@y.test is inactive",
    "550 <x@y.test> does not exist",
    "550 There is no one at this address",
    "550 sorry, your envelope recipient is in my badrcptto list (#5.7.1)",
    "550 utilisateur inconnu",
    "550 utente sconosciuto",
    "550 usuario desconocido",
    "550 unbekannter Benutzer",
    "550-5.1.1 The email account that you tried to reach does not exist. Please try 550 5.1.1 again",
    "550 5.1.1 <spam-policy@blocked.test>: no such user",  # its owner chose those words
    "550 <quota-limit@sender.test>: user unknown",
]

NOT_ABOUT_AN_UNKNOWN_RECIPIENT = [
    # policy, content, lists
    "554 5.7.1 <x@y.test>: Recipient address rejected: Access denied",
    "550 5.7.1 <x@y.test>: Recipient address rejected: rejected by policy, unknown user agent",
    "550 5.7.1 Recipient address rejected: SPF check failed, sender unknown",
    "550-Requested action not taken: mailbox unavailable 550-Reject due to policy restrictions.",  # GMX
    "550 5.7.0 mailbox unavailable: message content rejected",
    "550 5.7.1 Message rejected: complaints of unknown users",
    "554 5.7.1 Message identified as SPAM; no such user reported it",
    "550 message rejected because the account does not exist in our list of permitted partners",
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; no such user",
    "550 virus found, user not found",
    # about the sender
    "550-Verification failed for <ann@north.test> 550-No Such User Here 550 Sender verify failed",  # Exim callout
    "550 <ann@north.test>: Sender address rejected: User unknown in relay recipient table",
    "550 5.1.8 <ann@north.test>: Sender address rejected: Domain not found",
    "550 5.1.1 sender address does not exist",
    "550 Sender unknown",
    "550 invalid sender address",
    "553 5.1.7 envelope sender invalid address",
    "550 mail from address does not exist",
    # about us
    "550 5.7.1 Relay access denied: user unknown",
    "550 relay not permitted, no such user",
    "550 5.7.1 Too many invalid recipients",
    "550 too many unknown users, slow down",
    "550 Invalid HELO name, no such user",
    "550 5.7.1 Client host rejected: cannot find your hostname",
    "550 5.7.0 Authentication required: unknown user",
    # about room and rates
    "552 mailbox unavailable: over quota",
    "552 5.2.2 Mailbox full",
    "550 user is over quota",
    "550 5.2.1 The user you are trying to contact is receiving email at a rate that prevents additional messages",
    "550 message size exceeds what this mailbox does not exist for",
    # about a domain, the DNS, or a moment
    "550 domain does not exist",
    "550 DNS records for the destination computer could not be found",
    "550 this account has been temporarily suspended",
    "550 backscatter protection detected an invalid or expired email address",
    # nothing said
    "550 Access denied",
    "550 Service not available",
    "550 Requested action not taken",
    "554 Transaction failed",
    "550 no",
]

LISTED = {
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; see the list": "egress_ip",
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.spamcop.net; Blocked - see": "egress_ip",
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using b.barracudacentral.org": "egress_ip",
    "554 Service unavailable; Client host [mx.north.test] blocked using Barracuda Reputation;": "egress_ip",
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using psbl.surriel.com": "egress_ip",
    "554 5.7.1 Client host [192.0.2.1] blocked using dnsbl.sorbs.net": "egress_ip",
    "550 JunkMail rejected - [192.0.2.1] is in an RBL: Blocked": "egress_ip",
    "550 5.7.1 Service unavailable; client [192.0.2.1] blocked using Trend Micro Email Reputation Service": "egress_ip",
    "554 5.7.1 The IP 192.0.2.1 is listed in a DNSBL": "egress_ip",
    "554 5.7.1 Your access to this mail system has been rejected due to the sending MTA's poor reputation": "egress_ip",
    "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list "
    "(S3150).": "egress_ip",
    "550 SC-001 (BAY004) Unfortunately, messages from 192.0.2.1 weren't sent": "egress_ip",
    "554 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1": "egress_ip",
    "550 5.7.1 Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.1": "egress_ip",
    "554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.test)":
        "egress_ip",
    "554-gmx.test (mxgmx104) Nemesis ESMTP Service not available 554-No SMTP service 554-IP address is block listed.":
        "egress_ip",
    "421 gmx.test (mxgmx104) Nemesis ESMTP Service not available 421 IP address is temporarily blocked": "egress_ip",
    "450 4.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org": "egress_ip",
    "550 Your IP address 192.0.2.1 has been blocked": "egress_ip",
    "550 sender IP address rejected": "egress_ip",
    "550 not currently accepting mail from your IP": "egress_ip",
    "550 dynamic/zombied/spam IPs blocked": "egress_ip",
    "554 5.7.1 Service unavailable; Sender address [ann@north.test] blocked using dbl.spamhaus.org": "sender_domain",
    "550 your domain is blacklisted": "sender_domain",
    "550 5.7.1 Sender address is blacklisted here": "sender_domain",
    "550 5.7.1 Sender on recipient's personal black list": "recipient",
    "550 You are on the user's block list": "recipient",
    "550 blocked by recipient": "recipient",
    "554 5.7.1 Message contains a URL listed in SURBL": "message",
}  # fmt: skip

LIMITS = {
    ("550 Domain north.test has exceeded the max emails per hour (125/100 (125%)) allowed. Message discarded.", "rcpt"):
        3600,
    ("550 Domain north.test has exceeded the max defers and failures per hour (5/5 (100%)) allowed.", "rcpt"): 3600,
    ("550 5.4.6 Unusual sending activity detected. Please try after sometime.", "eod"): 3600,
    ("550 send spam mail rejected: exceeded hour limit", "rcpt"): 3600,
    ("450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: Number messages per hour exceeded", "eod"): 3600,
    ("452 4.5.3 Too many recipients, hourly limit of the account reached", "rcpt"): 3600,
    ("451 4.7.1 You may send 100 mails an hour, limit reached", "mail"): 3600,
    ("432 4.3.2 Concurrent connections limit exceeded. Visit the help page", "eod"): 300,
    ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "eod"): 300,
    ("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "eod"): 3600,
    ("554 5.2.0 Message sending limit reached for this mailbox", "eod"): 3600,
    ("451 4.7.1 <ann@north.test>: Sender address rejected: Sending limit exceeded", "rcpt"): 3600,
    ("550 5.7.1 Sender daily message quota reached", "rcpt"): 86_400,
    ("554 5.7.1 You've reached your daily relay quota - ann@north.test", "rcpt"): 86_400,
    ("550 5.4.5 Daily user sending limit exceeded", "eod"): 86_400,
    ("550 5.7.1 You have exceeded the maximum of 500 messages per day", "rcpt"): 86_400,
    ("550 too many messages in 24 hours", "mail"): 86_400,
    ("454 4.7.0 Throttling failure: maximum sending rate exceeded", "eod"): 3600,
    ("550 5.7.1 Too many invalid recipients", "rcpt"): 3600,
}  # fmt: skip

NOT_A_SENDING_LIMIT = [
    "552 5.3.4 Message size exceeds fixed maximum message size of the day",
    "552 5.2.2 The recipient's mailbox is over its daily quota",
    "450 4.2.1 The user you are trying to contact is receiving email too quickly.",
    "421 4.7.0 Too many messages per hour from your IP address 192.0.2.1",
    "421 4.7.28 Gmail has detected an unusual rate of email originating from your IP address 192.0.2.1.",
    "550 5.7.1 Message rejected, we saw unusual links; try another day",
    "450 4.2.0 Greylisted, try again in an hour",
    "421 4.3.2 too many connections from your host",
]

FROM_NOT_ALLOWED = [
    ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", "eod"),
    ("554 5.2.252 SendAsDenied; ann@north.test not allowed to send as sales@north.test", "eod"),
    ("550 5.7.1 Client does not have permissions to send as this sender", "eod"),
    ("553 5.7.1 <ann@north.test>: Sender address rejected: not owned by user bo@north.test", "rcpt"),
    ("553 5.7.1 <ann@north.test>: Sender address rejected: not logged in", "rcpt"),
    ("553 5.7.1 Sender address rejected: not owned by auth user.", "mail"),
    ("554 5.7.1 <bo@south.test>: Relay access denied", "rcpt"),
    ("550 5.7.1 Unable to relay", "rcpt"),
    ("550 relay not permitted", "rcpt"),
    ("553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", "rcpt"),
    ("550 5.1.8 Access denied, bad outbound sender", "eod"),
    ("553 5.7.1 Sender is not allowed to relay emails", "rcpt"),
    ("550 Sender address is not allowed.", "rcpt"),
    ("553 Mail from must equal authorized user", "mail"),
    ("501 mail from address must be same as authorization user", "mail"),
    ("550 not local sender over smtp", "rcpt"),
]

THE_LOGIN_MAY_SEND = [
    "550 5.7.23 192.0.2.1 is not allowed to send mail from north.test. SPF",
    "550 5.7.1 SPF: host is not authorized to send from north.test, see openspf",
    "550 5.7.26 This mail has been blocked because the sender is unauthenticated.",
    "550 5.7.509 Access denied, sending domain does not pass DMARC verification",
    "554 5.7.1 <x@y.test>: Recipient address rejected: undeliverable address: host said: 554 Relay access denied",
]


def disposition_of(reply: str, stage: Stage = "rcpt") -> Disposition:
    code, text = int(reply[:3]), reply[4:]
    scope: Scope = "host" if code == 421 else "mailbox" if stage in ("auth", "mail") else "message"
    outcome: Outcome = "permanent" if code >= 500 else "transient"
    return judge(
        Attempt(outcome, stage, scope, code, enhanced_code(code, text), text), provider="y.test", rules=RULES
    )  # fmt: skip


@pytest.mark.parametrize("reply", UNKNOWN_AT_RCPT)
def test_a_recipient_that_does_not_exist_is_recognised_in_whatever_words(reply: str) -> None:
    """Towards C-B7"""
    disposition = disposition_of(reply)
    assert (disposition.action, disposition.scope, disposition.final) == ("suppress", "recipient", True), disposition


@pytest.mark.parametrize("reply", NOT_ABOUT_AN_UNKNOWN_RECIPIENT)
def test_a_refusal_for_another_reason_never_makes_a_recipient_unknown(reply: str) -> None:
    for stage in ("rcpt", "data", "eod"):
        disposition = disposition_of(reply, stage)
        assert disposition.action != "suppress", (stage, disposition)


@pytest.mark.parametrize("reply", UNKNOWN_AT_RCPT)
def test_the_same_words_at_mail_or_login_are_about_us(reply: str) -> None:
    assert disposition_of(reply, "mail").action != "suppress"
    assert disposition_of(reply, "auth").action != "suppress"


def test_the_standards_bare_words_after_the_message_may_mean_anything() -> None:
    """RFC 5321 4.2.2 gives 550 one sentence for a mailbox not found, no access, and policy."""
    reply = "550 Requested action not taken: mailbox unavailable"
    assert disposition_of(reply, "rcpt").action == "suppress"
    assert disposition_of(reply, "eod").action == "give_up"


@pytest.mark.parametrize(("reply", "scope"), LISTED.items())
def test_a_block_list_is_about_what_it_lists(reply: str, scope: str) -> None:
    """Q-F8: the address that sends, its domain, one recipient's own list, or a link in the message."""
    for stage in ("mail", "rcpt", "eod"):
        disposition = disposition_of(reply, stage)
        if scope == "recipient" and stage == "mail":
            continue
        assert disposition.scope == scope, (stage, disposition)
        assert disposition.action != "suppress"


@pytest.mark.parametrize(("said", "wait_s"), LIMITS.items())
def test_a_sending_limit_waits_as_long_as_it_lasts_and_is_the_mailboxs_own(
    said: tuple[str, Stage], wait_s: int
) -> None:
    """Q-F8: whatever the code, neither the message nor its recipient is at fault."""
    disposition = disposition_of(*said)
    assert (disposition.scope, disposition.action, disposition.wait_s, disposition.final) == (
        "mailbox",
        "throttle",
        wait_s,
        False,
    )


@pytest.mark.parametrize("reply", NOT_A_SENDING_LIMIT)
def test_sizes_recipients_and_rates_of_an_address_are_no_sending_limit(reply: str) -> None:
    disposition = disposition_of(reply)
    assert not (disposition.scope == "mailbox" and disposition.action == "throttle"), disposition


@pytest.mark.parametrize(("reply", "stage"), FROM_NOT_ALLOWED)
def test_a_login_that_may_not_send_so_stops_its_mailbox_and_says_what_to_do(reply: str, stage: Stage) -> None:
    disposition = disposition_of(reply, stage)
    assert (disposition.scope, disposition.action, disposition.final) == ("mailbox", "pause_mailbox", False), (
        disposition
    )
    assert disposition.remedy


@pytest.mark.parametrize("reply", THE_LOGIN_MAY_SEND)
def test_authentication_of_the_domain_and_what_other_servers_said_stops_no_mailbox(reply: str) -> None:
    for stage in ("rcpt", "eod"):
        assert disposition_of(reply, stage).action != "pause_mailbox"
