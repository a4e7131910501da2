"""The command that serves. The server itself is server/serve.py's."""

from typing import Annotated, Any

import typer

from server.cli.commands.options import settings_as_flags, settings_of
from server.options import declared


@settings_as_flags
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=declared()["models"].option.help, show_default=declared()["models"].default_in_words),
    ] = None,
    until_input_closes: Annotated[
        bool, typer.Option("--until-input-closes", hidden=True, help="End when standard input closes.")
    ] = False,
    **flags: Any,
) -> None:
    """Serve models over HTTP. A model that is not in the store is fetched first.

    Each option can also be set by a variable (BRAMLEY_MAX_QUEUE for --max-queue) or in the configuration file;
    `bramley config show` prints the names of all settings, also of those that have no option here.
    """
    from server.cli.find import model_here, store_of
    from server.serve import serve as serve_models
    from server.terminal.own_server import end_when_input_closes

    settings = settings_of(models=models, **flags)
    store = store_of(settings)
    if until_input_closes:
        end_when_input_closes()
    raise typer.Exit(serve_models(settings, find=lambda name: model_here(name, store), store=store))
