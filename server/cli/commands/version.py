"""The command that says what is installed."""

from server.cli.commands.options import AsJson


def version(as_json: AsJson = False) -> None:
    """Print the versions of Bramley, Python and MLX."""
    from importlib.metadata import version as installed
    from platform import platform, python_version

    from server.terminal.output import print_json, say
    from server.version import VERSION

    versions = {"bramley": VERSION, "python": python_version(), "mlx": installed("mlx"), "system": platform()}
    if as_json:
        print_json(versions)
    else:
        say("\n".join(f"{name} {value}" for name, value in versions.items()))
