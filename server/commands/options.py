"""What the commands' options have in common: those that several take, and how they become settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from server.settings import Settings

ModelsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the models.", show_default="models/ of the checkout, or in the user's data folder"),
]
ModelName = Annotated[
    str,
    typer.Argument(help="A catalogue id, a Hugging Face repository (org/name), or a path.", show_default=False),
]
StoredName = Annotated[str, typer.Argument(help="The model's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in options.items() if value is not None}


def settings_of(**options: Any) -> "Settings":
    """The settings with these options on top. Raises BadParameter for one that cannot be."""
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**given(**options))
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
