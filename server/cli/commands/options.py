"""What the commands' options have in common: those that several take, and how they become settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from server.settings import Settings


def _ids_here(incomplete: str) -> list[str]:
    """Ids of stored models that begin so, for the shell's completion. A wrong setting completes nothing."""
    from server.cli.find import store_of
    from server.exit_codes import CommandFailed

    try:
        models = store_of(settings_of()).list()
    except (CommandFailed, typer.BadParameter):
        return []
    return [model.id for model in models if model.id.startswith(incomplete)]


ModelsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the models.", show_default="models/ of the checkout, or in the user's data folder"),
]
ModelName = Annotated[
    str,
    typer.Argument(
        help="A catalogue id, a Hugging Face repository (org/name), or a path.",
        show_default=False,
        autocompletion=_ids_here,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file of settings.", show_default="config.toml in the user's folder, if there"),
]
StoredName = Annotated[str, typer.Argument(help="The model's id.", show_default=False, autocompletion=_ids_here)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in options.items() if value is not None}


def settings_of(**options: Any) -> "Settings":
    """The settings with these options on top. Raises BadParameter for one that cannot be, ConfigInvalid otherwise."""
    from pydantic import ValidationError

    from server.settings import load_settings

    flags = given(**options)
    try:
        return load_settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        where = "" if name in flags else " (of the environment or the configuration)"
        raise typer.BadParameter(f"{name}{where}: {first['msg']}") from None
