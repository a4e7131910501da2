"""A sample of the damaged models of scripts/mutate_models: each works or is refused in a sentence."""

import subprocess
import sys


def test_damaged_models_are_refused_in_a_sentence(request):
    script = request.config.rootpath / "scripts" / "mutate_models"
    command = [sys.executable, str(script), "60", "--seed", "suite", "--seconds", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
