"""Who can reach the server and with what key, and whether its port is free. Asks this machine only."""

import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from server.cli.doctor.finding import Finding, failure, ok, warning
from server.http.binding import AddressRefused, is_loopback, require_key_in_public
from server.settings import Settings
from server.terminal.chat_client import ChatClient, reachable

_ASK_SECONDS = 0.2


def look(settings: Settings) -> Iterator[Finding]:
    """Port, address, keys and doors."""
    keys: tuple[str, ...] = ()
    try:
        keys = settings.keys()
    except OSError as error:
        mend = "Create it with one key per line, or set api_keys_file to another file."
        yield failure("API keys", f"{settings.api_keys_file} cannot be read: {error.strerror}", mend)
    yield _port(settings, keys)
    yield _address(settings, keys)
    yield from _key_files(settings)
    if "*" in settings.allowed_hosts and not keys:
        yield warning(
            "allowed hosts", "any name", "Name them one by one: any web page could reach this server otherwise."
        )
    if "*" in settings.allowed_origins and not keys:
        yield warning("allowed origins", "any web page", "Name them one by one, or set an API key.")


def _port(settings: Settings, keys: tuple[str, ...]) -> Finding:
    host, port = reachable(settings.host), settings.port
    if port == 0:
        return ok("port", "any free one")
    if not _answers(host, port):
        return ok("port", f"{port} is free")
    bramley = ChatClient(host, port, next(iter(keys), ""), _ASK_SECONDS).is_bramley()
    if bramley:
        return ok("port", f"{port}: Bramley is serving")
    if bramley is None:
        mend = "`bramley ps` asks with more patience; if it is another program, choose another port with --port."
        return warning("port", f"{port} is taken, and whoever has it did not answer within {_ASK_SECONDS} s", mend)
    found = f"{port} is used by another program, or by a Bramley that wants another key"
    return failure("port", found, "Stop that one, or choose another with --port.")


def _answers(host: str, port: int) -> bool:
    try:
        with closing(socket.create_connection((host.strip("[]"), port), timeout=_ASK_SECONDS)):
            return True
    except OSError:
        return False


def _address(settings: Settings, keys: tuple[str, ...]) -> Finding:
    count = f"{len(keys)} API key{'s'[: len(keys) - 1]}" if keys else "no API key"
    found = f"{settings.host}, {count}"
    if is_loopback(settings.host):
        return ok("address", f"{found}: this machine only")
    try:
        require_key_in_public(settings.host, keys, allow_insecure=False)
    except AddressRefused:
        mend = "Set BRAMLEY_API_KEYS or api_keys_file, or listen on 127.0.0.1."
        if settings.allow_insecure:
            return warning("address", f"{found}: everybody who reaches this machine may use it", mend)
        return failure("address", f"{found}: serve will refuse to start", mend)
    return ok("address", f"{found}: other machines may use it with a key")


def _key_files(settings: Settings) -> Iterator[Finding]:
    files = [settings.api_keys_file, settings.config if settings.api_keys else None]
    for path in files:
        if path is not None and _others_may_read(path):
            yield warning("key file", f"others may read {path}", f"chmod 600 {path}")


def _others_may_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)) and path.is_file()
    except OSError:
        return False
