"""The commands about a running server: what it holds, and giving memory back."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.commands.options import AsJson, ConfigFile, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from server.terminal.chat_client import ChatClient


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also the models that are not in memory.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what the running server holds and does. Exit code 1 where none runs."""
    from server.sizes import megabytes
    from server.terminal.output import note, print_json, show_rows

    status = _client(config).ask("GET", "/v1/status")
    if as_json:
        print_json(status)
        return
    models = [model for model in status["models"] if everything or model["state"] != "unloaded"]
    show_rows(("MODEL", "STATE", "MEMORY", "REQUESTS", "CONTEXT", "UNLOADED"), [_row(model) for model in models])
    memory = status["memory"]
    note(
        f"{megabytes(memory['resident_bytes'])} in use, {megabytes(memory['reserved_bytes'])} of "
        f"{megabytes(memory['budget_bytes'])} set aside, {megabytes(memory['available_bytes'])} to spare"
    )


def stop(
    model: Annotated[str | None, typer.Argument(help="The model.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every model.")] = False,
    config: ConfigFile = None,
) -> None:
    """Unload a model of the running server. Its running answers are finished first; the server itself goes on."""
    from urllib.parse import quote

    from server.terminal.output import say

    if (model is None) != everything:
        raise typer.BadParameter("name a model, or say --all")
    client = _client(config)
    loaded = client.ask("GET", "/v1/status")["models"] if everything else []
    names = [each["id"] for each in loaded if each["state"] != "unloaded"] if model is None else [model]
    for name in names:
        client.ask("POST", f"/v1/models/{quote(name, safe='')}/unload", patient=True)
        say(f"{name} is unloaded.")


def _client(config: "Path | None") -> "ChatClient":
    from server.terminal.chat_client import ChatClient, reachable

    settings = settings_of(config=config)
    return ChatClient(reachable(settings.host), settings.port, next(iter(settings.keys()), ""))


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    from server.sizes import megabytes
    from server.terminal.output import duration

    requests, unload = model["requests"], model["unload_in_seconds"]
    counts = [f"{count} {name}" for name, count in requests.items() if count]
    state = model["state"]
    if state == "loading" and model["total_bytes"]:
        state = f"loading, {100 * model['done_bytes'] // model['total_bytes']} %"
    return (
        model["id"],
        f"{state}: {model['reason']}" if model["reason"] else state,
        megabytes(model["memory"]["resident_bytes"]),
        ", ".join(counts) or "none",
        str(model["context_length"] or ""),
        "never" if model["pinned"] else "" if unload is None else f"in {duration(unload)}",
    )
