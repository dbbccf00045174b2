"""Which mailbox of a run is read next: `queue_manager.receiving.turns`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from emberflow.queue_manager.receiving.turns import SILENT_AFTER, Turn, TurnQueue


def turns(*servers: str) -> list[Turn]:
    return [Turn(place, f"m{place}@a.test", 0, server) for place, server in enumerate(servers)]


def a_queue(*servers: str, readers: int = 4, seconds: float = 60.0) -> TurnQueue:
    return TurnQueue(turns(*servers), readers, time.monotonic() + seconds)


def test_who_was_tried_longest_ago_is_first() -> None:
    queue = a_queue("a", "b", "a")
    taken = [queue.take() for _ in range(3)]
    assert [turn.mailbox_id for turn in taken if turn] == [0, 1, 2]


def test_a_server_takes_half_of_the_threads_while_mailboxes_of_others_wait() -> None:
    queue = a_queue("slow", "slow", "slow", "slow", "quick", readers=4)
    first = [queue.take() for _ in range(3)]
    assert [turn.server for turn in first if turn] == ["slow", "slow", "quick"]


def test_a_server_takes_all_threads_when_no_other_is_left() -> None:
    queue = a_queue("a", "a", "a", "a", readers=4)
    assert all(queue.take() for _ in range(4))


def test_a_mailbox_that_was_put_back_keeps_its_place_and_others_are_read_meanwhile() -> None:
    queue = a_queue("full", "full", "free")
    turn = queue.take()
    assert turn is not None
    queue.put_back(turn, 30.0)
    other = queue.take()
    assert other is not None
    assert other.server == "free"
    assert [left.mailbox_id for left in queue.left()] == [0, 1]


def test_the_other_mailboxes_of_a_server_that_answers_nobody_are_left_out_with_the_reason() -> None:
    queue = a_queue(*["dead"] * 10, "alive")
    asked = []
    for _ in range(SILENT_AFTER + 1):
        turn = queue.take()
        assert turn is not None
        asked.append(turn.server)
        queue.done(turn, "timed out" if turn.server == "dead" else None)
    rest = queue.take()
    asked += [rest.server] if rest else []
    assert asked.count("dead") == SILENT_AFTER
    left_out = queue.unanswered()
    assert len(left_out) == 10 - SILENT_AFTER
    assert {reason for _, reason in left_out} == {"dead did not answer for 3 other mailboxes: timed out"}


def test_a_server_that_answers_in_between_is_not_silent() -> None:
    queue = a_queue(*["a"] * 8, readers=1)
    for place in range(8):
        turn = queue.take()
        assert turn is not None
        queue.done(turn, "reset" if place % SILENT_AFTER else None)
    assert queue.unanswered() == []
    assert queue.take() is None


def test_nobody_begins_another_mailbox_after_the_time_is_over_or_the_run_was_stopped() -> None:
    assert a_queue("a", seconds=-1).take() is None
    queue = a_queue("a")
    queue.stop()
    assert queue.take() is None
    assert len(queue.left()) == 1


def test_a_thread_waits_for_a_mailbox_that_another_may_put_back() -> None:
    queue = a_queue("a", readers=2)
    turn = queue.take()
    assert turn is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.take)
        queue.put_back(turn, 0.0)
        assert waiting.result(timeout=10) == turn


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_every_mailbox_is_taken_once_whatever_their_servers(servers: list[str], readers: int) -> None:
    queue = a_queue(*servers, readers=readers)
    taken: list[int] = []
    with ThreadPoolExecutor(readers) as pool:

        def work() -> None:
            while (turn := queue.take()) is not None:
                taken.append(turn.mailbox_id)
                queue.done(turn)

        for done in [pool.submit(work) for _ in range(readers)]:
            done.result()
    assert sorted(taken) == list(range(len(servers)))
