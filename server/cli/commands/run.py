"""The command that chats in the terminal."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.options import ConfigFile, ModelName, ModelsDir, given, settings_of

if TYPE_CHECKING:
    from server.terminal.chat_client import ChatClient
    from server.terminal.terminal_chat import TerminalChat


def run(
    model: ModelName,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Answer this and end. Without it: a conversation, or the piped input.", show_default=False),
    ] = None,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    temperature: Annotated[
        float | None,
        typer.Option(help="0 always takes the likeliest token.", min=0.0, max=2.0, show_default="the model's own"),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longest answer in tokens.", min=1, show_default="until the context ends"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.", show_default=False)] = None,
    config: ConfigFile = None,
    models_dir: ModelsDir = None,
) -> None:
    """Chat in the terminal. With the running server where it has the model, else with one for this chat alone."""
    from server.cli.find import model_here, store_of
    from server.store.errors import ModelUnfit
    from server.terminal.chat_client import ChatClient, reachable
    from server.terminal.output import is_terminal
    from server.terminal.own_server import own_server, serve_command
    from server.terminal.terminal_chat import TerminalChat

    settings = settings_of(config=config, models_dir=models_dir)
    if prompt is None and not is_terminal(sys.stdin):
        prompt = sys.stdin.read()
    options = given(temperature=temperature, max_completion_tokens=max_tokens, seed=seed)
    key = next(iter(settings.keys()), "")
    running = ChatClient(reachable(settings.host), settings.port, key)
    if running.serves(model):
        _chat(TerminalChat(running, model, system=system, options=options), prompt)
        return
    found = model_here(model, store_of(settings))
    if found.only_embeds:
        raise ModelUnfit(found.id, "makes embeddings and does not chat; `bramley serve` serves it")
    with own_server(serve_command(model, settings.models_dir, settings.config), key) as client:
        if is_terminal(sys.stderr):
            _show_load(client, found.id)
        _chat(TerminalChat(client, found.id, system=system, options=options), prompt)


def _show_load(client: "ChatClient", name: str) -> None:
    """A bar until the model is there; what went wrong is said by the first answer."""
    import asyncio
    from functools import partial

    from server.terminal.chat_client import ChatFailed
    from server.terminal.load_report import report_load
    from server.terminal.progress import progress_report

    def loading() -> tuple[int, int] | None:
        try:
            health = client.ask("GET", "/health")
        except ChatFailed:
            return None
        return (health["done_bytes"], health["total_bytes"]) if health["status"] == "loading" else None

    asyncio.run(report_load(loading, partial(progress_report, name)))


def _chat(chat: "TerminalChat", prompt: str | None) -> None:
    if prompt is None:
        chat.talk()
    else:
        chat.answer(prompt)
