"""What is changed in a mailbox over IMAP (RFC 9051): marks, places, and the folder that is ours.

Nothing but the messages named goes. EXPUNGE removes whatever anybody has marked as deleted, so it is only used where
the server has no UID EXPUNGE (UIDPLUS, RFC 4315) and nobody else has marked anything in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from emberflow.email_ops.imap_folders import Folder, has_another_use, home_of, read_listed, read_namespace
from emberflow.email_ops.imap_session import ImapError, ImapSession

_UIDS_PER_COMMAND = 100
_IMPORTANT = "$Important"
_NOT_FOR_US = {"\\all", "\\archive", "\\drafts", "\\flagged", "\\junk", "\\sent", "\\trash"}
_EXISTS = re.compile(r"\[ALREADYEXISTS\]", re.IGNORECASE)  # RFC 5530 3


@dataclass(frozen=True)
class OwnFolder:
    """A folder of ours by its whole name, and whether it is there already."""

    name: str
    exists: bool


class ImapChanges(ImapSession):
    """Marks, moves and removes messages of the selected folder, and makes a folder.

    Raises:
        ImapError: from every method.
    """

    @property
    def is_gmail(self) -> bool:
        """Whether folders are labels: the server has Gmail's extensions of IMAP."""
        return "X-GM-EXT-1" in self._client.capabilities

    @property
    def can_mark_important(self) -> bool:
        """Whether the server keeps such a mark in the selected folder (RFC 9051 7.1: PERMANENTFLAGS)."""
        return self.is_gmail or not self._permanent_flags.isdisjoint({_IMPORTANT.lower(), "\\*"})

    @property
    def can_move(self) -> bool:
        """Whether the server moves messages in one step (RFC 6851)."""
        return "MOVE" in self._client.capabilities

    def mark_seen(self, uids: Iterable[int]) -> None:
        """Mark messages of the selected folder as read."""
        self._store(uids, "+FLAGS.SILENT", "\\Seen")

    def mark_starred(self, uids: Iterable[int]) -> None:
        """Flag messages of the selected folder: what mail programs show as a star or a flag."""
        self._store(uids, "+FLAGS.SILENT", "\\Flagged")

    def mark_important(self, uids: Iterable[int]) -> None:
        """Mark messages of the selected folder as important: a keyword (RFC 8457), at Gmail a label of its own."""
        if self.is_gmail:
            self._store(uids, "+X-GM-LABELS", "\\Important")
        else:
            self._store(uids, "+FLAGS.SILENT", _IMPORTANT)

    def move(self, uids: Iterable[int], folder: str) -> bool:
        """Move messages of the selected folder to ``folder``, which must exist; return as :meth:`remove`.

        Atomic where the server has MOVE (RFC 6851). Elsewhere a crash between the steps can leave a copy in
        both folders, but never in none.
        """
        moved = set(uids)
        for group in _groups(moved):
            self._uid("MOVE" if self.can_move else "COPY", group, self._named(folder))
        return self.can_move or self.remove(moved)

    def remove(self, uids: Iterable[int]) -> bool:
        """Delete messages of the selected folder for good; return whether they are gone.

        Without UIDPLUS they stay, marked as deleted, as long as a message that is not among them is marked as well:
        the only command that would remove them would remove that one too.
        """
        ours = set(uids)
        has_uidplus = "UIDPLUS" in self._client.capabilities
        for group in _groups(ours):
            self._uid("STORE", group, "+FLAGS.SILENT", "(\\Deleted)")
            if has_uidplus:
                self._uid("EXPUNGE", group)
        if has_uidplus or not ours:
            return True
        marked = set(self._search("DELETED"))
        if not marked or not marked <= ours:
            return not marked & ours
        with self._faults("imap_command"):
            status, data = self._client.expunge()
        if status != "OK":
            self._refused("imap_command", data)
        return True

    def own_folder(self, name: str) -> OwnFolder:
        """Return the folder ``name`` at the top of what belongs to this login (its personal namespace, RFC 2342).

        Raises:
            ImapError: there cannot be one, or it is the mailbox's Junk, Sent, Trash or the like.
        """
        if has_another_use(name):
            raise ImapError("imap_select", f"{name} is what mailboxes call a folder that has another use")
        folders = self._folders()
        prefix, delimiter = self._home(folders)
        if delimiter and delimiter in name:
            raise ImapError("imap_select", f"{name!r} cannot be a folder here: {delimiter!r} separates levels")
        whole = prefix + name
        there = [folder for folder in folders if folder.name == whole]
        for folder in there:
            if folder.flags & _NOT_FOR_US:
                raise ImapError("imap_select", f"{whole} is used otherwise: {' '.join(sorted(folder.flags))}")
        return OwnFolder(whole, any(folder.is_selectable for folder in there))

    def make_folder(self, name: str) -> None:
        """Make a folder, unless it is there, and show it in mail programs (SUBSCRIBE)."""
        with self._faults("imap_command"):
            status, data = self._client.create(self._named(name))
        if status != "OK" and not _EXISTS.search(self._said(data)):
            is_there = any(folder.name == name and folder.is_selectable for folder in self._folders())
            if not is_there:
                self._refused("imap_command", data)
        try:
            with self._faults("imap_command"):
                self._client.subscribe(self._named(name))
        except ImapError as error:  # it is there, shown or not
            if error.is_lost:
                raise

    def _store(self, uids: Iterable[int], change: str, mark: str) -> None:
        for group in _groups(uids):
            self._uid("STORE", group, change, f"({mark})")

    def _home(self, folders: Iterable[Folder]) -> tuple[str, str]:
        """Return what the names of this login's own folders begin with, and what separates levels."""
        if "NAMESPACE" in self._client.capabilities:
            told = None
            with suppress(ImapError), self._faults("imap_command"):
                told = read_namespace(self._client.namespace()[1], is_utf8=self._is_utf8)
            if told is not None:
                return told
        return home_of(folders)

    def _folders(self) -> list[Folder]:
        # RFC 6154 2: a server that marks folders need not tell it to a LIST that does not ask (Cyrus before 3.0).
        offered = set(self._client.capabilities)
        if "IMAP4REV2" in offered or {"SPECIAL-USE", "LIST-EXTENDED"} <= offered:
            try:
                return self._listed('"*" RETURN (SPECIAL-USE)')
            except ImapError as error:
                if error.is_lost:
                    raise
        return self._listed('"*"')

    def _listed(self, pattern: str) -> list[Folder]:
        with self._faults("imap_command"):
            status, data = self._client.list('""', pattern)
        if status != "OK":
            self._refused("imap_command", data)
        return read_listed(data, is_utf8=self._is_utf8)


def _groups(uids: Iterable[int]) -> Iterator[str]:
    ordered = sorted(set(uids))
    for start in range(0, len(ordered), _UIDS_PER_COMMAND):
        yield ",".join(str(int(uid)) for uid in ordered[start : start + _UIDS_PER_COMMAND])
