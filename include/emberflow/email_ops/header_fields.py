"""The header fields by which a message of ours is known, and the form of a Message-ID."""

from __future__ import annotations

import re
from typing import Final

WARMUP_HEADER: Final = "X-Emberflow-Warmup"
TOKEN_HEADER: Final = "X-Emberflow-Token"  # noqa: S105
AUTO_REPLIED: Final = "auto-replied"  # Auto-Submitted of what a bot writes (RFC 3834 5)

# Printable ASCII without space, angle bracket, quote or backslash: also safe inside an IMAP quoted string.
MESSAGE_ID = re.compile(r"<[!#-;=?-\[\]-~]{1,400}>")
REFERENCES_KEPT = 10
