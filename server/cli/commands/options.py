"""The options that several commands take, the flags made of declared settings, and the way from flags to settings."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from server.options import declared

if TYPE_CHECKING:
    from server.settings import Settings


def _ids_here(incomplete: str) -> list[str]:
    """Ids of stored models that begin so, for the shell's completion. A wrong setting completes nothing."""
    from server.cli.find import store_of
    from server.exit_codes import CommandFailed

    try:
        models = store_of(settings_of()).list()
    except (CommandFailed, typer.BadParameter):
        return []
    return [model.id for model in models if model.id.startswith(incomplete)]


def setting_option(name: str) -> Any:
    """The flag of a declared setting, as Typer describes it."""
    setting = declared()[name]
    option, is_list = setting.option, get_origin(setting.type) is tuple
    number = _is_number(setting.type)
    return typer.Option(
        setting.flag,
        help=f"{option.help} May be given several times." if is_list else option.help,
        show_default=setting.default_in_words or False,
        metavar=option.unit.upper() or None,
        min=option.least if number else None,
        max=option.most if number else None,
    )


def settings_as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each declared setting that has one. The command takes them as keyword arguments."""
    kind = Parameter.KEYWORD_ONLY
    flags = [
        Parameter(each.name, kind, default=None, annotation=Annotated[_flag_type(each.type), setting_option(each.name)])
        for each in declared().values()
        if each.flag is not None
    ]
    parameters = signature(command).parameters.values()
    own = [each.replace(kind=kind) for each in parameters if each.kind is not Parameter.VAR_KEYWORD]
    command.__signature__ = Signature([*own, *flags])  # type: ignore[attr-defined]  # read by inspect.signature
    return command


def _flag_type(declared_type: Any) -> Any:
    """The type that Typer reads: every flag may be left out, and choices among numbers are checked by the settings."""
    if get_origin(declared_type) is tuple:
        return list[str] | None
    if get_origin(declared_type) in (Union, UnionType):
        inner = next(each for each in get_args(declared_type) if each is not NoneType)
        return _flag_type(inner)
    if get_origin(declared_type) is Literal and isinstance(get_args(declared_type)[0], int):
        return int | None
    return declared_type | None


def _is_number(declared_type: Any) -> bool:
    return any(each in (int, float) for each in (declared_type, *get_args(declared_type)))


ModelsDir = Annotated[Path | None, setting_option("models_dir")]
ConfigFile = Annotated[Path | None, setting_option("config")]
ModelName = Annotated[
    str,
    typer.Argument(
        help="A catalogue id, a Hugging Face repository (org/name), or a path.",
        show_default=False,
        autocompletion=_ids_here,
    ),
]
StoredName = Annotated[str, typer.Argument(help="The model's id.", show_default=False, autocompletion=_ids_here)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were set. An empty list is a repeatable flag that was not given."""
    return {name: value for name, value in options.items() if value not in (None, [])}


def settings_of(**options: Any) -> "Settings":
    """The settings with these options on top. Raises BadParameter for one that cannot be, ConfigInvalid otherwise."""
    from pydantic import ValidationError

    from server.settings import load_settings

    flags = given(**options)
    try:
        return load_settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        where = "" if name in flags else " (of the environment or the configuration)"
        raise typer.BadParameter(f"{name}{where}: {first['msg']}") from None
