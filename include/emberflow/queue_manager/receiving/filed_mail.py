"""What the database knows of warm-up mail that is to be filed or deleted: that it is ours, handled, and how old.

A message is ours to move only if its token is genuine, its slot was sent to this very mailbox, and it is the copy whose
placement was recorded: by its number where that was recorded, elsewhere by the digest of its header. A copy that
somebody made of it, with the same token, is neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy import Connection, RowMapping, text

from emberflow.domain.slot import Slot
from emberflow.email_ops.tokens import TokenError, WarmupToken, verify
from emberflow.queue_manager.slot_token import token_of
from emberflow.settings import Settings

# Mail in doubt (`uncertain`, `submitting`) is not `sent`, what was not placed here was not handled here, and what waits
# for another try of whatever is to be done with it is not handled yet.
_HANDLED = text("""
    select
        slots.*,
        placed.occurred_at as placed_at,
        placed.details ->> 'uid' as placed_uid,
        rescued.occurred_at as rescued_at,
        rescued.details ->> 'uid' as rescued_uid,
        placed.details ->> 'header_digest' as placed_digest,
        filed.header_digest as filed_digest,
        filed.filed_at
    from ops.slots
    inner join ops.mail_events as placed
        on placed.natural_key = 'placed:' || slots.idempotency_key and placed.mailbox_id = :mailbox_id
    left join ops.mail_events as rescued
        on rescued.natural_key = 'rescued:' || slots.idempotency_key and rescued.mailbox_id = :mailbox_id
    left join ops.filed_mail as filed on filed.slot_id = slots.id
    where slots.id = any(:ids)
        and slots.to_mailbox_id = :mailbox_id
        and slots.status = 'sent'
        and not exists (
            select
            from ops.message_faults as faults
            where faults.mailbox_id = :mailbox_id
                and faults.next_try_at is not null
                and faults.folder || ':' || faults.uidvalidity || ':' || faults.uid
                in (placed.details ->> 'uid', rescued.details ->> 'uid')
        )
""")

_INTEND = text("""
    insert into ops.filed_mail (slot_id, mailbox_id, header_digest)
    select unnest(cast(:ids as bigint[])), :mailbox_id, unnest(cast(:digests as text[]))
    on conflict (slot_id) do nothing
""")

_FILED = text("update ops.filed_mail set filed_at = :at where slot_id = any(:ids)")

_DELETED = text("""
    insert into ops.filed_mail (slot_id, mailbox_id, header_digest, deleted_at)
    select unnest(cast(:ids as bigint[])), :mailbox_id, unnest(cast(:digests as text[])), :at
    on conflict (slot_id) do update set deleted_at = excluded.deleted_at
""")

_WAS_FILED = text("""
    select exists (select from ops.filed_mail where slot_id = :slot_id and header_digest = :digest)
""")


@dataclass(frozen=True)
class HandledMail:
    """A mail of ours that its mailbox has read and decided about, the last time ``at``.

    ``places`` are where its copy was found, as ``folder:uidvalidity:uid``; ``header_digests`` are those of the
    copy when it was placed, unless that was before digests were recorded, and when it was filed: a provider may change
    the header of what is moved out of Junk. ``filed_at``: when we filed it.
    """

    slot: Slot
    at: datetime
    places: tuple[str, ...]
    header_digests: tuple[str, ...]
    filed_at: datetime | None

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """Return the mail in a row of the query above."""
        return cls(
            Slot.of({**row, "lease_token": ""}),
            max(at for at in (row["placed_at"], row["rescued_at"]) if at is not None),
            tuple(place for place in (row["placed_uid"], row["rescued_uid"]) if place is not None),
            tuple(digest for digest in (row["placed_digest"], row["filed_digest"]) if digest is not None),
            row["filed_at"],
        )

    def may_be_at(self, folder: str, uidvalidity: int, uid: int) -> bool:
        """Return whether its copy may have this number, as far as can be told without its header."""
        is_there = self._is_at(folder, uidvalidity, uid)
        return bool(is_there) or (is_there is None and bool(self.header_digests))

    def is_copy(self, folder: str, uidvalidity: int, uid: int, header_digest: str) -> bool:
        """Return whether a message is its copy: by its number, or its header where whoever moved it changed that.

        In INBOX the number decides alone once it was filed: then a person has put it back there.
        """
        is_there = self._is_at(folder, uidvalidity, uid)
        if is_there is not None:
            return is_there
        was_put_back = self.filed_at is not None and folder.upper() == "INBOX"
        return header_digest in self.header_digests and not was_put_back

    def _is_at(self, folder: str, uidvalidity: int, uid: int) -> bool | None:
        """Return whether its copy has this number; None if its number there is not known."""
        known = [place.rsplit(":", 2) for place in self.places]
        uids = [number for where, validity, number in known if (where, validity) == (folder, str(uidvalidity))]
        return str(uid) in uids if uids else None


def handled(
    connection: Connection, mailbox_id: int, tokens: Mapping[int, str], settings: Settings
) -> dict[int, HandledMail]:
    """Return, by the same numbers, the mails of ours to this mailbox that ``tokens`` name; others are left out."""
    named: dict[int, WarmupToken] = {}
    for uid, token in tokens.items():
        try:
            named[uid] = verify(settings.require_token_keys(), token)
        except TokenError:
            continue
    if not named:
        return {}
    ids = sorted({token.slot_id for token in named.values()})
    rows = connection.execute(_HANDLED, {"mailbox_id": mailbox_id, "ids": ids}).mappings()
    mails = {mail.slot.id: mail for mail in map(HandledMail.of, rows)}
    return {
        uid: mails[token.slot_id]
        for uid, token in named.items()
        if token.slot_id in mails and token_of(mails[token.slot_id].slot) == token
    }


def intend(connection: Connection, mailbox_id: int, digests: Mapping[int, str]) -> None:
    """Remember, before they are moved, how the copies of these slots are known again."""
    connection.execute(_INTEND, _listed(mailbox_id, digests))


def note_filed(connection: Connection, slot_ids: Collection[int], at: datetime) -> None:
    """Remember that the mails of these slots were moved to the folder."""
    connection.execute(_FILED, {"ids": list(slot_ids), "at": at})


def note_deleted(connection: Connection, mailbox_id: int, digests: Mapping[int, str], at: datetime) -> None:
    """Remember that the copies of these slots' mails were deleted for good."""
    connection.execute(_DELETED, _listed(mailbox_id, digests) | {"at": at})


def was_filed(connection: Connection, slot: Slot, header_digest: str) -> bool:
    """Return whether a message is the copy of a mail that we moved: then a person has put it back."""
    known: bool = connection.execute(_WAS_FILED, {"slot_id": slot.id, "digest": header_digest}).scalar_one()
    return known


def _listed(mailbox_id: int, digests: Mapping[int, str]) -> dict[str, object]:
    ordered: Iterable[tuple[int, str]] = sorted(digests.items())
    ids, values = zip(*ordered, strict=True) if digests else ((), ())
    return {"mailbox_id": mailbox_id, "ids": list(ids), "digests": list(values)}
