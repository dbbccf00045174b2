"""Removing messages and making a folder, against a server that answers from a script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pytest

from emberflow.email_ops.imap import ImapError, OwnFolder
from tests.unit.email_ops.fake_mail_servers import Authority
from tests.unit.email_ops.test_imap import a_reader, commands, selected

FLAT = [b'* LIST (\\HasNoChildren) "/" INBOX', b'* LIST (\\HasNoChildren \\Junk) "/" Junk']
INSIDE = [b'* LIST (\\HasChildren) "." INBOX', b'* LIST (\\HasNoChildren) "." INBOX.Spam']
WITH_NAMESPACE = "IMAP4rev1 MOVE UIDPLUS NAMESPACE"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_what_is_removed_is_named_where_the_server_can(authority: Authority) -> None:
    """B-B9"""
    with a_reader(authority) as (reader, server), reader:
        reader.select("Emberflow")
        assert reader.remove([5, 7])
    assert commands(server, "UID") == ["UID STORE 5,7 +FLAGS.SILENT (\\Deleted)", "UID EXPUNGE 5,7"]
    assert "EXPUNGE" not in server.commands


@pytest.mark.parametrize(
    ("marked", "is_expunged", "are_gone"), [(b"5 7", True, True), (b"4 5 7", False, False), (b"", False, True)]
)
def test_without_uidplus_a_folder_is_only_expunged_while_nobody_else_has_marked_anything_in_it(
    authority: Authority, marked: bytes, is_expunged: bool, are_gone: bool
) -> None:
    """B-B9: 4 is somebody else's, who may still want it."""
    script = {"SELECT": selected(), "UID SEARCH DELETED": [b"* SEARCH " + marked]}
    with a_reader(authority, script, capabilities_after_login="IMAP4rev1") as (reader, server), reader:
        reader.select("Emberflow")
        assert reader.remove([5, 7]) is are_gone
    assert ("EXPUNGE" in server.commands) is is_expunged


@pytest.mark.parametrize(
    ("namespace", "listed", "own"),
    [
        (b'* NAMESPACE (("" "/")) NIL NIL', FLAT, "Emberflow"),
        (b'* NAMESPACE (("INBOX." ".")) (("user." ".")) NIL', INSIDE, "INBOX.Emberflow"),
        (b'* NAMESPACE (("INBOX." "." "X-PARAM" ("x")) ("#mh/" "/")) NIL NIL', FLAT, "INBOX.Emberflow"),
        (b'* NAMESPACE (("&AOQ-/" "/")) NIL NIL', FLAT, "ä/Emberflow"),
        (b'* NAMESPACE (("" NIL)) NIL NIL', FLAT, "Emberflow"),
        (b"* NAMESPACE NIL NIL NIL", INSIDE, "INBOX.Emberflow"),
        (b"NO not today", INSIDE, "INBOX.Emberflow"),
        (None, INSIDE, "INBOX.Emberflow"),
        (None, FLAT, "Emberflow"),
        (None, FLAT[:1], "Emberflow"),
    ],
)
def test_the_folder_belongs_where_the_server_keeps_its_users_folders(
    authority: Authority, namespace: bytes | None, listed: Sequence[bytes], own: str
) -> None:
    """B-B9: RFC 2342, and by the names of the others where the server does not tell."""
    script = {"LIST": listed} | ({} if namespace is None else {"NAMESPACE": [namespace]})
    capabilities = "IMAP4rev1" if namespace is None else WITH_NAMESPACE
    with a_reader(authority, script, capabilities_after_login=capabilities) as (reader, _), reader:
        assert reader.own_folder("Emberflow") == OwnFolder(own, exists=False)


def test_a_folder_that_only_looks_like_ours_is_not_ours(authority: Authority) -> None:
    """B-B9: not one inside of another, nor one that holds no mail."""
    listed = [*FLAT, b'* LIST () "/" Work/Emberflow', b'* LIST () "/" emberflow', b'* LIST (\\Noselect) "/" Emberflow']
    with a_reader(authority, {"LIST": listed}) as (reader, _), reader:
        assert reader.own_folder("Emberflow") == OwnFolder("Emberflow", exists=False)
        assert reader.own_folder("Work") == OwnFolder("Work", exists=False)


def test_a_folder_that_has_another_use_or_an_impossible_name_is_refused(authority: Authority) -> None:
    """B-B9"""
    listed = [*FLAT, b'* LIST (\\Junk) "/" Quarantine']
    with a_reader(authority, {"LIST": listed}) as (reader, _), reader:
        with pytest.raises(ImapError, match=r"Quarantine is used otherwise: .*junk"):
            reader.own_folder("Quarantine")
        for name in ("INBOX", "Gesendet", "Trash", "Archivieren"):
            with pytest.raises(ImapError, match="another use"):
                reader.own_folder(name)
        with pytest.raises(ImapError, match="separates levels"):
            reader.own_folder("Warm/up")


def test_a_folder_is_made_and_shown(authority: Authority) -> None:
    """B-B9"""
    with a_reader(authority) as (reader, server), reader:
        reader.make_folder("Wärme")
    assert server.commands[-3:-1] == ['CREATE "W&AOQ-rme"', 'SUBSCRIBE "W&AOQ-rme"']


@pytest.mark.parametrize(
    ("refusal", "listed"),
    [
        (b"NO [ALREADYEXISTS] Mailbox already exists", FLAT),
        (b"NO it exists", [*FLAT, b'* LIST () "/" Emberflow']),
    ],
)
def test_a_folder_that_somebody_else_has_made_meanwhile_will_do(
    authority: Authority, refusal: bytes, listed: Sequence[bytes]
) -> None:
    """B-B9"""
    with a_reader(authority, {"CREATE": [refusal], "LIST": listed}) as (reader, _), reader:
        reader.make_folder("Emberflow")


def test_a_folder_that_cannot_be_made_is_an_error_and_one_that_cannot_be_shown_is_none(authority: Authority) -> None:
    """B-B9"""
    full = a_reader(authority, {"CREATE": [b"NO [OVERQUOTA] full"], "LIST": FLAT})
    with full as (reader, _), reader, pytest.raises(ImapError, match="OVERQUOTA"):
        reader.make_folder("Emberflow")
    with a_reader(authority, {"SUBSCRIBE": [b"NO no"]}) as (reader, _), reader:
        reader.make_folder("Emberflow")


def test_messages_with_a_token_are_found_and_told_by_it(authority: Authority) -> None:
    """B-B9: what is marked as deleted is left out, and of a field 1,000 bytes are read."""
    field = b"X-Emberflow-Token: abc\r\n .def\r\n\r\n"
    script = {
        "SELECT": selected(),
        "UID SEARCH": [b"* SEARCH 7 5"],
        "UID FETCH 5,7,8": [
            b"* 1 FETCH (UID 5 BODY[HEADER.FIELDS (X-Emberflow-Token)]<0> {%d}\r\n%s)" % (len(field), field),
            b"* 2 FETCH (UID 7 BODY[HEADER.FIELDS (X-Emberflow-Token)]<0> {2}\r\n\r\n)",
        ],
    }
    with a_reader(authority, script) as (reader, server), reader:
        assert reader.with_token("INBOX", is_unmarked=True, since=date(2026, 3, 1)) == (9, [5, 7])
        assert reader.field_values("X-Emberflow-Token", [5, 7, 8], "INBOX") == {5: "abc.def"}
    assert commands(server, "UID") == [
        'UID SEARCH UNDELETED SINCE 1-Mar-2026 HEADER X-Emberflow-Token ""',
        "UID FETCH 5,7,8 (UID BODY.PEEK[HEADER.FIELDS (X-Emberflow-Token)]<0.1024>)",
    ]
