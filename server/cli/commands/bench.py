"""The command that measures servers. What it measures is a program of its own, which is run here."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "help_option_names": []})
def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="URLs of servers, else one is started; --help lists the options.", show_default=False),
    ] = None,
) -> None:
    """Measure a server. Tokens per second, first tokens, many streams, prefixes, a long prompt beside others."""
    import os
    import sys
    from pathlib import Path

    from server.exit_codes import CommandFailed

    places = (Path(__file__).parents[3] / "scripts" / "benchmark", Path(sys.prefix) / "share" / "bramley" / "benchmark")
    folder = next((place for place in places if (place / "__main__.py").is_file()), None)
    if folder is None:
        raise CommandFailed("The benchmark is not part of this installation.")
    os.execv(sys.executable, [sys.executable, str(folder), *(arguments or [])])  # noqa: S606  # no shell is wanted
