"""The one error hierarchy. A message says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class EmberflowError(Exception):
    """Base of every error that an operator may see; the CLI prints its text without a traceback."""


class ConfigurationError(EmberflowError):
    """A setting, a key or a policy is missing or contradicts another."""


class UnknownProfileError(ConfigurationError):
    """A mailbox names a profile that the policy does not have."""


class EgressRefusedError(EmberflowError):
    """A connection that is not allowed in the present mode was stopped before its first byte."""


class WorkerRefusedError(ConfigurationError):
    """This machine must not exchange mail, although others may: its clock or its keys are not those of the rest."""


class SecretError(EmberflowError):
    """A secret could not be decrypted: the key is unknown, or the row was altered or moved."""


class MailboxCheckError(EmberflowError):
    """A mailbox did not pass its connection check.

    ``stage`` is the step that failed (``smtp_connect``, ``smtp_tls``, ``smtp_auth``, ``imap_connect``,
    ``imap_auth``, ``imap_select``) and ``server_text`` what the server answered. ``transient`` says that the failure
    passes: it proves nothing about the mailbox.
    """

    def __init__(self, stage: str, server_text: str, *, transient: bool = False) -> None:
        super().__init__(f"{stage}: {server_text}")
        self.stage = stage
        self.server_text = server_text
        self.transient = transient


class StackError(EmberflowError):
    """A process of the local stack did not start, or stopped on its own."""


@dataclass(frozen=True)
class RowProblem:
    """One reason why one row of an input file cannot be taken.

    ``row`` counts as a text editor does: the header is row 1, the first record row 2.
    """

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column}: {self.reason}"


class ImportRejectedError(EmberflowError):
    """A file was refused as a whole; ``problems`` lists every bad row, and nothing was written."""

    def __init__(self, source: str, problems: Sequence[RowProblem]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source}: nothing was imported, {len(problems)} problem(s):\n{lines}")
        self.source = source
        self.problems = tuple(problems)
