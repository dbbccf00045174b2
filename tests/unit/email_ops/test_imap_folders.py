"""Which folder is Junk: by its attribute, by its name in any language, and never by chance."""

from __future__ import annotations

import time

import pytest
from imap_tools.utils import encode_folder

from emberflow.email_ops.imap_folders import Folder, read_listed, special_folder


def listed(*lines: bytes | tuple[bytes, bytes]) -> list[Folder]:
    return read_listed([b'(\\HasNoChildren) "/" "INBOX"', *lines])


def named(*names: str, delimiter: str = "/") -> list[Folder]:
    return [Folder(name, frozenset(), delimiter) for name in ("INBOX", *names)]


@pytest.mark.parametrize(
    "name",
    [
        "Junk", "Spam", "Junk Email", "Junk-E-Mail", "Junk Mail", "Bulk", "Bulk Mail", "Spamverdacht", "Spam-Verdacht",
        "Courrier indésirable", "Indésirables", "Pourriel", "Correo no deseado", "Ongewenste e-mail",
        "Posta indesiderata", "Lixo eletrônico", "Lixo Eletrónico", "Skräppost", "Søppelpost", "Uønsket e-mail",
        "Roskaposti", "Wiadomości-śmieci", "Nevyžádaná pošta", "Levélszemét", "Gereksiz", "Önemsiz",
        "Нежелательная почта", "Спам", "Небажана пошта", "Ανεπιθύμητη αλληλογραφία", "迷惑メール", "垃圾邮件",
        "垃圾郵件",        "스팸메일함", "정크 메일", "JUNK", "unerwu\u0308nscht",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "INBOX."])
def test_junk_is_known_by_the_names_that_servers_give_it(name: str, prefix: str) -> None:
    """Without SPECIAL-USE, in the language of the account."""
    folders = named(prefix + name, prefix + "Archive", delimiter="." if prefix else "/")
    assert special_folder(folders, "\\Junk") == prefix + name


@pytest.mark.parametrize("name", ["Gesendete Elemente", "Éléments envoyés", "Отправленные", "送信済みアイテム"])
def test_sent_is_known_by_its_names(name: str) -> None:
    assert special_folder(named(name), "\\Sent") == name


@pytest.mark.parametrize("name", ["Archive", "Archiv", "INBOX.Archives", "Архив"])
def test_the_archive_is_known_by_its_names(name: str) -> None:
    """B-F2"""
    assert (
        special_folder(named(name, "Archive/2019", "INBOX", delimiter="." if "." in name else "/"), "\\Archive") == name
    )


def test_all_mail_is_known_by_its_mark_alone() -> None:
    """B-F2: where folders are labels."""
    folders = listed(b'(\\Noselect) "/" "[Gmail]"', b'(\\All) "/" "[Gmail]/Alle Nachrichten"', b'() "/" "All Mail"')
    assert special_folder(folders, "\\All") == "[Gmail]/Alle Nachrichten"
    assert special_folder(named("All Mail", "[Gmail]/All Mail"), "\\All") is None
    assert special_folder(folders, "\\Archive") is None


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (["Training/Spam", "Spam"], "Spam"),
        (["Clients/Acme/Junk", "Junk"], "Junk"),
        (["Spam/Junk", "Spam"], "Spam"),
        (["Archive/2019/Spam", "Bulk"], "Bulk"),
        (["Old/Spam"], "Old/Spam"),
        (["Not spam", "Junkers", "Archive"], None),
    ],
)
def test_a_namesake_in_a_sub_folder_is_not_taken_for_junk(names: list[str], right: str | None) -> None:
    assert special_folder(named(*names), "\\Junk") == right


def test_an_attribute_beats_a_name_and_a_folder_that_exists_one_that_does_not() -> None:
    marked = listed(b'(\\NonExistent \\Noselect \\Junk) "/" "Junk"', b'(\\Junk) "/" "Quarantine"', b'() "/" "Spam"')
    assert special_folder(marked, "\\Junk") == "Quarantine"
    assert special_folder(marked[:2], "\\Junk") is None


def test_what_lies_below_a_namespace_is_at_the_top() -> None:
    folders = listed(b'(\\Noselect) "/" "[Gmail]"', b'() "/" "[Gmail]/Spam"', b'() "/" "Old/Spam"')
    assert special_folder(folders, "\\Junk") == "[Gmail]/Spam"


@pytest.mark.parametrize(
    "raw", ["Entwürfe".encode(), "Entwürfe".encode("latin-1"), b"R&D", b"a&!!-b", b"x&2D0-", b"", b"a\x07b"]
)
def test_a_name_that_is_not_modified_utf_7_is_left_out_and_hides_no_other(raw: bytes) -> None:
    """RFC 3501 5.1.3"""
    folders = listed(b'(\\HasNoChildren) "/" "' + raw + b'"', b'(\\Junk) "/" "Spam"')
    assert [folder.name for folder in folders] == ["INBOX", "Spam"]


@pytest.mark.parametrize("name", ["Entwürfe", "R&D", 'say "hi"', "a\\b", "迷惑メール", "a b"])
def test_a_name_is_read_as_it_is_written(name: str) -> None:
    line = b'() "/" ' + bytes(encode_folder(name))
    assert listed(line)[1].name == name


def test_literals_atoms_and_flat_mailboxes_are_read() -> None:
    folders = listed((b'(\\Marked) "." {8}', b'say "hi"'), b"", b"() NIL Drafts", b"nonsense")
    assert folders[1:] == [Folder('say "hi"', frozenset({"\\marked"}), "."), Folder("Drafts", frozenset(), "")]


HOSTILE_NAMES = {
    "levels without end": [b'() "/" "' + b"a/" * 490 + b'Junk"'],
    "one long name": [b'() "/" "&' + b"AOQA5ADk" * 100_000 + b'-"'],
    "many deep names": [b'() "/" "' + b"b/" * 51 + b'%d/Junk"' % number for number in range(30_000)],
    "many long names": [b'(\\Junk) NIL "' + b"x" * 900 + b'%d"' % number for number in range(30_000)],
}


@pytest.mark.parametrize("lines", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_names_that_a_hostile_server_makes_up_cost_little_time_and_hide_no_other(lines: list[bytes]) -> None:
    """Towards E-F10: they are within the lines and bytes of a session, and were minutes of work."""
    started = time.process_time()
    folders = listed(b'() "/" "Spam"', *lines)
    found = special_folder(folders, "\\Junk")
    assert time.process_time() - started < 10
    assert found == "Spam" or b"(\\Junk)" in lines[0]
    assert Folder("Spam", frozenset(), "/") in folders
    assert len(folders) <= 10_000
    assert all(len(folder.name) <= 1_000 and folder.name.count("/") <= 50 for folder in folders)
