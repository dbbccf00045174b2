"""Actions: what a bot does with a warm-up mail besides answering it (B-F2).

Each action is drawn by itself from a stream of its own, addressed by the slot: reading a mail again decides the same,
and what a bot does with one mail says nothing about the next. An answer is no action; `bots.replies` decides it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from emberflow.bots.draws import stratified
from emberflow.bots.policy import ActionPolicy

ACTIONS: Final = ("rescue", "read", "important", "star", "archive")


def decide_actions(received: pd.DataFrame, policy: ActionPolicy, seed: int) -> pd.DataFrame:
    """Return ``received`` with what is done with each mail; index, order and other columns are kept.

    Columns in: ``slot_id`` int64, unique, the slot of the mail that was received; ``in_junk`` bool, whether it lies in
    Junk now; ``is_answered`` bool.

    Columns added, all bool: ``rescue``, of what lies in Junk; ``read``, ``important``, ``star`` and ``archive``, of
    what lies in the inbox. What is answered is read, whatever the draw. What is rescued comes to the inbox and is
    decided about there; what is not stays where it is, as it is.

    Raises:
        ValueError: a mail that lies in Junk is answered.
    """
    in_junk = received["in_junk"].to_numpy(dtype=bool)
    is_answered = received["is_answered"].to_numpy(dtype=bool)
    if (in_junk & is_answered).any():
        lying = received.loc[in_junk & is_answered, "slot_id"].tolist()
        raise ValueError(f"nobody answers what lies in Junk: slots {lying}")
    slot_id = received["slot_id"].to_numpy(dtype=np.int64)
    wanted = {name: stratified(f"action_{name}", slot_id, seed) < getattr(policy, name) for name in ACTIONS}
    done = {name: wanted[name] & (in_junk if name == "rescue" else ~in_junk) for name in ACTIONS}
    return received.assign(**done | {"read": done["read"] | is_answered})
