"""The command that serves. What it serves, and how, is server/serve.py's."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.commands.options import ConfigFile, ModelsDir, settings_of

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


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
    config: ConfigFile = None,
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
    bits: Annotated[
        int | None,
        typer.Option(help="Pack weights in 8, 6, 5, 4, 3 or 2 bits as they are loaded.", show_default="as they are"),
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
    memory_budget: Annotated[
        float | None,
        typer.Option(
            help="Memory that loaded models may take together, in GB (10^9 bytes).",
            show_default="three quarters of the machine's",
        ),
    ] = None,
    idle_minutes: Annotated[
        float | None,
        typer.Option(help="Unload a model unused for so long.", show_default="stays until its memory is needed"),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Model that is never unloaded once it is loaded; repeatable.", show_default=False),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="Another name for a model, as gpt-4o=smollm2-135m; repeatable.", show_default=False),
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
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Lines for people, or JSON objects.", show_default="text")
    ] = None,
    until_input_closes: Annotated[
        bool, typer.Option("--until-input-closes", hidden=True, help="End when standard input closes.")
    ] = False,
) -> None:
    """Serve models over HTTP. A model that is not here yet is fetched first."""
    from server.cli.find import model_here, store_of
    from server.serve import serve as serve_models
    from server.terminal.own_server import end_when_input_closes

    settings = settings_of(
        config=config,
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
        bits=bits,
        kv_bits=kv_bits,
        kv_gb=kv_gb,
        prefix_gb=prefix_gb,
        prefix_disk_gb=prefix_disk_gb,
        memory_budget_gb=memory_budget,
        idle_minutes=idle_minutes,
        pins=tuple(pin) if pin else None,
        aliases=tuple(alias) if alias else None,
        kernels=kernels,
        threads=threads,
        api_keys_file=api_keys_file,
        allowed_hosts=tuple(allowed_host) if allowed_host else None,
        allowed_origins=tuple(allowed_origin) if allowed_origin else None,
        allow_insecure=allow_insecure,
        log_level=log_level,
        log_format=log_format,
    )
    store = store_of(settings)
    if until_input_closes:
        end_when_input_closes()
    raise typer.Exit(serve_models(settings, find=lambda name: model_here(name, store), store=store))
