"""``bench classify``: how many returned messages a core classifies, the process in which they are parsed included.

Messages are classified as the inbox and ``emberflow classify`` do: bytes through a pipe to a process with limits of
time and memory, a typed result back. What counts is the CPU of both processes, so that the figure is that of one core
whatever else the machine does.

The peer is ``flufl.bounce`` alone on the same messages: the standard library's parser and its detectors, in this
process and without limits. It answers one of our questions, which recipients bounced; it knows neither the mail that
came back, nor hard and soft, nor any kind of message but bounces.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from email import message_from_bytes

from benchmarks.cpu import tree_cpu_s
from benchmarks.measure import Figure, Report, Result, Target
from benchmarks.returned_mail import a_mixture
from emberflow.email_ops.bounded_parser import BoundedParser

MESSAGES = 3_000
ROUNDS = 3
TARGETS = (Target("messages_per_core_s", "at_least", 300),)


def run(report: Report) -> Result:
    """Measure; about a minute."""
    messages = a_mixture(MESSAGES)
    octets = sum(map(len, messages))
    result = Result("classify", {"messages per round": MESSAGES}, TARGETS)
    result.sizes |= {"mean_message_bytes": octets // MESSAGES}
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    kinds: Counter[str] = Counter()
    with BoundedParser() as parser:

        def classify(raw: bytes) -> None:
            kinds[parser.classify(raw).kind] += 1

        report("starting the parsing process")
        _measured(classify, messages[:100])  # it loads what reads bounces and dates once
        kinds.clear()
        for number in range(ROUNDS):
            report(f"emberflow, round {number + 1}")
            ours.append(_measured(classify, messages))
            report(f"flufl.bounce, round {number + 1}")
            theirs.append(_measured(_detect, messages))
    result.sizes |= {f"of_kind_{kind}": count // ROUNDS for kind, count in sorted(kinds.items())}
    result.figures |= {
        "messages_per_core_s": Figure.of([MESSAGES / cpu_s for _, cpu_s in ours]),
        "messages_per_s": Figure.of([MESSAGES / seconds for seconds, _ in ours]),
        "ratio_to_flufl_bounce": Figure.of([peer / our for (_, our), (_, peer) in zip(ours, theirs, strict=True)]),
    }
    result.peers |= {"flufl.bounce": {"messages_per_core_s": Figure.of([MESSAGES / cpu_s for _, cpu_s in theirs])}}
    return result


def _measured(read: Callable[[bytes], None], messages: Sequence[bytes]) -> tuple[float, float]:
    """Return the seconds that reading took, and the CPU seconds of this process and those that it started."""
    began, cpu_before = time.perf_counter(), tree_cpu_s(os.getpid())
    for raw in messages:
        read(raw)
    return time.perf_counter() - began, tree_cpu_s(os.getpid()) - cpu_before


def _detect(raw: bytes) -> None:
    from flufl.bounce import all_failures  # noqa: PLC0415 - only this benchmark needs it

    all_failures(message_from_bytes(raw))
