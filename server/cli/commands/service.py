"""The commands about a server that starts with the session."""

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.commands.options import AsJson, ConfigFile, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.settings import Settings

app = typer.Typer(
    help="Run the server with your session. A launchd agent on macOS, a systemd user unit on Linux.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def install(
    model: Annotated[
        list[str] | None, typer.Argument(help="Models to serve.", show_default="those of the configuration")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write the service's file, start it, and have it start with every session."""
    from server.cli.service import agent_here, program
    from server.settings import variables_in_use
    from server.terminal.output import note, say

    settings = settings_of(config=config, models=tuple(model) if model else None)
    agent = agent_here()
    agent.install(_command(program(), model or [], settings), settings.drain_seconds)
    say(f"{agent.path} is written, and the service is started: {_url(settings)}")
    left_out = [name for name in variables_in_use() if name != "BRAMLEY_CONFIG"]
    if left_out:
        note(f"The service does not see {', '.join(left_out)}: put what they say into the configuration.")


@app.command()
def uninstall() -> None:
    """Stop the service and delete its file. Models, configuration and logs stay."""
    from server.cli.service import agent_here
    from server.terminal.output import say

    agent = agent_here()
    agent.uninstall()
    say(f"{agent.path} is deleted.")


@app.command()
def start() -> None:
    """Start the service."""
    from server.cli.service import agent_here

    agent_here().start()


@app.command()
def stop() -> None:
    """Stop the service until the next session; running answers are finished."""
    from server.cli.service import agent_here

    agent_here().stop()


@app.command()
def status(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Say whether the service is installed, runs, and answers. Exit code 1 where it does not run."""
    from server.cli.service import agent_here
    from server.exit_codes import FAILURE
    from server.terminal.chat_client import ChatClient, reachable
    from server.terminal.output import print_json, say

    settings = settings_of(config=config)
    agent = agent_here()
    state = agent.state()
    answers = ChatClient(reachable(settings.host), settings.port).is_up()
    if as_json:
        found = {"installed": state.installed, "running": state.running, "process_id": state.process_id}
        print_json({**found, "answers": answers, "url": _url(settings), "file": str(agent.path)})
    else:
        where = f" as process {state.process_id}" if state.process_id else ""
        say("installed" if state.installed else "not installed: `bramley service install` does so")
        say(f"running{where}" if state.running else "not running")
        say(f"{_url(settings)} {'answers' if answers else 'does not answer'}")
    if not state.running:
        raise typer.Exit(FAILURE)


@app.command()
def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.", min=1)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come.")] = False,
) -> None:
    """Show the service's log."""
    import subprocess

    from server.cli.service import agent_here

    raise typer.Exit(subprocess.run(agent_here().logs(lines, follow=follow), check=False).returncode)


def _command(program: str, models: "Sequence[str]", settings: "Settings") -> list[str]:
    """The command that the service runs; paths in it are absolute, since a service has no folder of its own."""
    from server.store.local_source import local_path

    names = [str(local_path(name) or name) for name in models]
    config = [] if settings.config is None else ["--config", str(settings.config.absolute())]
    return [program, "serve", *names, *config]


def _url(settings: "Settings") -> str:
    from server.terminal.chat_client import ChatClient, reachable

    return ChatClient(reachable(settings.host), settings.port).url
