"""Settings from a file, from variables and from flags, and what is said when one of them is wrong."""

import json

import pytest


@pytest.fixture
def file(tmp_path, environment):
    """A configuration that the environment names, and that says what it is given."""
    path = tmp_path / "config.toml"
    environment["BRAMLEY_CONFIG"] = str(path)

    def write(text):
        path.write_text(text)
        return path

    return write


def origins(result):
    return {row["name"]: (row["value"], row["origin"]) for row in json.loads(result.stdout)}


def test_flags_are_stronger_than_variables_and_variables_than_the_file(bramley, file, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text('port = 1\nhost = "::1"\nmodels = ["a", "b"]\n')
    file("port = 2")
    found = origins(bramley("config", "show", "--json", "--config", other, BRAMLEY_PORT="3"))
    assert found["config"] == (str(other), "--config")
    assert found["port"] == (3, "BRAMLEY_PORT")
    assert found["host"] == ("::1", "file")
    assert found["models"] == (["a", "b"], "file")
    assert found["max_rows"] == (16, "default")


def test_a_setting_of_the_file_holds(bramley, file, tmp_path, environment):
    del environment["BRAMLEY_MODELS_DIR"]
    file(f'models_dir = "{tmp_path / "elsewhere"}"')
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    assert bramley("pull", tmp_path / "tiny.gguf").returncode == 0
    assert (tmp_path / "elsewhere" / "tiny").is_dir()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "unknown setting 'prot'; the nearest one is 'port'"),
        ("max-rows = 1", "unknown setting 'max-rows'; the nearest one is 'max_rows'"),
        ("HF_HOME = '/tmp'", "unknown setting 'HF_HOME'"),
        ("config = 'another'", "unknown setting 'config'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ("port = ", "is not TOML"),
        ("max_rows = 'x'", "max_rows (of the environment or the configuration): Input should be a valid integer"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(bramley, file, text, words):
    file(text)
    result = bramley("ls")
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_named_must_be_there(bramley, tmp_path):
    result = bramley("ls", "--config", tmp_path / "nothing.toml")
    assert result.returncode == 2
    assert "nothing.toml cannot be read: No such file or directory." in result.stderr


def test_an_unknown_variable_is_an_error_and_a_clients_is_not(bramley):
    result = bramley("ls", BRAMLEY_PROT="1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "bramley: The variable BRAMLEY_PROT is no setting; the nearest one is 'BRAMLEY_PORT'.\n"
    assert bramley("ls", BRAMLEY_API_KEY="sesame").returncode == 0


def test_keys_are_never_shown(bramley, file):
    file('api_keys = ["sesame"]')
    for arguments in (["show"], ["show", "--origin"], ["show", "--json"]):
        assert "sesame" not in bramley("config", *arguments).stdout


def test_what_is_shown_is_a_configuration(bramley, file):
    file('host = "::1"')
    shown = bramley("config", "show").stdout
    assert 'host = "::1"\n' in shown
    file(shown)
    assert bramley("config", "show").stdout == shown


def test_the_path_is_told_whether_there_is_a_file_or_not(bramley, environment, tmp_path):
    del environment["BRAMLEY_CONFIG"]
    home = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    result = bramley("config", "path", **home)
    path = result.stdout.strip()
    assert path.endswith("bramley/config.toml")
    assert "There is none yet" in result.stderr
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("max_rows = 3")
    assert bramley("config", "path", **home).stderr == ""
    assert origins(bramley("config", "show", "--json", **home))["max_rows"] == (3, "file")
