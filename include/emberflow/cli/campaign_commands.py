"""The commands about campaigns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emberflow.cli.options import AsJson

campaigns = typer.Typer(help="Cold outreach: sequences of mails to leads.", no_args_is_help=True)


@campaigns.command("check")
def check_sequence(
    file: Annotated[Path, typer.Argument(help="The sequence, in YAML.")],
    leads: Annotated[Path, typer.Option(help="A CSV file of leads; its columns are the variables of the texts.")],
    show: Annotated[int, typer.Option(min=0, help="Print the mails of the first so many leads.")] = 1,
    encoding: Annotated[str | None, typer.Option(help="Of the CSV file; default: UTF-8 or UTF-16.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write every mail of a sequence for every lead; exit with 1 if a lead lacks a value or a mail has an error.

    Nothing is stored and nothing is sent.
    """
    from emberflow.console import Section, console
    from emberflow.console import show as show_tables
    from emberflow.reporting import sequences

    tried = sequences.check_file(file, leads, encoding=encoding, show=show)
    checked = tried.checked
    mails = Section(
        "mails", f"{checked.mails} mails to {tried.leads} leads", ("step", "variant", "mails"),
        [(step, variant, count) for (step, variant), count in checked.shares.items()],
    )  # fmt: skip
    missing = Section(
        "missing", f"{len(checked.missing)} mails cannot be written", ("row", "step", "variant", "variable", "why"),
        [(one.row, one.step, one.variant, one.variable, one.says) for one in checked.missing],
    )  # fmt: skip
    invalid = Section("invalid", f"{len(tried.invalid)} rows are not taken", ("row", "why"), tried.invalid)
    findings = Section(
        "findings", "what their readers or servers may not like",
        ("level", "rule", "step", "variant", "part", "says", "mails", "rows, for example"),
        [
            (
                found.finding.level, found.finding.rule, found.step, found.variant, found.finding.part,
                found.finding.says, found.mails, ", ".join(map(str, found.rows)),
            )
            for found in checked.findings
        ],
    )  # fmt: skip
    unknown = Section(
        "unknown", "variables that no lead has; are they mistyped?", ("step", "variant", "variables"),
        [(step, variant, ", ".join(names)) for (step, variant), names in checked.unknown.items()],
    )  # fmt: skip
    examples = Section(
        "examples", "", ("row", "step", "variant", "subject", "text", "html"),
        [(mail.lead.row, mail.step, mail.variant, mail.subject, mail.text, mail.html) for mail in checked.examples],
    )  # fmt: skip
    if as_json:
        show_tables(mails, invalid, missing, findings, unknown, examples, as_json=True)
    else:
        show_tables(
            *(section for section in (mails, invalid, missing, findings, unknown) if section is mails or section.rows)
        )
        for mail in checked.examples:
            subject = "in the same thread" if mail.subject is None else f"Subject: {mail.subject}"
            console.print(
                f"\nRow {mail.lead.row}, step {mail.step} ({mail.variant}). {subject}", style="bold", markup=False
            )
            console.print(_seen(mail.text), markup=False, highlight=False)
    if not checked.is_green or tried.invalid:
        raise typer.Exit(1)


def _seen(text: str) -> str:
    """Return text without characters that command a terminal; a list is a stranger's."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)
