"""Every setting, declared once: name, type, default, bounds, unit and help. Plain values; imports nothing that is slow.

`server/settings.py` makes of each one a variable BRAMLEY_NAME and a key of the configuration file, and the commands
make a flag of it. Secrets, and the variables of other tools, are declared in `server/settings.py` alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from engine.settings import KernelChoice

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """The description of one setting, for people, and the bounds of its values.

    help: a sentence that can be read without the others
    unset: the default in words, where the value does not tell it
    unit: of a number, where the help does not name it
    least, most: bounds of a number, both included; above: a bound that is not
    flag: "" derives it from the name; None for a setting that is too seldom used for a flag
    """

    help: str
    unset: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    flag: str | None = ""

    # The protocol by which pydantic takes bounds from a value among the annotations.
    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[Any]:
        import annotated_types as bounds  # noqa: PLC0415  # `bramley --help` does without

        made = ((bounds.Ge, self.least), (bounds.Le, self.most), (bounds.Gt, self.above))
        return (bound(value) for bound, value in made if value is not None)


class Options:
    """The settings by name. Lists are arrays in the configuration file and separated by commas in variables."""

    config: Annotated[
        Path | None,
        Option("TOML file of settings.", unset="config.toml in the user's configuration folder, if it is there"),
    ] = None
    models: Annotated[
        Names,
        Option("Models to serve: ids, repositories or paths. The first is for requests that name no model.", flag=None),
    ] = ("smollm2-135m",)
    models_dir: Annotated[
        Path, Option("Folder of the stored models.", unset="models/ of the checkout, or in the user's data folder")
    ]

    host: Annotated[str, Option("Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on; 0 takes a free port.", least=0, most=65535)] = 8080
    api_keys_file: Annotated[
        Path | None,
        Option("File of API keys, one per line. The variable BRAMLEY_API_KEYS holds keys too.", unset="no keys"),
    ] = None
    allowed_hosts: Annotated[
        Names,
        Option("Further host name by which clients may reach the server; * allows every name.", flag="--allowed-host"),
    ] = ()
    allowed_origins: Annotated[
        Names,
        Option("Further web origin whose pages may use the server; * allows every page.", flag="--allowed-origin"),
    ] = ()
    allow_insecure: Annotated[bool, Option("Listen on a public address without an API key.")] = False

    context_length: Annotated[
        int | None,
        Option("Longest prompt and answer together.", unset="the model's own context", unit="tokens", least=1),
    ] = None
    endless: Annotated[
        bool, Option("Go on past the end of the context by leaving out the oldest tokens of a conversation.")
    ] = False
    default_max_tokens: Annotated[
        int | None,
        Option(
            "Longest answer to a chat request that sets no limit itself.",
            unset="until the context ends",
            unit="tokens",
            least=1,
        ),
    ] = None
    max_queue: Annotated[
        int, Option("Requests per model that may run or wait; further requests are turned away.", least=1)
    ] = 1024
    trust_priorities: Annotated[
        bool,
        Option("Serve requests of a negative priority before the others. Without it, requests can only step back."),
    ] = False
    max_rows: Annotated[
        int, Option("Sequences that are generated at once in one batch; the others wait.", least=1, most=256)
    ] = 16
    max_gap_ms: Annotated[
        float,
        Option("Longest pause of a running stream during the prefill of other prompts.", unit="ms", least=10),
    ] = 200.0

    bits: Annotated[
        Literal[2, 3, 4, 5, 6, 8] | None,
        Option("Quantize weights to 8, 6, 5, 4, 3 or 2 bits while a model is loaded.", unset="as they are stored"),
    ] = None
    kv_bits: Annotated[
        Literal[4, 8] | None, Option("Quantize the KV cache (keys and values) to 8 or 4 bits.", unset="as computed")
    ] = None
    kv_gb: Annotated[
        float | None,
        Option(
            "Memory for the KV cache of running requests, in units of 10^9 bytes.",
            unset="a share of the memory that is free",
            unit="GB",
            above=0,
        ),
    ] = None
    prefix_gb: Annotated[
        float | None,
        Option(
            "Memory for the prefix cache, which keeps keys and values of earlier requests; 0 keeps none.",
            unset="a third of kv-gb",
            unit="GB",
            least=0,
        ),
    ] = None
    prefix_disk_gb: Annotated[
        float,
        Option("Disk space for the prefix cache, which then outlives a restart; 0 keeps none.", unit="GB", least=0),
    ] = 4.0
    prefix_folder: Annotated[
        Path, Option("Folder of the prefix cache on disk.", unset="in the user's cache folder", flag=None)
    ]
    memory_budget_gb: Annotated[
        float | None,
        Option(
            "Memory that all loaded models may take together, in units of 10^9 bytes.",
            unset="three quarters of the machine's memory",
            unit="GB",
            above=0,
        ),
    ] = None
    memory_file: Annotated[
        Path,
        Option("File that remembers the memory each model took.", unset="in the user's cache folder", flag=None),
    ]
    idle_minutes: Annotated[
        float | None,
        Option(
            "Unload a model that nobody has used for this time.",
            unset="a model stays until its memory is needed",
            unit="minutes",
            above=0,
        ),
    ] = None
    patience_seconds: Annotated[
        float,
        Option(
            "Time that a model waits for another model to become idle, before the other takes no new requests.",
            unit="seconds",
            least=0,
            flag=None,
        ),
    ] = 15.0
    pins: Annotated[Names, Option("Model that is never unloaded once it is loaded.", flag="--pin")] = ()
    aliases: Annotated[Names, Option("Another name for a model, as gpt-4o=smollm2-135m.", flag="--alias")] = ()
    kernels: Annotated[
        KernelChoice,
        Option("Kernels for the CPU, on Linux: native, avx2 or portable; off computes with MLX's own operations."),
    ] = "native"
    threads: Annotated[
        int | None,
        Option("Threads of the CPU's kernels, on Linux.", unset="one per usable CPU", least=1, most=1024),
    ] = None

    max_body_bytes: Annotated[int, Option("Longest body of an HTTP request.", unit="bytes", least=1024, flag=None)] = (
        64 * 2**20
    )
    max_header_bytes: Annotated[
        int, Option("Longest headers of an HTTP request.", unit="bytes", least=1024, flag=None)
    ] = 64 * 2**10
    listen_backlog: Annotated[
        int, Option("Connections that the system queues before the server accepts them.", least=1, flag=None)
    ] = 2048
    read_timeout_seconds: Annotated[
        float, Option("Longest wait for the rest of a request.", unit="seconds", above=0, flag=None)
    ] = 30.0
    stalled_reader_seconds: Annotated[
        float, Option("Longest wait for a client that does not read its answer.", unit="seconds", above=0, flag=None)
    ] = 30.0
    stream_ping_seconds: Annotated[
        float,
        Option(
            "Silence of a streamed answer after which a sign of life is sent; 0 sends none, and the status of a stream "
            "waits for its first token.",
            unit="seconds",
            least=0,
            flag=None,
        ),
    ] = 5.0
    keep_alive_seconds: Annotated[
        int, Option("Time that a connection stays open between requests.", unit="seconds", least=1, flag=None)
    ] = 75
    drain_seconds: Annotated[
        float, Option("Time for running answers to finish when the server ends.", unit="seconds", least=0, flag=None)
    ] = 30.0
    load_seconds: Annotated[
        float, Option("Longest wait of a request for its model to load.", unit="seconds", above=0, flag=None)
    ] = 600.0
    silence_stale_seconds: Annotated[
        int, Option("Silence after which a worker process counts as stuck.", unit="seconds", least=1, flag=None)
    ] = 8
    silence_dead_seconds: Annotated[
        int, Option("Silence after which a worker process is killed.", unit="seconds", least=2, flag=None)
    ] = 25

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Option("Least important messages that the log shows.")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Option("Form of the log: lines of text for people, or JSON objects.")
    ] = "text"


@dataclass(frozen=True, slots=True)
class Declared:
    """A setting as declared. type: of its values; default: None also where only the machine can tell it."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str | None:
        """The flag of the command line, if it has one."""
        return f"--{self.name.replace('_', '-')}" if self.option.flag == "" else self.option.flag

    @property
    def default_in_words(self) -> str:
        """The default for people; "" where nothing needs to be said."""
        if self.option.unset:
            return self.option.unset
        plain = ", ".join(self.default) if isinstance(self.default, tuple) else self.default
        return "" if plain in (None, False) else f"{plain:g}" if isinstance(plain, float) else str(plain)


@cache
def declared() -> Mapping[str, Declared]:
    """All settings by name, in the order of the help."""
    hints = get_type_hints(Options, include_extras=True).items()
    return {
        name: Declared(name, hint.__origin__, getattr(Options, name, None), hint.__metadata__[0])
        for name, hint in hints
    }
