"""The folders of a mailbox as LIST tells them (RFC 9051 7.3.1): which is Junk, Sent or Archive, and where ours belongs.

A server marks them with SPECIAL-USE attributes (RFC 6154); many do not, and name them in the language of the account.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from imap_tools.imap_utf7 import utf7_decode, utf7_encode

SpecialUse = Literal["\\Junk", "\\Sent", "\\Archive", "\\All", "\\Trash"]

# Names that servers and mail programs give these folders: Exchange and Outlook, Gmail, Apple Mail, Dovecot, Courier,
# hMailServer, Yahoo, GMX and WEB.DE, Mail.ru, Yandex, QQ, 163.com, Naver, Seznam, WP, Libero, Orange, UOL. Compared
# without case, spaces and punctuation; the earlier of two wins.
_NAMES: Mapping[SpecialUse, tuple[str, ...]] = {
    "\\Junk": (
        "Junk", "Spam", "Junk E-mail", "Junk Mail", "Bulk", "Bulk Mail", "Spam Mail", "Spambox", "Spamordner",
        "Spamverdacht", "Unerwünscht", "Unerwünschte Werbung", "Unerwünschte E-Mails",
        "Courrier indésirable", "Indésirables", "Messages indésirables", "Pourriel", "Pourriels",
        "Correo no deseado", "Correo electrónico no deseado", "No deseado", "No deseados", "Correo basura",
        "Correu brossa", "Correo lixo", "Posta indesiderata", "Indesiderata", "Posta indesiderata (Spam)",
        "Lixo eletrônico", "Lixo eletrónico", "Lixo electrónico", "E-mail não solicitado", "Correio publicitário",
        "Ongewenste e-mail", "Ongewenst", "Ongewenste reclame", "Reclame", "Uønsket mail", "Uønsket e-mail",
        "Uønsket e-post", "Uønsket post", "Søppelpost", "Søppel-e-post", "Skräppost", "Roskaposti", "Ruslpóstur",
        "Wiadomości-śmieci", "Śmieci", "Niechciane", "Niechciana poczta", "Nevyžádaná pošta",
        "Hromadné", "Nevyžiadaná pošta", "Levélszemét", "Mesaje nedorite", "E-mail nedorit", "E-mail-uri nedorite",
        "Neželena pošta", "Neželjena pošta", "Neželjena e-pošta", "Bezvrijedna pošta", "Rämpspost", "Surogātpasts",
        "Mēstules", "Nepageidaujami laiškai", "Nepageidaujamas paštas", "Šlamštas", "Нежелательная почта", "Спам",
        "Небажана пошта", "Нежелана поща", "Нежељена пошта", "Ανεπιθύμητη αλληλογραφία", "Ανεπιθύμητα",
        "Gereksiz E-posta", "Gereksiz", "Önemsiz", "Önemsiz E-posta", "İstenmeyen", "İstenmeyen Posta", "דואר זבל",
        "البريد الإلكتروني غير الهام", "البريد العشوائي", "بريد مزعج", "هرزنامه", "迷惑メール", "迷惑メールフォルダ",
        "垃圾邮件", "垃圾郵件", "垃圾信件", "广告邮件", "정크 메일", "스팸", "스팸메일함", "스팸 메일", "อีเมลขยะ",
        "Thư rác", "Email Sampah", "Surat Sampah", "Mel Remeh", "जंक ईमेल", "स्पैम",
    ),
    "\\Sent": (
        "Sent", "Sent Items", "Sent Messages", "Sent Mail", "Sent E-mail", "Outbox Sent", "Gesendet",
        "Gesendete Elemente", "Gesendete Objekte", "Gesendete Nachrichten", "Éléments envoyés", "Messages envoyés",
        "Envoyés", "Courrier envoyé", "Elementos enviados", "Enviados", "Mensajes enviados", "Itens enviados",
        "Mensagens enviadas", "Elements enviats", "Posta inviata", "Inviati", "Inviata", "Verzonden items", "Verzonden",
        "Verzonden berichten", "Sendt post", "Sendt", "Sendte elementer", "Sende elementer", "Skickat",
        "Skickade objekt", "Lähetetyt", "Lähetetyt viestit", "Elementy wysłane", "Wysłane", "Odeslaná pošta",
        "Odeslané", "Odoslaná pošta", "Elküldött elemek", "Elküldött üzenetek", "Elküldött", "Elemente trimise",
        "Trimise", "Poslano", "Poslana pošta", "Saadetud", "Nosūtītie", "Išsiųsti laiškai", "Отправленные",
        "Надіслані", "Изпратени", "Послато", "Απεσταλμένα", "Gönderilmiş Öğeler", "Gönderilenler", "Gönderilmiş",
        "פריטים שנשלחו", "العناصر المرسلة", "المرسلة", "送信済みアイテム", "送信済み", "已发送邮件", "已发送",
        "寄件備份", "寄件備份匣", "보낸 편지함", "보낸메일함", "รายการที่ส่ง", "Thư đã gửi", "Item Terkirim", "Terkirim",
    ),
    "\\Archive": (
        "Archive", "Archives", "Archiv", "Archivieren", "Archivio", "Archivo", "Archivar", "Arquivo", "Arquivar",
        "Arxiu", "Archief", "Archiveren", "Arkiv", "Arkivera", "Arkisto", "Archiwum", "Archív", "Archívum", "Arhivă",
        "Arhiva", "Arhiiv", "Arhīvs", "Archyvas", "Архив", "Архів", "Архива", "Αρχείο", "Arşiv", "ארכיון", "الأرشيف",
        "アーカイブ", "归档", "封存", "보관함", "เก็บถาวร", "Lưu trữ", "Arsip",
    ),
    "\\All": (),  # not everybody's: only who marks it has one
    "\\Trash": (),  # wanted at Gmail alone, which marks it
}  # fmt: skip
_NAME_CHARACTERS = 100  # no customary name has as many
_NAME_BYTES = 1_000
_LEVELS = 50
_FOLDERS = 10_000
_OTHER_USES = ("INBOX", "Drafts", "Trash", "Deleted Items", "Deleted Messages", "Outbox", "Templates", "All Mail")
_NOT_SELECTABLE = {"\\noselect", "\\nonexistent"}
_LISTED = re.compile(rb'\((?P<flags>[^()]*)\) (?:"(?P<delimiter>\\?[^"])"|NIL) (?P<name>.*)', re.IGNORECASE | re.DOTALL)
_LITERAL = re.compile(rb"\{\d+\}$")
_PERSONAL = re.compile(rb'\(\("(?P<prefix>(?:[^"\\]|\\.)*)" (?:"(?P<delimiter>\\?[^"])"|NIL)', re.IGNORECASE)
_ESCAPED = re.compile(rb'\\(["\\])')


@dataclass(frozen=True)
class Folder:
    """One folder. ``flags`` are its attributes in lower case; ``delimiter`` is "" in a flat mailbox."""

    name: str
    flags: frozenset[str]
    delimiter: str

    @property
    def is_selectable(self) -> bool:
        """Whether it exists and can hold messages."""
        return not self.flags & _NOT_SELECTABLE


def read_listed(data: Iterable[bytes | tuple[bytes, bytes] | None], *, is_utf8: bool = False) -> list[Folder]:
    """Return the folders in the answers to a LIST, as imaplib hands them out.

    A folder whose name is not what a command could name is left out: modified UTF-7 of printable text, or the text
    itself after ENABLE UTF8=ACCEPT (RFC 6855). So is one with a name of more than 1,000 bytes or 50 levels, and
    whatever comes after 10,000 of them: a hostile server is not given the time that these take.
    """
    found = (_read(piece, is_utf8=is_utf8) for piece in islice((piece for piece in data if piece), _FOLDERS))
    return [folder for folder in found if folder is not None]


def special_folder(folders: Sequence[Folder], use: SpecialUse) -> str | None:
    """Return the folder that is marked with ``use``, else one with a customary name; None if there is none.

    Only folders that exist count, and one at the top before one inside of another: a training set or an archive has
    folders of the same names.
    """
    names = _places(use)
    # A level that holds no mail of its own is a namespace: `INBOX.`, `[Gmail]/`.
    namespaces = {folder.name for folder in folders if not folder.is_selectable}
    candidates: list[tuple[bool, int, int, str]] = []
    for folder in folders:
        levels = folder.name.split(folder.delimiter) if folder.delimiter else [folder.name]
        is_marked = use.lower() in folder.flags
        name = _plain(levels[-1][:_NAME_CHARACTERS])
        if not folder.is_selectable or folder.name.upper() == "INBOX" or not (is_marked or name in names):
            continue
        above = [folder.delimiter.join(levels[:count]) for count in range(1, len(levels))]
        depth = sum(1 for parent in above if parent not in namespaces and parent.upper() != "INBOX")
        candidates.append((not is_marked, depth, names.get(name, len(names)), folder.name))
    return min(candidates)[3] if candidates else None


def has_another_use(name: str) -> bool:
    """Return whether servers or mail programs call a folder so that is there for something else."""
    customary = {_plain(one) for names in (*_NAMES.values(), _OTHER_USES) for one in names}
    return _plain(name) in customary


def read_namespace(data: Sequence[object], *, is_utf8: bool = False) -> tuple[str, str] | None:
    """Return prefix and delimiter of the first personal namespace in the answer to a NAMESPACE (RFC 2342), if told."""
    told = data[-1] if data else None
    found = _PERSONAL.match(told) if isinstance(told, bytes) else None
    if found is None:
        return None
    raw = _ESCAPED.sub(rb"\1", found["prefix"])
    if len(raw) > _NAME_BYTES:
        return None
    prefix = (_decoded_utf8(raw) if is_utf8 else _decoded(raw)) if raw else ""
    if prefix is None:
        return None
    return prefix, (found["delimiter"] or b"").decode("ascii", "replace")[-1:]


def home_of(folders: Iterable[Folder]) -> tuple[str, str]:
    """Return prefix and delimiter as the folders' names tell: where all others are inside of INBOX, so is ours."""
    listed = list(folders)
    delimiter = next((folder.delimiter for folder in listed if folder.delimiter), "")
    others = [folder.name for folder in listed if folder.name.upper() != "INBOX"]
    inside = f"INBOX{delimiter}"
    if delimiter and others and all(name.upper().startswith(inside) for name in others):
        return others[0][: len(inside)], delimiter
    return "", delimiter


@cache
def _places(use: SpecialUse) -> Mapping[str, int]:
    """Return the customary names, as they are compared, with their place in the list."""
    return {_plain(name): place for place, name in reversed([*enumerate(_NAMES[use])])}


def _read(piece: bytes | tuple[bytes, bytes], *, is_utf8: bool) -> Folder | None:
    line, literal = piece if isinstance(piece, tuple) else (piece, None)
    listed = _LISTED.match(line)
    if listed is None:
        return None  # what follows a literal
    raw = listed["name"].strip()
    if literal is not None and _LITERAL.search(raw):
        raw = literal
    elif len(raw) >= 2 and raw.startswith(b'"') and raw.endswith(b'"'):
        raw = _ESCAPED.sub(rb"\1", raw[1:-1])
    delimiter = (listed["delimiter"] or b"").decode("ascii", "replace")[-1:]
    if len(raw) > _NAME_BYTES or (delimiter and raw.count(delimiter.encode()) > _LEVELS):
        return None
    name = _decoded_utf8(raw) if is_utf8 else _decoded(raw)
    if name is None:
        return None
    flags = listed["flags"].decode("ascii", "replace").lower().split()
    return Folder(name, frozenset(flags), delimiter)


def _decoded(raw: bytes) -> str | None:
    if raw.isascii() and b"&" not in raw:  # it says itself, and the codec reads letter by letter
        return raw.decode() if raw and raw.decode().isprintable() else None
    try:
        name = str(utf7_decode(raw))
        # Python's base64 forgives what is none; a name must be found again under the name that a command gives it.
        is_same = utf7_encode(name) == raw
    except (ValueError, binascii.Error):  # UnicodeError is a ValueError
        return None
    return name if is_same and name and name.isprintable() else None


def _decoded_utf8(raw: bytes) -> str | None:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if name and name.isprintable() else None


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in folded if letter.isalnum() or unicodedata.category(letter).startswith("M"))
