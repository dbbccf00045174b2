"""What is done with warm-up mail in its mailbox: decided together with the answer, recorded, then carried out.

``bots.actions`` decides for a bot. The mailbox of a sender is a person's: there every mail of ours is rescued and
marked as read, so that it catches nobody's eye, and nothing else is done.

The decision is recorded as an event (`acted`) before anything is touched, and holds: a mail that is read again gets no
answer that it was refused before, and what is done with it is what was decided then, whatever the policy says now.
Marks and moves are made per folder and kind of action, not per message; one that fails is set aside (`message_faults`)
and holds up nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlalchemy import Connection

from emberflow.accounts.mailboxes import Mailbox
from emberflow.bots.actions import decide_actions
from emberflow.bots.policy import ActionPolicy
from emberflow.email_ops.imap import ImapReader, SpecialUse
from emberflow.queue_manager import event_log
from emberflow.queue_manager.event_log import Acted
from emberflow.queue_manager.receiving.arrivals import Arrival, Placement
from emberflow.queue_manager.receiving.message_faults import Act
from emberflow.queue_manager.receiving.replies import Answerer, profile_of

ARCHIVES: tuple[SpecialUse, ...] = ("\\Archive", "\\All")
_OF_SENDERS = ActionPolicy(rescue=1, read=1, important=0, star=0, archive=0)

Deeds = Mapping[Act, list[int]]


@dataclass(frozen=True)
class Abilities:
    """What a mailbox is capable of: ``archive`` is its folder, if it has one."""

    archive: str | None
    can_mark_important: bool


def archive_of(reader: ImapReader, folders: Mapping[SpecialUse, str | None]) -> str | None:
    """Return the folder into which mail is archived: RFC 6154 \\Archive, at Gmail the folder of all mail.

    There, to be archived is to lie in no other folder.
    """
    return folders["\\Archive"] or (folders["\\All"] if reader.is_gmail else None)


@dataclass(frozen=True)
class Recipient:
    """One run's decisions about mail that arrived: is it answered, and what is done with it?"""

    answerer: Answerer

    def decide(
        self,
        connection: Connection,
        mailbox: Mailbox,
        arrivals: Sequence[Arrival],
        placement: Placement,
        abilities: Abilities,
    ) -> Deeds:
        """Decide about each mail of one folder, once, and record it.

        Return the UIDs by action, in the order of carrying out.

        Only what lies in the inbox is answered. What stays in Junk ends its conversation.
        """
        if not arrivals:
            return {}
        deeds: dict[Act, list[int]] = {"rescue": [], "mark_read": [], "important": [], "star": [], "archive": []}
        before = event_log.acted_before(connection, [arrival.slot for arrival in arrivals])
        undecided: list[Arrival] = []
        for arrival in arrivals:
            known = before.get(arrival.slot.id)
            # Somebody may have moved it since from Junk to the inbox, or there: about that nothing was decided.
            if known is None or (known["answer"] == "not_rescued") != (placement == "junk"):
                undecided.append(arrival)
            else:
                can_mark = abilities.can_mark_important
                _add(deeds, arrival, {**known, "is_important": known["is_important"] and can_mark})
        if undecided:
            self._decide(connection, mailbox, undecided, placement, abilities, deeds)
        return {act: uids for act, uids in deeds.items() if uids}

    def _decide(
        self,
        connection: Connection,
        mailbox: Mailbox,
        arrivals: Sequence[Arrival],
        placement: Placement,
        abilities: Abilities,
        deeds: Deeds,
    ) -> None:
        """Add to ``deeds`` what is decided about mails that nothing was decided about yet."""
        force = self.answerer.force
        first = arrivals[0].slot
        is_bot = first.kind.goes_to_bot
        profile = profile_of(connection, first)
        answers: Mapping[int, str] = {}
        if placement == "inbox":
            answers = self.answerer.answer(connection, mailbox, arrivals, profile)
        mails = pd.DataFrame(
            {
                "slot_id": [arrival.slot.id for arrival in arrivals],
                "in_junk": placement == "junk",
                "is_answered": [answers.get(arrival.slot.id) == "replies" for arrival in arrivals],
            }
        )
        policy = force.policy.profile(profile).actions if is_bot else _OF_SENDERS
        decided = decide_actions(mails, policy, force.seed)
        acted: list[Acted] = []
        for arrival, wanted in zip(arrivals, decided.to_dict("records"), strict=True):
            if wanted["rescue"]:
                deeds["rescue"].append(arrival.message.uid)
                continue  # decided about where it comes to
            if placement == "junk":
                event_log.close_conversation(connection, arrival.slot)
            details = _told(arrival, wanted, abilities, is_bot=is_bot)
            answer = "not_rescued" if placement == "junk" else answers[arrival.slot.id]
            acted.append(Acted(arrival.slot, mailbox.access.mailbox_id, details | {"answer": answer}))
            _add(deeds, arrival, details)
        event_log.record_acted(connection, acted, occurred_at=self.answerer.clock.now())


# What the event calls what is done in the inbox.
_DETAILS: Mapping[Act, str] = {
    "mark_read": "is_read",
    "important": "is_important",
    "star": "is_starred",
    "archive": "is_archived",
}


def _add(deeds: Deeds, arrival: Arrival, details: Mapping[str, Any]) -> None:
    for act, detail in _DETAILS.items():
        if details[detail]:
            deeds[act].append(arrival.message.uid)


def _told(arrival: Arrival, wanted: Mapping[Any, Any], abilities: Abilities, *, is_bot: bool) -> dict[str, Any]:
    can_mark, can_archive = abilities.can_mark_important, abilities.archive is not None
    return {
        "is_rescued": not wanted["in_junk"] if arrival.was_junked else None,
        "is_read": wanted["read"],
        "is_important": wanted["important"] if is_bot and can_mark else None,
        "is_starred": wanted["star"] if is_bot else None,
        "is_archived": wanted["archive"] if is_bot and can_archive else None,
    }


def carry_out(reader: ImapReader, act: Act, uids: Collection[int], archive: str | None) -> None:
    """Do one thing with messages of the selected folder.

    Raises:
        ImapError: it was not done, or not with all of them.
    """
    if act == "archive":
        if archive is not None:  # it was there when that was decided
            reader.move(uids, archive)
    else:
        _CARRY_OUT[act](reader, uids)


_CARRY_OUT: Mapping[Act, Callable[[ImapReader, Collection[int]], object]] = {
    "rescue": lambda reader, uids: reader.move(uids, "INBOX"),
    "mark_read": lambda reader, uids: reader.mark_seen(uids),
    "important": lambda reader, uids: reader.mark_important(uids),
    "star": lambda reader, uids: reader.mark_starred(uids),
}
