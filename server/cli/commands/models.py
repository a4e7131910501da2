"""The commands about models on disk: fetch, list, describe, verify, delete."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.commands.options import AsJson, ConfigFile, ModelName, ModelsDir, StoredName, settings_of

if TYPE_CHECKING:
    from server.store.stored_model import StoredModel


def pull(name: ModelName, config: ConfigFile = None, models_dir: ModelsDir = None) -> None:
    """Fetch a model into the store. A folder or a .gguf file is copied; `serve` can also use it where it lies."""
    from server.cli.find import fetched, store_of
    from server.sizes import megabytes
    from server.terminal.output import say

    model = fetched(name, store_of(settings_of(config=config, models_dir=models_dir)))
    say(f"{model.id} is here: {megabytes(model.num_bytes)}, {model.format}, {model.source}.")


def ls(as_json: AsJson = False, config: ConfigFile = None, models_dir: ModelsDir = None) -> None:
    """List the models that can be served. Those of the store, and those of the user's Hugging Face cache."""
    from server.cli.find import store_of
    from server.terminal.output import note, print_json, show_models

    store = store_of(settings_of(config=config, models_dir=models_dir))
    models = store.list()
    if as_json:
        print_json([_as_json(model) for model in models])
        return
    show_models(models)
    missing = [entry.id for entry in store.catalog.models if entry.id not in {model.id for model in models}]
    if missing:
        note(f"To be had with `bramley pull`: {', '.join(missing)}, or any Hugging Face repository.")


def show(name: ModelName, as_json: AsJson = False, config: ConfigFile = None, models_dir: ModelsDir = None) -> None:
    """Describe a model from its files. What it is, where it lies, how it is packed. Loads nothing."""
    from dataclasses import asdict

    from server.cli.find import store_of
    from server.sizes import megabytes
    from server.store.local_source import LocalSource, local_path
    from server.store.model_facts import facts_of
    from server.terminal.output import day, print_json, show_rows

    path = local_path(name)
    store = store_of(settings_of(config=config, models_dir=models_dir))
    model = store.find(name) if path is None else LocalSource(path).in_place()
    facts, files = asdict(facts_of(model)), _files(model)
    if as_json:
        print_json(_as_json(model) | facts | {"files": files})
        return
    shown = {
        "model": model.id,
        "aliases": ", ".join(model.aliases),
        "path": str(model.path),
        "size": megabytes(model.num_bytes),
        "format": model.format,
        "task": model.task,
        "source": model.source,
        "stored": day(model.created),
        **{each.replace("_", " ").removeprefix("num "): value for each, value in facts.items()},
        "files": ", ".join(f"{file['name']} ({megabytes(file['bytes'])})" for file in files),
    }
    rows = [(each, f"{value:,}" if isinstance(value, int) else str(value)) for each, value in shown.items() if value]
    show_rows(("", ""), rows)


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Ids of models.", show_default="every model with checksums")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    models_dir: ModelsDir = None,
) -> None:
    """Hold models against their checksums. Reads every byte, and ends with exit code 3 where a file differs."""
    from dataclasses import asdict

    from server.cli.find import store_of
    from server.exit_codes import CORRUPT
    from server.store.verify import can_be_verified
    from server.store.verify import verify as verify_model
    from server.terminal.output import print_json, say
    from server.terminal.progress import progress_report

    store = store_of(settings_of(config=config, models_dir=models_dir))
    found = []
    for name in names or can_be_verified(store):
        with progress_report(name) as report:
            found.append(verify_model(name, store, report))
        if not as_json:
            say("\n".join(found[-1].in_words()))
    if as_json:
        print_json([asdict(each) for each in found])
    if any(each.damaged for each in found):
        raise typer.Exit(CORRUPT)


def rm(
    name: StoredName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
    models_dir: ModelsDir = None,
) -> None:
    """Delete a model from the store. Also a damaged one, or what is left of an unfinished download."""
    from server.cli.find import store_of
    from server.sizes import megabytes
    from server.terminal.output import is_terminal, say

    store = store_of(settings_of(config=config, models_dir=models_dir))
    model_id = store.resolve(name)
    if not yes:
        if not is_terminal(sys.stdin):
            raise typer.BadParameter("say --yes where nobody can be asked")
        typer.confirm(f"Delete {model_id}?", abort=True)
    say(f"{model_id} is deleted: {megabytes(store.remove(name))} freed.")


def _as_json(model: "StoredModel") -> dict[str, Any]:
    return {
        "id": model.id,
        "path": str(model.path),
        "bytes": model.num_bytes,
        "format": model.format,
        "task": model.task,
        "aliases": list(model.aliases),
        "source": model.source,
        "created": model.created,
    }


def _files(model: "StoredModel") -> list[dict[str, Any]]:
    from server.store.manifest import MANIFEST_FILE

    if not model.path.is_dir():
        return [{"name": model.path.name, "bytes": model.path.stat().st_size}]
    paths = sorted(path for path in model.path.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    return [{"name": str(path.relative_to(model.path)), "bytes": path.stat().st_size} for path in paths]
