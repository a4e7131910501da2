"""The command `bramley`: arguments in, exit codes out. What the commands do is in server/cli/commands/."""

import sys
from typing import Annotated

import typer

from server.cli.commands import CommandGroup
from server.exit_codes import DONE, FAILURE, IN_WORDS, CommandFailed

app = typer.Typer(
    name="bramley",
    cls=CommandGroup,
    epilog=IN_WORDS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would draw boxes around the help, and takes longer than all the rest to import
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from server.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def bramley(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """A local inference server with an OpenAI-compatible HTTP API, on Apple's MLX."""
    del version  # its callback has done it


def main() -> int:
    """Run the command line; returns the exit code. Expected failures are one line on the error stream."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"bramley: {error}\n")
        return code
    return DONE


def _exit_code(error: Exception) -> int | None:
    """The code of a failure that has a sentence for people; None for a mistake of this program."""
    from engine.errors import EngineError
    from server.cli.engine_exit_codes import code_of
    from server.terminal.chat_client import ChatFailed

    if isinstance(error, CommandFailed):
        return error.exit_code
    if isinstance(error, EngineError):
        return code_of(error)
    return FAILURE if isinstance(error, ChatFailed) else None


if __name__ == "__main__":
    sys.exit(main())
