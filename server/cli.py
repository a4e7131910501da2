"""The command `bramley`: arguments in, exit codes out. Every command imports what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a file is damaged, 4 the disk is full, 5 busy (a port or a model),
130 interrupted.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store import Store
    from server.stored_model import StoredModel

app = typer.Typer(
    name="bramley",
    help="A local inference server with an OpenAI-compatible HTTP API, on Apple's MLX.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a file is damaged, 4 the disk is full, 5 busy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the models.", show_default="models/ of the checkout, or in the user's data folder"),
]
ModelName = Annotated[
    str,
    typer.Argument(help="A catalogue id, a Hugging Face repository (org/name), or a path.", show_default=False),
]
LogLevel = Literal["debug", "info", "warning", "error"]


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to serve: ids, repositories or paths; the first is the default one.",
            show_default="smollm2-135m",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535, show_default="8080"),
    ] = None,
    models_dir: ModelsDir = None,
    context_length: Annotated[
        int | None,
        typer.Option(help="Tokens of prompt and answer together.", min=1, show_default="the model's own"),
    ] = None,
    default_max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Longest answer to chat requests that set no limit.",
            min=1,
            show_default="until the context ends",
        ),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(help="Requests that run or wait, per model.", min=1, show_default="1024"),
    ] = None,
    endless: Annotated[
        bool | None,
        typer.Option("--endless", help="Go on past the context without the oldest tokens.", show_default=False),
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="Requests that run at once.", min=1, show_default="16")] = None,
    max_gap_ms: Annotated[
        float | None,
        typer.Option(help="Longest pause of a stream while other prompts are read.", min=10, show_default="200"),
    ] = None,
    kv_bits: Annotated[
        int | None,
        typer.Option(help="Keep keys and values in 8 or 4 bits.", min=4, max=8, show_default="as computed"),
    ] = None,
    kv_gb: Annotated[
        float | None,
        typer.Option(help="Memory for keys and values of running requests.", show_default="what is to spare"),
    ] = None,
    prefix_gb: Annotated[
        float | None,
        typer.Option(help="Memory for those of earlier requests; 0 keeps none.", show_default="a third of kv-gb"),
    ] = None,
    prefix_disk_gb: Annotated[
        float | None,
        typer.Option(help="Disk for the same, over restarts; 0 keeps none.", show_default="4"),
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(help="On Linux: native, avx2, portable, or off for MLX's own.", show_default="native"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of the kernels, on Linux.", min=1, show_default="one per CPU")
    ] = None,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(help="File of API keys, one per line; BRAMLEY_API_KEYS holds keys too.", show_default=False),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name by which clients may reach the server; repeatable.", show_default=False),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(help="Further web origin that may use the server; repeatable.", show_default=False),
    ] = None,
    allow_insecure: Annotated[
        bool | None,
        typer.Option("--allow-insecure", help="Listen on a public address without a key.", show_default=False),
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="How much to log.", show_default="info")] = None,
    until_input_closes: Annotated[
        bool, typer.Option("--until-input-closes", hidden=True, help="End when standard input closes.")
    ] = False,
) -> None:
    """Serve models over HTTP. A model that is not here yet is fetched first."""
    from server.own_server import end_when_input_closes
    from server.serve import serve as serve_models

    settings = _settings(
        models=tuple(model) if model else None,
        host=host,
        port=port,
        models_dir=models_dir,
        context_length=context_length,
        default_max_tokens=default_max_tokens,
        max_queue=max_queue,
        endless=endless,
        max_rows=max_rows,
        max_gap_ms=max_gap_ms,
        kv_bits=kv_bits,
        kv_gb=kv_gb,
        prefix_gb=prefix_gb,
        prefix_disk_gb=prefix_disk_gb,
        kernels=kernels,
        threads=threads,
        api_keys_file=api_keys_file,
        allowed_hosts=tuple(allowed_host) if allowed_host else None,
        allowed_origins=tuple(allowed_origin) if allowed_origin else None,
        allow_insecure=allow_insecure,
        log_level=log_level,
    )
    store = _store(settings)
    if until_input_closes:
        end_when_input_closes()
    raise typer.Exit(serve_models(settings, find=lambda name: _here(name, store)))


@app.command()
def pull(name: ModelName, models_dir: ModelsDir = None) -> None:
    """Fetch a model into the store. A folder or a .gguf file is copied; `serve` can also use it where it lies."""
    from server.pull import pull as pull_model
    from server.store_errors import megabytes
    from server.terminal import pull_report, say

    with pull_report(name) as report:
        model = pull_model(name, _store(_settings(models_dir=models_dir)), report)
    say(f"{model.id} is here: {megabytes(model.num_bytes)}, {model.format}, from {model.source}.")


@app.command()
def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """List the models that can be served: those of the store, and those of the user's Hugging Face cache."""
    from server.terminal import note, say, show_models

    store = _store(_settings(models_dir=models_dir))
    models = store.list()
    if as_json:
        say(_as_json(models))
        return
    show_models(models)
    missing = [entry.id for entry in store.catalog.models if entry.id not in {model.id for model in models}]
    if missing:
        note(f"To be had with `bramley pull`: {', '.join(missing)}, or any Hugging Face repository.")


@app.command()
def rm(
    name: Annotated[str, typer.Argument(help="The model's id.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Delete a model from the store, or what is left of an unfinished download."""
    from server.store_errors import megabytes
    from server.terminal import is_terminal, say

    store = _store(_settings(models_dir=models_dir))
    model_id = store.resolve(name)
    if not yes:
        if not is_terminal(sys.stdin):
            raise typer.BadParameter("say --yes where nobody can be asked")
        typer.confirm(f"Delete {model_id}?", abort=True)
    say(f"{model_id} is deleted: {megabytes(store.remove(name))} freed.")


@app.command()
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
    models_dir: ModelsDir = None,
) -> None:
    """Chat in the terminal, with the running server where it has the model, else with one for this chat alone."""
    from server.chat_client import ChatClient
    from server.own_server import own_server, serve_command
    from server.store_errors import ModelUnfit
    from server.terminal import is_terminal
    from server.terminal_chat import TerminalChat

    settings = _settings(models_dir=models_dir)
    if prompt is None and not is_terminal(sys.stdin):
        prompt = sys.stdin.read()
    options = _given(temperature=temperature, max_completion_tokens=max_tokens, seed=seed)
    key = next(iter(settings.keys()), "")
    running = ChatClient(_reachable(settings.host), settings.port, key)
    if running.serves(model):
        _chat(TerminalChat(running, model, system=system, options=options), prompt)
        return
    found = _here(model, _store(settings))
    if found.only_embeds:
        raise ModelUnfit(found.id, "makes embeddings and does not chat; `bramley serve` serves it")
    with own_server(serve_command(model, settings.models_dir), key) as client:
        _chat(TerminalChat(client, found.id, system=system, options=options), prompt)


@app.command()
def version() -> None:
    """Print the versions of Bramley, Python and MLX."""
    from importlib.metadata import version as installed
    from platform import platform, python_version

    from server.terminal import say
    from server.version import VERSION

    say(f"bramley {VERSION}\npython {python_version()}\nmlx {installed('mlx')}\n{platform()}")


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
    return 0


def _exit_code(error: Exception) -> int | None:
    """The code of a failure that has a sentence for people; None for a mistake of this program."""
    from engine.errors import EngineError
    from server.chat_client import ChatFailed
    from server.store_errors import EXIT_FAILURE, StoreError

    if isinstance(error, StoreError):
        return error.exit_code
    return EXIT_FAILURE if isinstance(error, ChatFailed | EngineError) else None


def _given(**options: Any) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in options.items() if value is not None}


def _settings(**options: Any) -> "Settings":
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**_given(**options))
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _store(settings: "Settings") -> "Store":
    from server.store import Store

    return Store(settings.models_dir.expanduser(), settings.hub_cache)


def _here(name: str, store: "Store") -> "StoredModel":
    """The model, from the store, in its place on this machine, or fetched."""
    from server.local_source import LocalSource, local_path
    from server.store_errors import ModelNotFound

    path = local_path(name)
    if path is not None:
        return LocalSource(path).in_place()
    try:
        return store.find(name)
    except ModelNotFound:
        return _fetched(name, store)


def _fetched(name: str, store: "Store") -> "StoredModel":
    from server.pull import pull as pull_model
    from server.terminal import pull_report

    with pull_report(name) as report:
        return pull_model(name, store, report)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  # a comparison


def _chat(chat: Any, prompt: str | None) -> None:
    if prompt is None:
        chat.talk()
    else:
        chat.answer(prompt)


def _as_json(models: "Any") -> str:
    import msgspec

    rows = [
        {
            "id": model.id,
            "path": str(model.path),
            "bytes": model.num_bytes,
            "format": model.format,
            "task": model.task,
            "aliases": model.aliases,
            "source": model.source,
            "created": model.created,
        }
        for model in models
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode()


if __name__ == "__main__":
    sys.exit(main())
