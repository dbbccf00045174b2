"""The commands about leads: files that bring them in, what is known of them, erasure."""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from emberflow.cli.options import BY_COMMAND, LARGEST_ID, AsJson, By, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emberflow.console import Section
    from emberflow.operations.leads import Imported


class _FileByDefault(TyperGroup):
    """`leads import FILE` is `leads import file FILE`; a file of the name of a command is written ./NAME."""

    by_default = "file"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that reads a file where none is named."""
        is_named = not args or args[0] in self.commands or args[0] == "--help"
        return super().parse_args(ctx, args if is_named else [self.by_default, *args])


leads = typer.Typer(help="People who may be written to, and the files that brought them in.", no_args_is_help=True)
importing = typer.Typer(
    cls=_FileByDefault, help="Bring in a file of leads: `leads import FILE`. Or undo that.", no_args_is_help=True
)
leads.add_typer(importing, name="import")


class _Mode(StrEnum):
    ADD = "add"
    FILL = "fill"
    REPLACE = "replace"


Batch = Annotated[int | None, typer.Option(max=LARGEST_ID, help="Only of this import.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="The newest so many.")]
_UNUSED = ("row", "verdict", "column", "reason")


@importing.command("file")
def import_leads(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV or Parquet with the column address, and perhaps zone, country, source, lawful_basis and fields "
            "of your own."
        ),
    ],
    mode: Annotated[
        _Mode,
        typer.Option(
            help="Leads that are known: add leaves them, fill gives them what they lack, replace also what they have."
        ),
    ] = _Mode.FILL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")] = False,
    source: Annotated[str | None, typer.Option(help="Where the data comes from, if a row does not say.")] = None,
    lawful_basis: Annotated[str | None, typer.Option(help="Why they may be written to, if a row does not say.")] = None,
    country: Annotated[str | None, typer.Option(help="Two letters (ISO 3166-1), if a row does not say.")] = None,
    zone: Annotated[str | None, typer.Option(help="IANA time zone, if a row does not say.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(help="NAME=TYPE of a field of your own: text, integer, number, boolean, date. May be repeated."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file that is not UTF-8 or UTF-16.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Tell so many rows that brought nothing.")] = 20,
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Import a file of leads. It never brings back who is suppressed, and writes no consent and no state."""
    from emberflow.console import console, print_json, records, show
    from emberflow.database.engine import open_engine
    from emberflow.operations import leads as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    given = {"source": source, "lawful_basis": lawful_basis, "country": country, "zone": zone}
    wanted = operations.wanted(
        mode.value,
        {name: value for name, value in given.items() if value is not None},
        field or [],
        encoding,
    )
    engine, actor = open_engine(), acting(by)
    with _counting() as progress:
        done = (
            operations.try_file(engine, file, wanted, settings(), shown=shown, progress=progress)
            if dry_run
            else operations.import_file(
                engine, actor, file, wanted, settings(), reason=reason, shown=shown, progress=progress
            )
        )
    rows = _unused([(one.row, one.verdict, one.column, one.reason) for one in done.unused])
    if as_json:
        print_json(
            {
                "batch": done.batch,
                "rows": done.rows,
                "verdicts": done.counts,
                "lacking": done.lacking,
                "unread_columns": done.unread,
                "same_file": done.same_file,
            }
            | records(rows)
        )
    else:
        for line in _told(done):
            console.print(line, markup=False)
        if rows.rows:
            show(rows)
    if not done.rows - done.counts["invalid"] - done.counts["suppressed"]:
        raise typer.Exit(1)


@importing.command("undo")
def undo_import(
    batch: Annotated[int, typer.Argument(max=LARGEST_ID, help="Its number, see `emberflow leads imports`.")],
    reason: Reason = BY_COMMAND,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Remove the leads that an import added, and put back what it changed; refused once there is mail for one."""
    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import leads as operations
    from emberflow.operations.actor import acting

    done = operations.undo_import(open_engine(), acting(by), batch, reason=reason)
    if as_json:
        print_json({"batch": batch, "removed": done.removed, "restored": done.restored})
    else:
        console.print(f"import {batch} is undone: {done.removed} leads removed, {done.restored} as they were before")


@leads.command("imports")
def list_imports(
    batch: Annotated[
        int | None, typer.Argument(max=LARGEST_ID, help="One import: also its rows that brought nothing.")
    ] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List imports with what became of their rows."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import leads as reporting

    with open_engine().connect() as connection:
        found = reporting.imports(connection, limit, batch)
        unused = [] if batch is None else reporting.unused_rows(connection, batch, limit)
    names = ("id", "file_name", "mode", "rows", "added", "filled", "replaced", "duplicate", "suppressed", "invalid",
             "imported_by", "imported_at", "undone_at")  # fmt: skip
    columns = ("batch", "file", *names[2:10], "imported by", "imported at (UTC)", "undone at (UTC)")
    rows = [tuple(row[name] for name in names) for row in found]
    sections = [Section("imports", f"{len(rows)} imports", columns, rows, least=("undone at (UTC)", "mode"))]
    if batch is not None:
        sections.append(_unused([tuple(row.values()) for row in unused]))
    show(*sections, as_json=as_json)


@leads.command("list")
def list_leads(batch: Batch = None, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List leads; what they have fields of their own for, `leads show` tells."""
    from emberflow.console import Section, show
    from emberflow.database.engine import open_engine
    from emberflow.reporting import leads as reporting

    with open_engine().connect() as connection:
        found = reporting.listed(connection, batch, limit)
    names = ("address", "zone", "country", "source", "lawful_basis", "import_id", "created_at")
    columns = ("address", "zone", "country", "source", "lawful basis", "batch", "added at (UTC)")
    rows = [tuple(row[name] for name in names) for row in found]
    show(Section("leads", f"{len(rows)} leads", columns, rows, least=("added at (UTC)", "batch")), as_json=as_json)


@leads.command("show")
def show_lead(address: Annotated[str, typer.Argument(help="Its address.")], as_json: AsJson = False) -> None:
    """Show all that is known of a lead, and which files said so."""
    from emberflow.console import print_json, show_facts
    from emberflow.database.engine import open_engine
    from emberflow.reporting import leads as reporting

    with open_engine().connect() as connection:
        lead = reporting.shown(connection, address)
    if as_json:
        print_json(lead)
        return
    facts = [(name, lead[name]) for name in ("zone", "country", "source", "lawful_basis", "created_at", "updated_at")]
    facts += [(f"field {name}", value) for name, value in sorted(lead["fields"].items())]
    facts += [(f"import {one['import_id']}", f"row {one['row_number']}: {one['verdict']}") for one in lead["imports"]]
    show_facts(lead["address"], facts)


@leads.command("preflight")
def preflight(
    batch: Batch = None,
    seconds: Annotated[float, typer.Option(min=1, help="Domains that are not looked up by then are unknown.")] = 300,
    limit: Annotated[int, typer.Option(min=0, help="The largest so many domains that may bounce.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Project the bounces of leads from DNS and lists; no recipient's server is asked. Exit with 1 above 5 %."""
    from emberflow.console import Section, console, print_json, progress, records, show
    from emberflow.database.engine import open_engine
    from emberflow.operations import leads as operations
    from emberflow.settings import settings

    with progress("looking up domains", None) as advance:
        found = operations.preflight(open_engine(), settings(), batch, seconds=seconds, progress=advance)
    rows = [
        (one.group.domain, one.group.leads, one.judgement, one.why)
        for one in found.domains
        if one.judgement != "takes mail"
    ]
    domains = Section("domains", f"{len(rows)} domains that may bounce", ("domain", "leads", "is", "why"), rows[:limit])
    counts = {
        "leads": found.leads(),
        "takes_none": found.leads("takes none"),
        "disposable": found.leads("disposable"),
        "unknown": found.leads("unknown"),
        "role_addresses": found.roles,
    }
    if as_json:
        shares = {"projected": found.projected, "at_most": found.at_most, "is_good": found.is_good}
        print_json(counts | shares | records(domains))
    else:
        console.print(
            f"{counts['leads']} leads: {counts['takes_none']} of domains that take no mail, "
            f"{counts['disposable']} disposable, {counts['unknown']} unknown; {found.roles} role addresses"
        )
        console.print(
            f"{found.projected:.1%} will bounce, {found.at_most:.1%} if the unknown do: "
            f"{'good enough to begin' if found.is_good else 'above 5 %, clean the list first'}"
        )
        if rows:
            show(domains)
    if not found.is_good:
        raise typer.Exit(1)


@leads.command("erase")
def erase_lead(
    address: Annotated[str, typer.Argument(help="Whose data is erased; it need not be a lead.")],
    reason: Annotated[str, typer.Option(help="Why, without the address; it is kept in the audit log.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Remove what names a person and keep one keyed hash that suppresses for ever; exit with 1 if mail is under way."""
    from emberflow.console import console, print_json
    from emberflow.database.engine import open_engine
    from emberflow.operations import leads as operations
    from emberflow.operations.actor import acting
    from emberflow.settings import settings

    done = operations.erase(open_engine(), acting(by), address, settings(), reason=reason)
    if as_json:
        print_json(vars(done))
    else:
        console.print(
            f"erased: {'a lead' if done.was_lead else 'no lead'}, {done.slots} mails, {done.messages} messages that "
            f"came in; {done.cancelled} planned mails cancelled. Its hash is suppressed."
        )
        if done.under_way:
            console.print(
                f"{done.under_way} mails are under way and still hold the address: run it again when they have ended"
            )
    if done.under_way:
        raise typer.Exit(1)


def _told(done: Imported) -> list[str]:
    """Return what an import did, a line for each thing that a person should know."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in done.counts.items())
    what = f"import {done.batch}" if done.batch is not None else "dry run, nothing was written"
    lines = [f"{what}: {done.rows} rows: {counts}"]
    lacking = [f"{count} without {name.replace('_', ' ')}" for name, count in done.lacking.items() if count]
    if lacking:
        lines.append(f"of the leads that were added or changed: {', '.join(lacking)}")
    if done.unread:
        lines.append(f"columns that no import reads: {', '.join(done.unread)}")
    if done.same_file is not None:
        lines.append(f"import {done.same_file} was of the same file")
    return lines


def _unused(rows: Sequence[Sequence[object]]) -> Section:
    from emberflow.console import Section

    return Section("unused_rows", f"{len(rows)} rows that brought nothing", _UNUSED, rows)


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many rows are read, and say after Ctrl-C that nothing came in."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    errors = Console(stderr=True)
    column = TextColumn("reading leads: {task.completed} rows")
    try:
        with Progress(column, console=errors, transient=True, disable=not errors.is_terminal) as bar:
            task = bar.add_task("", total=None)
            yield lambda done: bar.update(task, completed=done)
    except KeyboardInterrupt:
        errors.print("stopped: nothing was imported")
        raise typer.Exit(130) from None
