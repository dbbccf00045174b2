"""What a message is that came back, by itself and with what is known; and that nothing stops the reading."""

from __future__ import annotations

from dataclasses import fields
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from emberflow.email_ops.classify import Classification, TokenSlot, classify, settle
from emberflow.email_ops.matching import SentMail
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS
from emberflow.email_ops.tokens import WarmupToken, sign
from tests.unit.email_ops.returned_mail import (
    MAILBOX,
    MESSAGE_ID,
    ORIGINAL,
    RECIPIENT,
    a_feedback_report,
    a_message,
    a_multipart,
    a_recipient,
    a_report,
)  # fmt: skip

KEYS = [SecretStr("k" * 32)]
TOKEN = WarmupToken(slot_id=7, sender_id=1, bot_id=2, turn=1)
SIGNED = sign(KEYS, 7, 1, 2, 1)
SENT = SentMail(1, (MESSAGE_ID,), MAILBOX, RECIPIENT, "Soup on Friday", slot_id=7)
SLOT = TokenSlot(TOKEN, to_address=MAILBOX)


def warm_up(token: str = SIGNED) -> Classification:
    found = classify(a_message(fields={"X-Emberflow-Token": token, "X-Emberflow-Warmup": "automated"}))
    assert found.kind == "warm_up"
    return found


def test_a_warm_up_mail_is_known_by_its_header_whatever_else_it_says() -> None:
    """Towards B-B4"""
    raw = a_message("Please unsubscribe me", subject="Undeliverable: x", fields={"X-Emberflow-Token": SIGNED})
    found = classify(raw)
    assert (found.kind, found.token, found.evidence[0].where) == ("warm_up", SIGNED, "header X-Emberflow-Token")


@pytest.mark.parametrize(
    ("token", "slots", "verdict"),
    [
        (SIGNED, [SLOT], "genuine"),
        (SIGNED, [TokenSlot(TOKEN, MAILBOX, placed_as="<answer.1@south.test>")], "genuine"),
        (SIGNED, [TokenSlot(TOKEN, MAILBOX, placed_as="<another.copy@south.test>")], "reused"),
        (SIGNED, [TokenSlot(TOKEN, "other@north.test")], "unknown"),
        (SIGNED, [TokenSlot(WarmupToken(7, 1, 3, 1), MAILBOX)], "unknown"),
        (SIGNED, [], "unknown"),
        (sign([SecretStr("x" * 32)], 7, 1, 2, 1), [SLOT], "forged"),
        ("nonsense", [SLOT], "malformed"),
    ],
)
def test_a_token_is_believed_with_its_key_its_slot_and_its_mailbox(
    token: str, slots: list[TokenSlot], verdict: str
) -> None:
    """Towards B-B4"""
    settled = settle(warm_up(token), mailbox=MAILBOX, sent=[], keys=KEYS, slots=slots)
    assert (settled.kind, settled.warm_up, settled.counts) == ("warm_up", verdict, verdict == "genuine")


def test_a_label_without_a_token_is_worth_nothing() -> None:
    found = classify(a_message(fields={"X-Emberflow-Warmup": "automated"}))
    settled = settle(found, mailbox=MAILBOX, sent=[], keys=KEYS, slots=[SLOT])
    assert (settled.kind, settled.warm_up, settled.counts) == ("warm_up", "malformed", False)


def test_what_is_from_the_mailbox_itself_is_its_own_copy() -> None:
    """Towards E-B4"""
    raw = a_message(sender=f"Ann <{MAILBOX.upper()}>", to=RECIPIENT, subject="Re: Soup")
    assert classify(raw, mailbox=MAILBOX).kind == "own_copy"
    assert classify(raw, mailbox="other@north.test").kind == "human_reply"


def test_a_copy_under_an_alias_is_known_by_its_message_id() -> None:
    """Towards E-B4"""
    found = classify(a_message(sender="ann.alias@north.test", subject="Re: Soup", fields={"Message-ID": MESSAGE_ID}))
    settled = settle(found, mailbox=MAILBOX, sent=[SENT])
    assert (settled.kind, settled.counts) == ("own_copy", False)


def test_a_bounce_from_the_own_address_is_a_bounce() -> None:
    """Some servers return mail in the sender's own name."""
    raw = a_report().replace(b"MAILER-DAEMON@mx.north.test", MAILBOX.encode())
    assert classify(raw, mailbox=MAILBOX).kind == "bounce"


@pytest.mark.parametrize(
    ("fields", "subject", "where"),
    [
        ({"In-Reply-To": MESSAGE_ID}, "Soup", "header In-Reply-To"),
        ({"References": f"<x@y.test> {MESSAGE_ID}"}, "Soup", "header References"),
        ({}, "AW: Soup", "header Subject"),
    ],
)
def test_a_persons_answer_names_what_made_it_one(fields: dict[str, str], subject: str, where: str) -> None:
    """Towards E-B6"""
    found = classify(a_message("Yes, please.", subject=subject, fields=fields))
    assert (found.kind, found.auto, found.evidence[0].where) == ("human_reply", False, where)


@pytest.mark.parametrize(
    ("sender", "fields"),
    [
        ("Bo <bo@south.test>", {}),
        ("Soup <no-reply@south.test>", {"In-Reply-To": MESSAGE_ID}),
        ("Soup <soup@south.test>", {"List-Id": "<soup.south.test>", "In-Reply-To": MESSAGE_ID}),
        ("Soup <soup@south.test>", {"Precedence": "bulk"}),
    ],
)
def test_anything_else_is_other(sender: str, fields: dict[str, str]) -> None:
    """Towards E-B6"""
    assert classify(a_message("Soup is on.", sender=sender, subject="Soup", fields=fields)).kind == "other"


@pytest.mark.parametrize(
    ("fields", "subject", "method"),
    [
        ({"In-Reply-To": MESSAGE_ID, "References": "<root@north.test>"}, "Re: x", "in_reply_to"),
        ({"In-Reply-To": "<new@south.test>", "References": f"{MESSAGE_ID} <new@south.test>"}, "Re: x", "references"),
        ({}, "Re: Soup on Friday", "from_to_subject"),
        ({}, "Soup on Friday", "from_to_subject"),
    ],
)
def test_an_answer_is_matched_and_the_way_is_kept(fields: dict[str, str], subject: str, method: str) -> None:
    """E-B5"""
    settled = settle(classify(a_message("Yes.", subject=subject, fields=fields)), mailbox=MAILBOX, sent=[SENT])

    assert (settled.kind, settled.counts) == ("human_reply", True)
    assert settled.match is not None
    assert (settled.match.mail, settled.match.method) == (SENT, method)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_line_ends_of_files_make_no_difference(end: bytes) -> None:
    assert classify(a_report().replace(b"\r\n", end)) == classify(a_report())


def test_what_is_none_of_ours_counts_for_nothing() -> None:
    settled = settle(classify(a_message("Soup is on.", subject="Soup")), mailbox=MAILBOX, sent=[SENT])
    assert (settled.kind, settled.counts) == ("other", False)


def test_an_answer_to_nothing_is_matched_by_nothing() -> None:
    """Towards E-B5"""
    raw = a_message("Yes.", subject="Re: Stew", fields={"In-Reply-To": "<unknown@x.test>"})
    assert settle(classify(raw), mailbox=MAILBOX, sent=[SENT]).match is None


def test_a_genuine_bounce_counts() -> None:
    """Towards E-B6"""
    settled = settle(classify(a_report()), mailbox=MAILBOX, sent=[SENT])
    assert settled.counts
    assert settled.match is not None
    assert settled.match.method == "in_reply_to"


def test_a_bounce_is_tied_by_the_token_where_a_relay_wrote_its_own_message_id() -> None:
    """Towards E-B5"""
    original = ORIGINAL.replace(MESSAGE_ID, "<relay@x.test>") + f"X-Emberflow-Token: {SIGNED}\r\n"
    settled = settle(classify(a_report(original=original)), mailbox=MAILBOX, sent=[SENT], keys=KEYS)
    assert settled.counts
    assert settled.match is not None
    assert settled.match.method == "token"


FORGERIES = {
    "a mail that was never sent": a_report(original=ORIGINAL.replace(MESSAGE_ID, "<made.up@north.test>")),
    "people and subject alone": a_report(original=ORIGINAL.replace(f"Message-ID: {MESSAGE_ID}\r\n", "")),
    "a real mail and another recipient": a_report(a_recipient("victim@south.test")),
    "nothing returned": a_report(original=""),
    "a forged token": a_report(
        original=ORIGINAL.replace(MESSAGE_ID, "<x@y.test>")
        + f"X-Emberflow-Token: {sign([SecretStr('x' * 32)], 7, 1, 2, 1)}\r\n"
    ),
    "in words": a_message(
        f"I'm afraid I wasn't able to deliver your message.\r\n\r\n<{RECIPIENT}>:\r\n550 5.1.1 no such user\r\n",
        sender="MAILER-DAEMON@mx.south.test",
        subject="failure notice",
    ),
    "a complaint about a mail that was never sent": a_feedback_report(original=ORIGINAL.replace("abc", "xyz")),
    "a complaint in another's name": a_feedback_report(
        "Feedback-Type: abuse\r\nOriginal-Rcpt-To: victim@south.test\r\n"
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_strangers_report_counts_for_nothing(forgery: str) -> None:
    """E-B6: it keeps its kind, so that it can be seen, and nothing follows from it."""
    found = classify(FORGERIES[forgery])
    settled = settle(found, mailbox=MAILBOX, sent=[SENT], keys=KEYS)

    assert found.kind in ("bounce", "complaint")
    assert (settled.kind, settled.counts) == (found.kind, False)
    assert settled.evidence[-1].where == "what was sent"


def test_a_genuine_report_in_another_mailbox_counts_for_nothing() -> None:
    """Towards E-B6: it was not that mailbox which sent the mail."""
    assert not settle(classify(a_report()), mailbox="kim@north.test", sent=[SENT]).counts


def nested(levels: int) -> bytes:
    parts = "".join(
        f'--b{level}\r\nContent-Type: multipart/mixed; boundary="b{level + 1}"\r\n\r\n' for level in range(levels)
    )
    return f'Subject: x\r\nContent-Type: multipart/report; boundary="b0"\r\n\r\n{parts}'.encode() + b"\r\n" * 60_000


NOTICE = b"From: MAILER-DAEMON@x.test\r\nSubject: failure notice\r\n"
ABSENT = b"From: bo@south.test\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n"
PERSON = b"From: bo@south.test\r\nSubject: Re: Soup\r\nIn-Reply-To: <a@b.test>\r\n"
HTML = b"Content-Type: text/html\r\n"
HOSTILE = {
    "deep parts": nested(40),
    "too deep parts": nested(1_000),
    "10 MB of text": PERSON + b"\r\n" + b"word word word\r\n" * 650_000,
    "10 MB in one line": PERSON + b"\r\n" + b"x" * 10_000_000,
    "10 MB of a bounce": NOTICE + b"\r\n" + b"550 5.1.1 <bo@south.test> unknown\r\n" * 280_000,
    "NULs": NOTICE + b"\r\n" + b"\0" * 200_000,
    "empty lines": NOTICE + b"\r\n" + b"\n" * 250_000,
    "addresses": NOTICE + b"\r\n" + b"a@b.test " * 28_000,
    "expansions": NOTICE + b"\r\n" + b"(expanded from: a@b.test" * 10_000,
    "codes": NOTICE + b"\r\n" + b"5.1." * 60_000,
    "open comments": NOTICE + HTML + b"\r\n" + b"<!--" * 60_000,
    "open styles": PERSON + HTML + b"\r\n" + b"<style>" * 30_000,
    "quotations": PERSON + b"\r\n" + b"On 1 a wrote " * 20_000,
    "cues": ABSENT + b"\r\n" + b"until 1 " * 30_000,
    "many reports": a_report(*[a_recipient(f"x{number}@south.test") for number in range(1_000)]),
    "empty reports": a_report("\r\n" * 100_000),
    "fields of reports in a text": NOTICE + b"\r\n" + b"Final-Recipient: x\r\n" * 12_000,
    "parameters": b"Content-Type: multipart/report" + b";a=b" * 15_000 + b"\r\n\r\nhi",
    "a charset that is none": PERSON + b'Content-Type: text/plain; charset="undefined\0"\r\n\r\nhello\r\n',
    "a slow charset": PERSON + b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"a-" * 100_000,
    "broken words": b"Subject: =?utf-8?b?" + b"?=" * 20_000 + b"\r\n\r\nhi",
    "nothing": b"",
    "no header": b"\r\n\r\n\r\n",
    "no body": b"Subject: failure notice",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_stranger_sends_stops_the_reading(kind: str) -> None:
    """E-F3: always a result, in a fraction of the time after which a parsing process is ended."""
    classify(PERSON + b"\r\nhi")  # what is imported when it is first needed is not the message's time
    began = process_time()
    found = classify(HOSTILE[kind])
    assert found.evidence
    assert process_time() - began < MESSAGE_CPU_SECONDS


def test_a_message_that_cannot_be_taken_apart_is_known_by_its_header() -> None:
    raw = a_multipart(
        ["Content-Type: text/plain\r\n\r\nhi"] * 200, "multipart/mixed", sender=RECIPIENT, subject="Re: x"
    )
    found = classify(raw)
    assert (found.kind, found.evidence[-1].where) == ("human_reply", "the body")


SEEDS = [
    a_report(), a_feedback_report(), a_message("I am away until 1 July", fields={"Auto-Submitted": "auto-replied"}),
    a_message("Please remove me from your list", fields={"In-Reply-To": MESSAGE_ID}), a_report("", original=""),
    a_message("<b>550</b> user unknown", sender="MAILER-DAEMON@x.test", fields={"Content-Type": "text/html"}),
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_no_damage_to_a_message_raises(seed: bytes, data: st.DataObject) -> None:
    """E-F3: cut, doubled, and with any octets put in anywhere."""
    place = data.draw(st.integers(0, len(seed)))
    length = data.draw(st.integers(0, 80))
    noise = data.draw(st.binary(max_size=80))
    for damaged in (
        noise,
        seed[:place],
        seed[place:],
        seed[:place] + noise + seed[place:],
        seed[:place] + noise + seed[place + length :],
        seed[:place] + seed[place : place + length] * 3 + seed[place:],
    ):
        found = classify(damaged, mailbox=MAILBOX)
        settle(found, mailbox=MAILBOX, sent=[SENT], keys=KEYS, slots=[SLOT])


def test_every_kind_has_evidence() -> None:
    """Towards E-B6"""
    for raw in (*SEEDS, *FORGERIES.values()):
        found = classify(raw)
        assert all(evidence.where and len(evidence.says) <= 200 for evidence in found.evidence)
        assert found.evidence


def test_a_result_cannot_be_changed() -> None:
    found = classify(b"")
    with pytest.raises(AttributeError):
        setattr(found, fields(found)[0].name, "bounce")
