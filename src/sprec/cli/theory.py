"""``sprec theory``: check Theorem 1 of the paper and what follows from it, and draw Figure 2."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sprec.theory.findings import Finding


def theory(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for Figure 2 and theory.json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check the theory by computation: print tables and largest deviations, draw Figure 2 with --out."""
    from sprec.system.progress import bar, say
    from sprec.system.storage import write_text, writing
    from sprec.theory.findings import CHECKS, draw

    files = [] if out is None else draw(out)  # first, so that a missing extra or a bad folder shows at once
    found = []
    with bar("theory", len(CHECKS)) as progress:
        for check in CHECKS:
            found.append(check())
            progress.advance()
    text = json_format.dumps([finding.record() for finding in found], indent=2, ensure_ascii=False)
    if json:
        typer.echo(text)
    else:
        _print(found)
    if out is not None:
        files.append(out / "theory.json")
        with writing(out, "choose another -o"):
            write_text(files[-1], text + "\n")
        say(f"wrote {', '.join(map(str, files))}")
    if not all(finding.holds for finding in found):
        raise typer.Exit(1)


def _print(found: "list[Finding]") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for finding in found:
        console.print(finding.table.rich())
        size = f"largest deviation {finding.deviation:.1e}, allowed {finding.tolerance:.0e}"
        claims = {f"{finding.claim} ({size})": finding.deviation <= finding.tolerance, **finding.also}
        for claim, holds in claims.items():
            console.print(f"{'[green]✓[/green]' if holds else '[red]✗[/red]'} {claim}", soft_wrap=True)
        console.print()
