"""``sprec bench``: the engine and its peers side by side on this machine; the service under load."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprec.system.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(help="Compare the engine with its peers; measure the service.", invoke_without_command=True)


@app.callback()
def bench(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="Model: 2m, 30m, 135m, 1b (a GPU), or toy.")] = "2m",
    parts: Annotated[
        str,
        typer.Option(
            help="Parts to compare, separated by commas; million (a catalog of that size) runs only if named."
        ),
    ] = "dpo,sft,rollout,grounding,grounding-repeated,beam,iteration,evaluation",
    data: Annotated[Path | None, typer.Option(help="Dataset with the prompts (default: the demo dataset).")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each side, in turn.")] = 5,
    samples: Annotated[int, typer.Option(min=2, help="Training examples or cases per repetition.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per optimiser step.")] = 32,
    tokens: Annotated[
        int, typer.Option(min=256, help="Maximum number of tokens that the engine trains on at once.")
    ] = 8192,
    negatives: Annotated[
        str, typer.Option(help="Negatives per prompt in the part dpo, separated by commas.")
    ] = "1,3,5,8",
    peers: Annotated[str, typer.Option(help="Peers to compare with, separated by commas; none; default: all.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    log: Annotated[Path | None, typer.Option(help="File for the libraries' messages.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only the JSON line.")] = False,
) -> None:
    """Compare the engine with TRL, Hugging Face generate and a double argsort; the last line is JSON."""
    if context.invoked_subcommand:
        return
    counts = _counts(negatives)

    from sprec.bench.report import run
    from sprec.bench.work import Work

    base = Work("", "engine", "", "", samples, batch=batch, tokens=tokens, device=device)
    found = run(size, parts.split(","), data, repeats, base, counts, log, peers.split(",") if peers else ())
    if not json:
        from rich.console import Console

        Console(highlight=False).print(_table(found))
    typer.echo(json_format.dumps(found))
    if found["failed"]:
        raise UserError("; ".join(f"{part}: {why}" for part, why in found["failed"].items()))


@app.command("serve")
def bench_serve(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; a protocol is measured with the first it has.")],
    protocol: Annotated[
        list[str] | None, typer.Option(help="Protocol to measure; repeat it. Default: knn, sasrec, paper, exact.")
    ] = None,
    clients: Annotated[str, typer.Option(help="Clients that ask at once, separated by commas.")] = "1,8,64",
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 5.0,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of all measurements, in turn.")] = 3,
    histories: Annotated[int, typer.Option(min=1, help="Histories that the batch command gets.")] = 500,
    soak: Annotated[float, typer.Option(min=0, help="Minutes of gentle load at the end, to watch the memory.")] = 0.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second of the gentle load.")] = 10.0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for the JSON record.")] = None,
) -> None:
    """Measure the service beside sprec recommend --histories: latencies and throughput; the last line is JSON."""
    from sprec.cli.runs import quiet
    from sprec.serve.load import Load, measure
    from sprec.system import storage

    quiet()
    load = Load(tuple(_counts(clients, "--clients")), seconds, repeats, histories, soak=soak, rate=rate)
    found = measure(runs, protocol or (), load)
    if output is not None:
        storage.write_json(output, found)
    typer.echo(json_format.dumps(found))


def _counts(text: str, option: str = "--negatives") -> list[int]:
    """The numbers of an option."""
    given = [count.strip() for count in text.split(",")]
    if not all(count.isdecimal() and int(count) for count in given):
        raise UserError(f"{option} takes positive whole numbers separated by commas: 1,3,5,8")
    return [int(count) for count in given]


def _table(found: dict[str, Any]) -> "Table":
    from rich.table import Table

    machine = found["machine"]
    table = Table(title=f"{found['size']} ({found['parameters']:,} parameters), {machine['device']}")
    for column in (
        "part",
        "peer",
        "here, s",
        "peer, s",
        "ratio (range)",
        "tokens/s",
        "peak MiB",
        "of matmul rate",
    ):
        table.add_column(column, justify="left" if column in ("part", "peer") else "right")
    for part in found["parts"]:
        for name, peer in part["peers"].items() or [("", None)]:
            table.add_row(*_row(part, name, peer))
    return table


def _row(part: dict[str, Any], name: str, peer: dict[str, Any] | None) -> tuple[str, ...]:
    """The cells of a part and a peer; without a peer, those of the engine alone."""
    ours = part["engine"]
    return (
        part["part"],
        name,
        f"{ours['seconds']:.3g}",
        f"{peer['seconds']:.3g}" if peer else "",
        f"{peer['ratio']:.2f} ({peer['ratio_low']:.2f} to {peer['ratio_high']:.2f})" if peer else "",
        f"{ours['tokens_per_second']:,.0f}",
        f"{ours['peak_mib']:,.0f}" + (f" / {peer['peak_mib']:,.0f} ({peer['peak_share']:.0%})" if peer else ""),
        f"{part['share']:.0%}" if part.get("share") else "",
    )
