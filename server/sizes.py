"""Sizes and names from outside, as they may stand in a sentence for people. Knows no models and no files."""

_MAX_SHOWN = 80


def megabytes(num_bytes: int) -> str:
    """A size for people, in decimal units."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"


def shown(name: str) -> str:
    """A name from outside as it may stand in a message or a log: quoted, escaped and not long."""
    return ascii(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")
