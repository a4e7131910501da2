"""The command that tells other programs of this server."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.options import AsJson, ConfigFile, ModelsDir, settings_of

if TYPE_CHECKING:
    from server.cli.connect.connection import Served
    from server.settings import Settings

_CONTEXT_LENGTH = 8192
_SHOWN_KEY = "YOUR_KEY"


def connect(
    client: Annotated[
        str | None, typer.Argument(help="The program; without one, those that are known.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model it is to use.", show_default="the first that is served")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write its settings; what was there is kept beside them.")
    ] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    models_dir: ModelsDir = None,
) -> None:
    """Show or write other programs' settings. What Open WebUI, Zed, Codex and others need to use this server."""
    from dataclasses import replace
    from pathlib import Path

    from server.cli.connect.clients import CLIENTS
    from server.cli.connect.writing import write as write_settings
    from server.terminal.output import note, print_json, say

    if client is None:
        print_json(list(CLIENTS)) if as_json else say("\n".join(CLIENTS))
        return
    if client not in CLIENTS:
        raise typer.BadParameter(_unknown(client, list(CLIENTS)))
    settings = settings_of(config=config, models_dir=models_dir)
    served = _served(settings, model)
    if not write and served.key:
        served = replace(served, key=_SHOWN_KEY)
    connection = CLIENTS[client](served, Path.home())
    if as_json and not write:
        print_json({"path": str(connection.path or ""), "text": connection.text, "then": connection.then})
        return
    if write:
        path, copy = write_settings(connection)
        say(f"{path} is written." + (f" What was there is in {copy}." if copy else ""))
    else:
        if connection.path is not None:
            note(f"Into {connection.path} (--write does so):\n")
        say(connection.text.rstrip("\n"))
    note(f"\n{connection.then}")


def _served(settings: "Settings", name: str | None) -> "Served":
    """The model that the running server has, or would have."""
    from server.cli.connect.connection import Served
    from server.cli.find import store_of
    from server.store.errors import ModelNotFound
    from server.store.model_facts import facts_of
    from server.terminal.chat_client import ChatClient, reachable

    key = next(iter(settings.keys()), "")
    client = ChatClient(reachable(settings.host), settings.port, key)
    cards = client.models()
    card = next((each for each in cards if name in (None, each["id"])), {})
    store = store_of(settings)
    wanted = card.get("id") or str(store.resolve(name or settings.models[0]))
    context_length, embeds = card.get("context_length"), False
    try:
        stored = store.find(wanted)
        embeds = stored.only_embeds
        context_length = context_length or _smaller(facts_of(stored).context_length, settings.context_length)
    except ModelNotFound:
        if not card:
            raise
    return Served(client.url.removesuffix("/v1"), wanted, context_length or _CONTEXT_LENGTH, key, embeds)


def _smaller(own: int | None, limit: int | None) -> int | None:
    return min((each for each in (own, limit) if each), default=None)


def _unknown(client: str, known: list[str]) -> str:
    from difflib import get_close_matches

    nearest = get_close_matches(client.lower().replace(" ", "-"), known, n=1, cutoff=0.4)
    hint = f"the nearest one is {nearest[0]}" if nearest else f"known are {', '.join(known)}"
    return f"there is no client {client!r}; {hint}"
