"""Retries: which attempt is a mail's last, and how long the mail waits for the next one."""

from __future__ import annotations

from typing import Protocol

from emberflow.delivery.reply_codes import Disposition
from emberflow.domain.slot import Slot
from emberflow.randomness import state, uniforms


class RetryPolicy(Protocol):
    """What is read of the policy in force; `policy.queue.DispatchPolicy` says what each number means."""

    @property
    def retry_s(self) -> int: ...
    @property
    def retry_jitter(self) -> float: ...
    @property
    def maximum_attempts(self) -> int: ...


def is_over(slot: Slot, disposition: Disposition, policy: RetryPolicy) -> bool:
    """Return whether a mail is given up after an attempt with this disposition; ``slot.attempts`` came before it."""
    # A limit of the mailbox passes; however often a mail meets it, the mail is not at fault.
    is_limited = disposition.action == "throttle" and disposition.scope == "mailbox"
    return disposition.final or (slot.attempts + 1 >= policy.maximum_attempts and not is_limited)


def backoff_s(slot: Slot, disposition: Disposition, policy: RetryPolicy, seed: int) -> float:
    """Return the pause before the next attempt: doubling unless the server named it, with the slot's jitter."""
    wait_s = disposition.wait_s or policy.retry_s
    if disposition.action == "retry":
        wait_s *= 2**slot.attempts
    draw = uniforms(state(seed, "retry_jitter"), [slot.id], [slot.attempts])[0]
    return float(wait_s * (1 + policy.retry_jitter * draw))
