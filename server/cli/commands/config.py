"""The commands about settings: which hold, where each came from, and where their file is."""

from typing import Annotated, Any

import typer

from server.cli.commands.options import AsJson, ConfigFile, given, settings_of

app = typer.Typer(
    help="Show the settings, and where each comes from.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Print every setting with its value, as the configuration file would have it. Keys are not shown."""
    from server.config_file import names_in_file, origins, read_config
    from server.terminal.output import print_json, say, show_rows

    flags = given(config=config)
    settings = settings_of(**flags)
    file = {} if settings.config is None else read_config(settings.config, names_in_file(type(settings)))
    found = origins(settings, flags, file)
    if as_json:
        print_json([{"name": each.name, "value": _plain(each.value), "origin": each.origin} for each in found])
    elif origin:
        show_rows(("SETTING", "VALUE", "ORIGIN"), [(each.name, _as_toml(each.value), each.origin) for each in found])
    else:
        for each in found:
            if each.name in names_in_file(type(settings)):
                unset = each.value is None or each.name == "api_keys"
                say(f"{'# ' if unset else ''}{each.name} = {_as_toml(each.value)}")


@app.command()
def path(config: ConfigFile = None) -> None:
    """Print where the configuration file is, or would be."""
    from server.config_file import default_path
    from server.terminal.output import note, say

    used = settings_of(**given(config=config)).config
    say(str(used or default_path()))
    if used is None:
        note("There is none yet: every line of it is `name = value`, with the names of `bramley config show`.")


def _plain(value: Any) -> Any:
    from pathlib import Path

    from pydantic import SecretStr

    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path | SecretStr) else value


def _as_toml(value: Any) -> str:
    """A value as TOML spells it; "" for none, which TOML does not have."""
    import json

    plain = _plain(value)
    return "" if plain is None else json.dumps(plain, ensure_ascii=False)
