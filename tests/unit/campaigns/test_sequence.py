"""The document of a sequence: what it must say, and which mistakes it names with their line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emberflow.campaigns.sequence import Sequence, Variant, assign_variants, wordings
from emberflow.yaml_files import check

GOOD = """\
name: Spring
postal_address: Example GmbH, Musterstr. 1, 10115 Berlin
opt_out: Reply "no" and I will not write again.
steps:
  - variants:
      - name: short
        subject: "A question, {{ first_name|there }}"
        text: "Hello {{ first_name }}"
      - name: long
        weight: 3
        subject: Warehouses
        text: Hello
        html: "<p>Hello {{ first_name }}</p>"
  - wait: 3
    text: Did you see my mail?
"""


def read(tmp_path: Path, content: str) -> tuple[Sequence | None, list[str]]:
    file = tmp_path / "spring.yaml"
    file.write_text(content)
    found = check(file, Sequence)
    return found.value, [str(mistake).partition(", ")[2] for mistake in found.mistakes]


def test_a_sequence_has_steps_with_variants_and_a_footer_below_each_mail(tmp_path: Path) -> None:
    sequence, mistakes = read(tmp_path, GOOD)
    assert sequence is not None
    assert mistakes == []
    assert [step.wait for step in sequence.steps] == [0, 3]
    assert [variant.name for variant in sequence.steps[1].variants] == ["a"]
    first, second, follow_up = wordings(sequence)
    assert first.variables == ("first_name",)
    assert first.write({"first_name": "Anna"}, {"subject": [], "text": []}) == {
        "subject": "A question, Anna",
        "text": 'Hello Anna\n\nReply "no" and I will not write again.\nExample GmbH, Musterstr. 1, 10115 Berlin\n',
    }
    assert second.write({"first_name": "<Anna>"}, {"subject": [], "text": [], "html": []})["html"] == (
        "<p>Hello &lt;Anna&gt;</p><p>Reply &quot;no&quot; and I will not write again.<br>"
        "Example GmbH, Musterstr. 1, 10115 Berlin</p>"
    )
    assert (follow_up.step, follow_up.subject) == (2, None)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (GOOD.replace('opt_out: Reply "no" and I will not write again.\n', ""), "line 1: opt_out: is missing"),
        (GOOD.replace("name: Spring", "title: Spring"), "line 1: title: is not a known key; known are name, "),
        (GOOD.replace("wait: 3", "wait: 0"), "step 2 needs a wait"),
        (GOOD.replace("  - variants:", "  - wait: 1\n    variants:"), "the first step waits for nothing"),
        (GOOD.replace("  - wait: 3\n", "  - wait: 3\n    subject: Again\n"), "leave the subject out"),
        (GOOD.replace("        subject: Warehouses\n", ""), "step 1, variant long: a first mail needs a subject"),
        (GOOD.replace("name: long", "name: short"), "two variants have one name"),
        (GOOD.replace("weight: 3", "weight: 0"), "line 10: steps.1.variants.2.weight: "),
        (GOOD.replace('Hello {{ first_name }}"', 'Hello {{ first_name"'), "line 8: steps.1.variants.1.text: line 1"),
        (GOOD.replace('Hello {{ first_name }}"', '{% for x in y %}"'), "unexpected tag 'for'"),
        (GOOD.replace("Musterstr. 1", "{{ street }}"), "postal_address: has braces"),
        (GOOD.replace("text: Did", "variants: []\n    text: Did"), "has variants and a text of its own"),
        (GOOD.replace("subject: Warehouses", 'subject: "a\\nb"'), "a subject is one line"),
        (GOOD + "name: Twice\n", "name: is there more than once"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, content: str, mistake: str) -> None:
    """E-F8: a sequence that says nothing of an opt-out is none."""
    _, mistakes = read(tmp_path, content)
    assert any(mistake in one for one in mistakes), mistakes


def test_what_stands_below_is_no_part_of_a_template(tmp_path: Path) -> None:
    content = GOOD.replace("Musterstr. 1", "Street | 1").replace("Did you see my mail?", '"{ Did you see my mail?"')
    sequence, mistakes = read(tmp_path, content)
    assert mistakes == []
    assert sequence is not None
    text = wordings(sequence)[2].write({}, {"text": []})["text"]
    assert text.startswith("{ Did you see my mail?\n\n")
    assert text.endswith("\nExample GmbH, Street | 1, 10115 Berlin\n")


def test_variants_follow_from_lead_and_step_and_their_shares_are_the_weights() -> None:
    """C-F1. Chi-square of 10,000 leads, three variants: below 13.8 (p = 0.001, two degrees of freedom)."""
    variants = tuple(Variant(name=name, weight=weight, text="x") for name, weight in (("a", 1), ("b", 1), ("c", 2)))
    leads = np.arange(10_000, dtype=np.int64)
    chosen = assign_variants(7, leads, 1, variants)
    counts = Counter(chosen.tolist())
    expected = {0: 2500, 1: 2500, 2: 5000}
    assert sum((counts[one] - n) ** 2 / n for one, n in expected.items()) < 13.8
    shuffled = leads[::-1].copy()
    assert (assign_variants(7, shuffled, 1, variants)[::-1] == chosen).all()
    assert (assign_variants(7, leads[:17], 1, variants) == chosen[:17]).all()
    assert (assign_variants(7, leads, 2, variants) != chosen).any()
