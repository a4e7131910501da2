"""The commands about models on disk: fetch, list, delete."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.options import AsJson, ModelName, ModelsDir, StoredName, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.stored_model import StoredModel


def pull(name: ModelName, models_dir: ModelsDir = None) -> None:
    """Fetch a model into the store. A folder or a .gguf file is copied; `serve` can also use it where it lies."""
    from server.commands.find import fetched, store_of
    from server.store_errors import megabytes
    from server.terminal import say

    model = fetched(name, store_of(settings_of(models_dir=models_dir)))
    say(f"{model.id} is here: {megabytes(model.num_bytes)}, {model.format}, from {model.source}.")


def ls(as_json: AsJson = False, models_dir: ModelsDir = None) -> None:
    """List the models that can be served: those of the store, and those of the user's Hugging Face cache."""
    from server.commands.find import store_of
    from server.terminal import note, say, show_models

    store = store_of(settings_of(models_dir=models_dir))
    models = store.list()
    if as_json:
        say(_as_json(models))
        return
    show_models(models)
    missing = [entry.id for entry in store.catalog.models if entry.id not in {model.id for model in models}]
    if missing:
        note(f"To be had with `bramley pull`: {', '.join(missing)}, or any Hugging Face repository.")


def rm(
    name: StoredName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Delete a model from the store, or what is left of an unfinished download."""
    from server.commands.find import store_of
    from server.store_errors import megabytes
    from server.terminal import is_terminal, say

    store = store_of(settings_of(models_dir=models_dir))
    model_id = store.resolve(name)
    if not yes:
        if not is_terminal(sys.stdin):
            raise typer.BadParameter("say --yes where nobody can be asked")
        typer.confirm(f"Delete {model_id}?", abort=True)
    say(f"{model_id} is deleted: {megabytes(store.remove(name))} freed.")


def _as_json(models: "Sequence[StoredModel]") -> str:
    import msgspec

    rows = [
        {
            "id": model.id,
            "path": str(model.path),
            "bytes": model.num_bytes,
            "format": model.format,
            "task": model.task,
            "aliases": model.aliases,
            "source": model.source,
            "created": model.created,
        }
        for model in models
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode()
