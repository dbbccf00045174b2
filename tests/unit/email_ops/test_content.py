"""What warm-up mails say, and what an operator's own scripts may not say."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberflow.email_ops.content import load_scripts
from emberflow.errors import ConfigurationError

SCRIPTS = load_scripts()
TURNS = [(script, turn) for script in SCRIPTS.by_id for turn in range(1, SCRIPTS.turns(script) + 1)]

GOOD = """\
id: tea
topic: office
subjects: ["Tea at {hour}?"]
slots:
  hour: [three, four]
turns:
  - ["At {hour}?", "Would {hour} suit you?"]
  - ["{Hour} is fine."]
"""


def write(directory: Path, text: str, name: str = "tea.yaml") -> Path:
    (directory / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return directory


def render(script: str, turn: int, seed: int = 1, conversation: int = 7) -> tuple[str, str]:
    return SCRIPTS.render(
        script, turn, seed=seed, key=("conversation", conversation), from_name="Ann Lee", to_name="Bo Ray"
    )


def test_there_are_several_topics_and_every_thread_has_two_to_five_turns() -> None:
    """B-F7"""
    assert len(SCRIPTS.by_id) >= 6
    assert len({script.topic for script in SCRIPTS.by_id.values()}) >= 5
    assert {SCRIPTS.turns(script) for script in SCRIPTS.by_id} <= {2, 3, 4, 5}


@pytest.mark.parametrize(("script", "turn"), TURNS)
def test_every_wording_of_every_turn_is_a_finished_text_without_links(script: str, turn: int) -> None:
    """E-B8"""
    for conversation in range(40):
        subject, body = render(script, turn, conversation=conversation)
        assert not re.search(r"[{}@]|://|www\.", subject + body)
        assert subject.startswith("Re: ") == (turn > 1)
        assert subject.removeprefix("Re: ")[0].isupper()
        assert body.endswith("\nAnn\n")
        assert "Bo" in body
        for sentence in re.findall(r"(?:^|[.?!]\s+|\n\n)(\w)", body):
            assert sentence == sentence.upper(), body


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), conversation=st.integers(0, 2**31), place=st.sampled_from(TURNS))
def test_a_rerun_writes_the_same_words(seed: int, conversation: int, place: tuple[str, int]) -> None:
    """Invariant behind Q-F1: text is a function of seed, conversation and turn."""
    assert render(*place, seed, conversation) == render(*place, seed, conversation)


def test_all_turns_of_a_thread_share_subject_and_slots() -> None:
    """B-B8: a reply answers the mail that it replies to."""
    for conversation in range(30):
        first, body = render("walking-route", 1, conversation=conversation)
        assert render("walking-route", 3, conversation=conversation)[0] == f"Re: {first}"
        hours = re.search(r"two hours|three hours|half a day", body)
        assert hours is not None
        assert hours.group() in render("walking-route", 2, conversation=conversation)[1]


def test_conversations_differ() -> None:
    assert len({render("walking-route", 1, conversation=number) for number in range(60)}) > 30


def test_another_seed_gives_another_text() -> None:
    assert [render("book-club", 1, seed) for seed in range(8)] != [render("book-club", 1, 0)] * 8


def test_a_missing_display_name_is_no_problem() -> None:
    _, body = SCRIPTS.render("book-club", 1, seed=1, key=(1,), from_name="", to_name=" ")
    assert "there" in body.splitlines()[0]


@pytest.mark.parametrize(
    ("display_name", "name"),
    [
        ("Ada Lindqvist", "Ada"), ("Lindqvist, Ada", "Ada"), ("Lindqvist, Dr. Ada Maria", "Ada"), ("Ada", "Ada"),
        ("Dr. Ada Lindqvist", "Ada"), ("Frau Ada Lindqvist", "Ada"), ("Herr Prof. Dr. Karl Meier", "Karl"),
        ("Ada Lindqvist, PhD", "Ada"), ("Ada Lindqvist (Sales)", "Ada"), ("(Sales) Ada", "Ada"),
        ("'Ada' Lindqvist", "Ada"), ("\"Lindqvist, Ada\"", "Ada"), ("ADA LINDQVIST", "ADA"),
        ("Anne-Marie Duval", "Anne-Marie"), ("O'Neill, Anne-Marie", "Anne-Marie"), ("J. Peter Smith", "Peter"),
        ("Zoë", "Zoë"), ("Bo", "Bo"), ("王小明", "王小明"), ("Sender1", "Sender1"),
        ("Ada Lindqvist <ada@x.test>", "Ada"),
    ],
)  # fmt: skip
def test_people_are_called_by_their_first_name(display_name: str, name: str) -> None:
    _, body = SCRIPTS.render("book-club", 1, seed=1, key=(1,), from_name=display_name, to_name=display_name)
    greeting, *_, signature = body.rstrip().splitlines()
    assert re.search(rf"(?<!\w){re.escape(name)},", greeting)
    assert signature == name


@pytest.mark.parametrize(
    "display_name",
    [
        "ada.lindqvist@north.test", "ada.lindqvist", "marco.it", "Dr. Lindqvist", "Frau Lindqvist", "J. Smith", "J.",
        "Acme GmbH", "Acme, Inc.", "Sales Team", "info", "www.north.test", "()", "''", ", ,", "Dr.",
    ],
)  # fmt: skip
def test_whoever_has_no_certain_first_name_is_not_called_by_one(display_name: str) -> None:
    """A word with a dot would become a link in a mail program."""
    for turn in (1, 2):
        _, body = SCRIPTS.render("book-club", turn, seed=1, key=(1,), from_name=display_name, to_name=display_name)
        greeting, *_, signature = body.rstrip().splitlines()
        assert "there" in greeting
        assert signature in {closing.rstrip() for closing in SCRIPTS.by_id["book-club"].closings}
        assert not re.search(r"\w\.[a-z]{2,}\b|@|://", body)


def test_a_display_name_is_text_and_never_a_slot() -> None:
    _, body = SCRIPTS.render("book-club", 1, seed=1, key=(1,), from_name="{genre}", to_name="{to_name}")
    assert "{to_name}" in body
    assert body.endswith("{genre}\n")


def test_a_turn_that_the_script_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="has turns 1 to 4, not 5"):
        render("book-club", 5)


def test_an_operator_can_bring_own_scripts(tmp_path: Path) -> None:
    own = load_scripts(write(tmp_path, GOOD))
    subject, body = own.render("tea", 2, seed=1, key=(1,), from_name="Ann", to_name="Bo")
    assert subject in ("Re: Tea at three?", "Re: Tea at four?")
    assert re.search(r"\n(Three|Four) is fine\.\n", body)


@pytest.mark.parametrize(
    ("mistake", "line", "reason"),
    [
        (GOOD.replace('"{Hour} is fine."', '"See https://evil.test"'), 8, "a link or an address"),
        (GOOD.replace("{Hour} is", "{minute} is"), 8, "no values for the slot minute"),
        (
            GOOD.replace("hour: [three, four]", "hour: [three]\n  day: [Monday]"),
            6,
            "the slot day is used by no text",
        ),
        (GOOD.replace("{Hour} is", "{Hour!r} is"), 8, "a brace that is no slot"),
        (GOOD.replace("[three, four]", '["{hour}"]'), 5, "hold slots themselves"),
        (GOOD.replace("[three, four]", "[]"), 5, "slots.hour: is empty"),
        (GOOD.replace("[three, four]", "[three, 4]"), 5, "slots.hour.2: is not text but 4; put it in quotes"),
        (GOOD.replace('"{Hour} is fine."', '""'), 8, "turns.2.1: is empty"),
        (GOOD.replace('  - ["{Hour} is fine."]\n', ""), 6, "turns: has 1 entries and needs 2"),
        (GOOD + '  - ["Fine."]\n' * 4, 6, "turns: has 6 entries and may have 5"),
        (GOOD + "  -\n", 9, "turns.3: is not a list"),
        (GOOD + "  - []\n", 9, "turns.3: is empty"),
        (GOOD.replace('"{Hour} is fine."', '"Look at shop.example first."'), 8, "a link or an address"),
        (GOOD.replace('"{Hour} is fine."', '"<b>Fine</b>"'), 8, "HTML"),
        (GOOD.replace('"{Hour} is fine."', '"Fine &#128512;"'), 8, "HTML"),
        (GOOD + "attachments: [plan.pdf]\n", 9, "attachments: is not a known key"),
        (GOOD + "topic: tea\n", 9, "topic: is there more than once"),
        (GOOD.replace("hour: [three, four]", "hour: [three]\n  hour: [four]"), 6, "hour: is there more than once"),
        (GOOD.replace("[three, four]", "[three, three]"), 5, "the same text more than once: 'three'"),
        (GOOD.replace('"Would {hour} suit you?"', '"At {hour}?"'), 7, "turns.1: the same text more than once"),
        (GOOD.replace("hour: [", "Hour: ["), 5, "slots.Hour"),
        ("&self {id: *self}", 1, "id"),
        ("id: tea\0", 1, "is not YAML"),
        ("? [tea]\n: tea\n", 1, "unhashable"),
        (GOOD.replace("topic: office\n", ""), 1, "topic: is missing"),
        (GOOD.replace("topic:", "colour: red\ntopic:"), 2, "colour: is not a known key"),
        (GOOD.replace("id: tea", "id: coffee"), 1, "is not the file's name"),
        (GOOD.replace("topic: office", "topic: [office"), 3, "expected"),
        ("", 1, "script: is not a mapping"),
        ("- a\n- b\n", 1, "script: is not a mapping"),
    ],
)
def test_a_mistake_is_reported_with_file_and_line(tmp_path: Path, mistake: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_scripts(write(tmp_path, mistake))
    assert f"tea.yaml, line {line}: " in str(caught.value)
    assert reason in str(caught.value)


def test_every_mistake_of_every_file_is_reported_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    """E-B8"""
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace("id: tea", "id: walk").replace("[three, four]", '["www.evil.test", 5]'), "walk.yaml")
    write(tmp_path, GOOD.replace("id: tea", "id: lunch") + "mood: good\ncolour: red\n", "lunch.yaml")
    write(tmp_path, GOOD, "late.yml")

    with pytest.raises(ConfigurationError) as caught:
        load_scripts(tmp_path)

    assert re.findall(r"(\w+\.ya?ml), line (\d+)", str(caught.value)) == [
        ("late.yml", "1"), ("lunch.yaml", "9"), ("lunch.yaml", "10"), ("walk.yaml", "5"), ("walk.yaml", "5"),
    ]  # fmt: skip
    assert "5 problem(s)" in str(caught.value)


def test_a_key_that_is_merged_in_is_not_a_repeated_one(tmp_path: Path) -> None:
    merged = GOOD.replace("  hour: [three, four]", "  <<: &times {hour: [one]}\n  hour: [three]")
    assert "three" in load_scripts(write(tmp_path, merged)).render(
        "tea", 1, seed=1, key=(1,), from_name="Ann", to_name="Bo"
    )[0]  # fmt: skip


def test_the_number_of_variants_is_the_product_of_all_choices(tmp_path: Path) -> None:
    """One subject, two hours, two first texts and one second text."""
    assert load_scripts(write(tmp_path, GOOD)).by_id["tea"].variants == 4
    assert all(script.variants > 50 for script in SCRIPTS.by_id.values())


def test_a_directory_without_scripts_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no conversation script"):
        load_scripts(tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "tea.yaml").write_bytes(b"id: \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"tea\.yaml, line 1: cannot be read"):
        load_scripts(tmp_path)
