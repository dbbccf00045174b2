"""The frame of the benchmarks. Their numbers live in benchmarks/README.md, never in tests."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import NAMES, planner, sweep
from benchmarks.cpu import tree_cpu_s
from benchmarks.dispatch import require_honest
from benchmarks.measure import Figure, Result, Target
from benchmarks.planner_peers import SelectionTime
from benchmarks.servers import PeerError, run_worker, smtp_sink
from emberflow.cli.bench_command import bench
from emberflow.errors import ConfigurationError

A_RATE = Figure.of([30.0, 10.0, 20.0])


def a_result() -> Result:
    """A benchmark with one peer measured, one that could not be, and a figure that could not be."""
    result = Result("claim", {"slots": 3}, [Target("rate", "at_least", 20), Target("share", "at_most", 0.25)])
    result.figures |= {"rate": A_RATE, "share": None}
    result.sizes |= {"senders": 7}
    result.parts |= {"seconds_by_phase": {"read": Figure.of([2.0])}}
    result.peers |= {"pgmq": {"rate": Figure.of([40.0])}, "nodemailer": None}
    result.unmeasured |= {"share": "no stack", "nodemailer": "no Node.js"}
    return result


def test_a_figure_is_the_median_of_its_rounds_with_their_extremes() -> None:
    assert A_RATE.as_json() == {"median": 20, "min": 10, "max": 30, "n": 3}
    assert Figure.of([1.0, 2.0]).median == 1.5


def test_a_count_is_shown_as_it_is_and_a_measured_number_to_five_digits() -> None:
    assert Figure.of([227_807.0]).as_json()["median"] == 227_807
    assert Figure.of([32_951.7]).as_json()["median"] == 32_952


def test_a_figure_of_no_round_does_not_exist() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        Figure.of([])


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("rate", "at_least", 20), True),
        (Target("rate", "at_least", 20.1), False),
        (Target("rate", "at_most", 20), True),
        (Target("rate", "at_most", 19.9), False),
    ],
)
def test_a_target_is_met_by_the_median(target: Target, met: bool) -> None:
    assert target.is_met(A_RATE) is met


def test_the_json_object_has_figures_peers_targets_and_what_was_not_measured_and_why() -> None:
    found = json.loads(json.dumps(a_result().as_json()))

    assert found["rate"] == {"median": 20, "min": 10, "max": 30, "n": 3}
    assert found["share"] is None
    assert found["senders"] == 7
    assert found["seconds_by_phase"] == {"read": {"median": 2, "min": 2, "max": 2, "n": 1}}
    assert found["peers"] == {"pgmq": {"rate": {"median": 40, "min": 40, "max": 40, "n": 1}}, "nodemailer": None}
    assert found["unmeasured"] == {"share": "no stack", "nodemailer": "no Node.js"}
    assert found["targets"] == {"rate": {"at_least": 20, "met": True}, "share": {"at_most": 0.25, "met": None}}
    assert found["machine"]["cores"] == os.cpu_count()


def test_the_table_names_what_was_not_measured_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    a_result().show()

    shown = capsys.readouterr().out
    assert "not measured" in shown
    assert "nodemailer: no Node.js" in shown
    assert "seconds_by_phase: read" in shown
    assert "senders 7" in shown


def test_an_unknown_benchmark_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=f"no benchmark 'nonsense'.*{', '.join(NAMES)}"):
        bench("nonsense")


def test_an_option_that_a_benchmark_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="claim has no --size"):
        bench("claim", size="small")


def test_an_unknown_size_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="no size 'huge'; there are: small, middle, large, all"):
        bench("planner", size="huge")


def test_a_sweep_without_a_mail_server_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "why_not", lambda: "Dovecot is not installed: apt-get install dovecot-imapd")
    with pytest.raises(ConfigurationError, match=r"measured on a real server: .*apt-get install dovecot-imapd"):
        bench("sweep")
    with pytest.raises(ConfigurationError, match="no size 'huge'; there are: small, full"):
        bench("sweep", size="huge")


def test_a_sweep_is_compared_with_its_peers_within_each_round() -> None:
    """A machine that gets slower between rounds changes no ratio, and everything is told per mailbox."""
    result = Result("sweep", {}, sweep.TARGETS)

    def rounds(seconds: float, commands: int) -> list[sweep.Round]:
        counted = Counter({"imap": commands, "imap SELECT": commands, "statements": 30})
        return [sweep.Round(seconds * slower, 4.0, 2.0, 2.0, counted) for slower in (1, 10)]

    found = {"emberflow": rounds(2.0, 20), "imap_tools": rounds(1.0, 10), "imap_tools_bulk": rounds(0.5, 5)}
    sweep.summarise(result, found, mailboxes=10, messages=50)

    assert result.figures["ratio_to_imap_tools"] == Figure(0.5, 0.5, 0.5, 2)
    assert result.figures["ratio_to_imap_tools_bulk"] == Figure(0.25, 0.25, 0.25, 2)
    assert result.figures["cpu_ratio_to_imap_tools"] == Figure(1, 1, 1, 2)
    assert result.figures["statements_per_mailbox"] == Figure(3, 3, 3, 2)
    assert result.figures["messages_per_s"] == Figure(13.75, 2.5, 25, 2)
    assert result.parts["imap_commands_per_mailbox"] == {"SELECT": Figure(2, 2, 2, 2)}
    assert result.peers["imap-tools"]["commands_per_mailbox"] == Figure(1, 1, 1, 2)  # type: ignore[index]
    assert result.as_json()["targets"]["ratio_to_imap_tools"]["met"] is True


def test_the_curve_holds_each_size_under_its_name_and_keeps_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench planner --size all`: the cost per slot over three sizes."""

    def measured(_: object, size: str) -> Result:
        result = Result("planner", {"size": size}, [Target("seconds", "at_most", 1)])
        result.figures |= {"seconds": Figure.of([2.0 if size == "large" else 0.5])}
        return result

    monkeypatch.setattr(planner, "measure", measured)
    found = planner.run(lambda _: None, size="all").as_json()

    assert [found[f"{size}_seconds"]["median"] for size in ("small", "middle", "large")] == [0.5, 0.5, 2]
    assert {name: target["met"] for name, target in found["targets"].items()} == {
        "small_seconds": True,
        "middle_seconds": True,
        "large_seconds": False,
    }


def test_the_selection_is_timed_without_what_its_history_takes_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `select_seconds` is the same quantity whether pairs lie in memory or in a database."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow:
        def of_pairs(self, seconds: float) -> str:
            now[0] += seconds
            return "answer"

    def choose(demand: str, history: Slow) -> str:
        now[0] += 0.25
        return demand + history.of_pairs(0.5)

    watch = SelectionTime(choose)

    assert watch.choose("an ", history=Slow()) == "an answer"
    assert watch.seconds == 0.25


def test_the_cpu_of_a_tree_includes_children_that_have_ended() -> None:
    before = tree_cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)

    assert tree_cpu_s(os.getpid()) - before >= 0.05


def test_a_worker_that_fails_says_why() -> None:
    with pytest.raises(PeerError, match="no such peer"):
        run_worker([sys.executable, "-c", "raise SystemExit('no such peer')"])


def test_the_sink_takes_pipelined_mail_over_tls_and_counts_it(tmp_path: Path) -> None:
    with smtp_sink(tmp_path) as sink:
        context = ssl.create_default_context(cafile=str(sink.ca_file))
        with smtplib.SMTP("localhost", sink.port, timeout=30) as client:
            client.starttls(context=context)
            client.login("anybody@senders.test", "any")
            client.sendmail("a@senders.test", ["b@bots.test"], b"Subject: one\r\n\r\n.a leading dot\r\n")
            client.send(b"mail FROM:<a@senders.test>\r\nrcpt TO:<b@bots.test>\r\ndata\r\n")
            assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
            client.send(b"Subject: two\r\n\r\nsplit at the dot\r\n")
            client.send(b".\r\n")
            assert client.getreply()[0] == 250
            assert client.docmd("HELP") == (214, b"2 1")


def test_a_round_of_dispatch_counts_if_each_mail_arrived_once_or_is_in_doubt() -> None:
    """Q-F5: judged at the receiving server."""
    require_honest({"sent": 5}, 5, arrived=5, different=5)
    require_honest({"sent": 3, "uncertain": 2}, 5, arrived=4, different=4)


@pytest.mark.parametrize(
    ("ends", "arrived", "different", "said"),
    [
        ({"sent": 5}, 6, 5, "second copies"),
        ({"sent": 5}, 4, 4, "took 4"),
        ({"sent": 3, "uncertain": 1}, 5, 5, "instead of 5"),
        ({"sent": 3, "retry": 2}, 3, 3, "instead of 5"),
        ({"sent": 3, "uncertain": 2}, 2, 2, "took 2"),
    ],
)
def test_a_round_of_dispatch_with_a_copy_or_a_lost_mail_does_not_count(
    ends: dict[str, int], arrived: int, different: int, said: str
) -> None:
    with pytest.raises(RuntimeError, match=said):
        require_honest(ends, 5, arrived=arrived, different=different)
