"""A sample of the damaged models of scripts/mutate_models: each works or is refused in a sentence."""

import subprocess
import sys

import pytest


def assert_kept(root, *arguments):
    command = [sys.executable, str(root / "scripts" / "mutate_models"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_damaged_models_are_refused_in_a_sentence(request):
    assert_kept(request.config.rootpath, "60", "--seed", "suite", "--seconds", "100")


@pytest.mark.slow
def test_thousands_of_damaged_models_are_refused_in_time(request):
    assert_kept(request.config.rootpath, "2000")
