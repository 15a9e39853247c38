"""``sprec serve``: runs as a service."""

from pathlib import Path
from typing import Annotated

import typer

from sprec.cli.runs import Set, quiet
from sprec.system.errors import UserError

_LIMITS = "Limits of a request"


def serve(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; the first one answers by default.")],
    host: Annotated[str, typer.Option(help="Address; one that other machines can reach needs SPREC_TOKEN.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="A protocol that requests may name; repeat it. Default: all that the runs can use."),
    ] = None,
    set: Set = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a request is given up.", rich_help_panel=_LIMITS)
    ] = 10.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; more are sent away (503).", rich_help_panel=_LIMITS)
    ] = 256,
    max_histories: Annotated[int, typer.Option(min=1, help="Histories.", rich_help_panel=_LIMITS)] = 256,
    max_k: Annotated[int, typer.Option("--max-k", min=1, help="Items per list.", rich_help_panel=_LIMITS)] = 100,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes.", rich_help_panel=_LIMITS)] = 1 << 20,
) -> None:
    """Serve runs over HTTP: a page at /, the requests at /docs.

    SIGHUP loads the runs again without dropping a request; SIGTERM answers those under way and stops.

    The environment variable SPREC_TOKEN holds the token that requests must bear where others can connect.
    """
    try:
        from sprec.serve.server import serve as run_server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sprec"):
            raise
        raise UserError(f"sprec serve needs {error.name}: pip install 'sprec[serve]'") from error
    from sprec.serve.batcher import Limits

    quiet()
    limits = Limits(histories=max_histories, k=max_k, body=max_body, queue=queue, seconds=timeout)
    run_server(runs, host, port, limits, set or [], protocol or [])
