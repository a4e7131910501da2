"""The real server over the real worker: `real_serve.py NAME PATH`, settings from the environment."""

import sys
from pathlib import Path

from server.serve import serve
from server.settings import Settings
from server.store.stored_model import StoredModel

if __name__ == "__main__":
    name, path = sys.argv[1], Path(sys.argv[2])
    stored = StoredModel(name, path, path.stat().st_size, "gguf", "a test", 1_800_000_000)
    sys.exit(serve(Settings(models=(name,)), find=lambda _: stored))
