"""Where an accepted message is filed.

The sandbox has no spam filter; it has a share. ``rules.json`` names, per domain of the envelope sender, how
many of 100 messages are filed to Junk::

    {"junk_percent": {"default": 20, "north.test": 5}}

Which ones is decided by the Message-ID alone, so the same message is always filed to the same folder, and
raising a percentage only ever moves messages from the inbox to Junk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emberflow.sandbox.state_files import Watched, replace_file

Folder = Literal["INBOX", "Junk"]

DEFAULT_JUNK_PERCENT = 20


@dataclass(frozen=True)
class Rules:
    """How many of 100 messages go to Junk: by default, and per sender domain (lower case)."""

    default: int = DEFAULT_JUNK_PERCENT
    by_domain: Mapping[str, int] = field(default_factory=dict)

    def junk_percent(self, sender_domain: str) -> int:
        """Return the percentage that holds for mail from ``sender_domain``."""
        return self.by_domain.get(sender_domain.lower(), self.default)


def place(message_id: str, sender_domain: str, rules: Rules) -> Folder:
    """Return the folder for a message; deterministic in its arguments."""
    bucket = int.from_bytes(hashlib.sha256(message_id.encode(errors="surrogateescape")).digest(), "big") % 100
    return "Junk" if bucket < rules.junk_percent(sender_domain) else "INBOX"


def parse_rules(text: str) -> Rules:
    """Read the text of ``rules.json``.

    Raises:
        ValueError: it is not JSON, or a percentage is not a whole number from 0 to 100.
    """
    match json.loads(text):
        case {"junk_percent": dict(shares)}:
            pass
        case _:
            raise ValueError('expected an object {"junk_percent": {"default": 20, ...}}')
    for domain, share in shares.items():
        if type(share) is not int or not 0 <= share <= 100:
            raise ValueError(f"junk_percent of {domain!r} must be a whole number from 0 to 100, not {share!r}")
    by_domain = {domain.lower(): share for domain, share in shares.items()}
    return Rules(by_domain.pop("default", DEFAULT_JUNK_PERCENT), by_domain)


def write_rules(directory: Path, rules: Rules) -> None:
    """Put ``rules`` in force; a running sandbox follows at once."""
    directory.mkdir(parents=True, exist_ok=True)
    shares = {"default": rules.default, **rules.by_domain}
    replace_file(directory / "rules.json", json.dumps({"junk_percent": shares}, indent=1))


def watch_rules(directory: Path) -> Watched[Rules]:
    """Return the rules of a state directory, which follow changes of the file."""
    return Watched(directory / "rules.json", parse_rules, missing=Rules())
