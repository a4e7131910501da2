"""The version of what is running."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("bramley")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0+checkout"


VERSION = _installed()
FINGERPRINT = f"bramley-{VERSION}"
