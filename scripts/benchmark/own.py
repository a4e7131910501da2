"""A server of this checkout for as long as it is measured, with folders of its own. Knows processes, no figures."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class OwnServer:
    """Start, and start again: what lies in the folder of prefixes is there after a restart, and gone in the end."""

    def __init__(self, model: str, prefix_folder: Path) -> None:
        self._model = model
        self._prefix_folder = prefix_folder
        self._running: AbstractContextManager | None = None

    def start(self) -> str:
        """Have a fresh process; returns its base URL."""
        from server.settings import load_settings
        from server.terminal.own_server import own_server, serve_command

        self.stop()
        os.environ["BRAMLEY_PREFIX_FOLDER"] = str(self._prefix_folder)
        settings = load_settings()
        self._running = own_server(serve_command(self._model, settings.models_dir, settings.config))
        return self._running.__enter__().url

    def stop(self) -> None:
        """End the process, if there is one."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)


@contextmanager
def own(model: str) -> Iterator[OwnServer]:
    """An own server that is gone afterwards."""
    if (ROOT / "server").is_dir():  # else Bramley is installed without a checkout
        sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        server = OwnServer(model, Path(folder))
        try:
            yield server
        finally:
            server.stop()
