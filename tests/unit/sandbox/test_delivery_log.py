"""The log of deliveries gives back what was written, in order."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from emberflow.sandbox.delivery_log import Delivery, DeliveryLog, read_deliveries


def a_delivery(message_id: str = "<1@north.test>") -> Delivery:
    return Delivery(
        time=datetime(2026, 3, 1, 12, 0, 0, 125, tzinfo=UTC),
        message_id=message_id,
        envelope_from="a@north.test",
        recipient="b@south.test",
        folder="INBOX",
        size=2048,
        sha256="ab" * 32,
        user="a@north.test",
    )


def test_no_log_means_no_deliveries(tmp_path: Path) -> None:
    assert read_deliveries(tmp_path) == []


def test_deliveries_are_readable_as_soon_as_they_are_appended_and_survive_a_restart(tmp_path: Path) -> None:
    hostile = a_delivery('<"\n\u2028é\udce9>')
    with closing(DeliveryLog(tmp_path)) as log:
        log.append(a_delivery())
        assert read_deliveries(tmp_path) == [a_delivery()]
        log.append(hostile)
    with closing(DeliveryLog(tmp_path)) as log:
        log.append(a_delivery())
    assert read_deliveries(tmp_path) == [a_delivery(), hostile, a_delivery()]
