"""The ramp of a sender, day by day."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emberflow.senders.ramp import RampPolicy, ramp_volume

policies = st.builds(RampPolicy, start=st.integers(1, 20), step=st.integers(0, 10), maximum=st.integers(20, 50))


def test_the_standard_ramp_starts_at_5_and_grows_by_2_until_30() -> None:
    """S-B3."""
    days = pd.Series([1, 2, 3, 13, 14, 200], index=list("abcdef"))
    volume = ramp_volume(RampPolicy(), days)
    assert volume.to_dict() == {"a": 5, "b": 7, "c": 9, "d": 29, "e": 30, "f": 30}


@settings(deadline=None)
@given(policies)
def test_a_ramp_never_falls_never_jumps_and_never_exceeds_its_maximum(policy: RampPolicy) -> None:
    """S-B3, as an invariant of every ramp policy."""
    volume = ramp_volume(policy, pd.Series(range(1, 101)))
    steps = volume.diff().dropna()
    assert volume.iloc[0] == policy.start
    assert steps.between(0, policy.step).all()
    assert volume.max() <= policy.maximum


def test_a_sender_before_its_first_sending_day_plans_nothing() -> None:
    assert ramp_volume(RampPolicy(), pd.Series([0, -3])).tolist() == [0, 0]


def test_a_ramp_of_nobody_is_empty() -> None:
    assert ramp_volume(RampPolicy(), pd.Series([], dtype="int64")).empty


@pytest.mark.parametrize(
    "numbers", [{"start": 0}, {"maximum": 51}, {"step": -1}, {"start": 9, "maximum": 8}, {"increment": 2}]
)
def test_a_ramp_policy_out_of_range_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        RampPolicy(**numbers)  # type: ignore[arg-type]
