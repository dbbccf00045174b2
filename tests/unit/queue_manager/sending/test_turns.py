"""Whose mail is next."""

from __future__ import annotations

from emberflow.domain.slot import Slot
from emberflow.queue_manager.sending.turns import Turns
from tests.unit.delivery.mails import a_mail

MANY = 100


def a_mail_of(mailbox_id: int, slot_id: int) -> Slot:
    return a_mail(id=slot_id, from_mailbox_id=mailbox_id)


def turns_of(*slots: Slot) -> Turns:
    turns = Turns()
    for slot in slots:
        turns.add(slot)
    return turns


def begin_all(turns: Turns, most: int = MANY) -> list[Slot]:
    """Begin whatever may begin."""
    begun = []
    while (slot := turns.take(most)) is not None:
        turns.begin(slot)
        begun.append(slot)
    return begun


def test_of_each_mailbox_one_mail_is_under_way_and_the_next_follows_when_it_has_ended() -> None:
    """Q-F5: a crash leaves one mail of a mailbox in doubt, not two."""
    first, second, other = a_mail_of(1, 10), a_mail_of(1, 11), a_mail_of(2, 20)
    turns = turns_of(first, second, other)
    assert begin_all(turns) == [first, other]
    assert (turns.is_under_way(first), turns.is_under_way(second)) == (True, False)
    turns.end(first)
    assert begin_all(turns) == [second]


def test_the_end_of_a_mail_that_waits_frees_no_other_ones_place() -> None:
    """A slot may be recorded as refused while another one of its mailbox is under way."""
    first, second = a_mail_of(1, 10), a_mail_of(1, 11)
    turns = turns_of(first, second)
    begin_all(turns)
    turns.end(second)
    assert begin_all(turns) == []
    assert turns.under_way == 1


def test_no_more_mails_are_under_way_than_allowed() -> None:
    turns = turns_of(*(a_mail_of(mailbox, mailbox) for mailbox in range(5)))
    assert len(begin_all(turns, most=3)) == turns.under_way == 3
    turns.end(a_mail_of(1, 1))
    assert [slot.id for slot in begin_all(turns, most=3)] == [3]


def test_a_slot_that_is_dropped_gives_its_turn_to_the_next_of_its_mailbox() -> None:
    dropped, follows, other = a_mail_of(1, 10), a_mail_of(1, 11), a_mail_of(2, 20)
    turns = turns_of(dropped, follows, other)
    assert turns.take(MANY) == dropped
    assert begin_all(turns) == [follows, other]


def test_a_mailbox_is_served_until_its_last_mail_has_ended() -> None:
    """So long its connection is kept."""
    slot = a_mail_of(1, 10)
    turns = turns_of(slot)
    begin_all(turns)
    assert set(turns.mailboxes) == {1}
    turns.end(slot)
    assert turns.take(MANY) is None
    assert set(turns.mailboxes) == set()


def test_what_waits_can_be_taken_out_and_what_is_under_way_stays() -> None:
    first, second, third, other = a_mail_of(1, 10), a_mail_of(1, 11), a_mail_of(1, 12), a_mail_of(2, 20)
    turns = turns_of(first, second, third, other)
    begin_all(turns, most=1)
    assert list(turns.drain()) == [second, third, other]
    assert turns.is_under_way(first)
    assert begin_all(turns) == []
