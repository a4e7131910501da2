"""The address the server listens on: may it, and is it free. Imports nothing heavy: it comes before everything else."""

import errno
import socket
from collections.abc import Collection
from ipaddress import ip_address

from server.exit_codes import BUSY, USAGE


class AddressRefused(Exception):
    """The server must not or cannot listen there. str() is one sentence; exit_code is for the shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_key_in_public(host: str, keys: Collection[str], *, allow_insecure: bool) -> None:
    """Raise AddressRefused for an address that others reach while no key is set."""
    if not (is_loopback(host) or keys or allow_insecure):
        raise AddressRefused(
            f"{host} can be reached from other machines, and no API key is set. Set BRAMLEY_API_KEYS or "
            "BRAMLEY_API_KEYS_FILE, or say --allow-insecure if everybody may use this server.",
            USAGE,
        )


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that already queues connections. Raises AddressRefused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches off Nagle's delay, 40 ms per answer, only where the protocol is spelled out.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host.strip("[]"), port))
        opened.listen(backlog)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} on {host} is in use by another program. Stop it, or choose another with --port."
            raise AddressRefused(message, BUSY) from None
        raise AddressRefused(f"Cannot listen on {host} port {port}: {error.strerror}.", USAGE) from None
    return opened
