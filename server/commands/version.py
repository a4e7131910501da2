"""The command that says what is installed."""


def version() -> None:
    """Print the versions of Bramley, Python and MLX."""
    from importlib.metadata import version as installed
    from platform import platform, python_version

    from server.terminal import say
    from server.version import VERSION

    say(f"bramley {VERSION}\npython {python_version()}\nmlx {installed('mlx')}\n{platform()}")
