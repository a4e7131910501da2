"""`bramley run`: one answer in a pipe, a conversation in a terminal, and a server of one's own where none runs."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server.terminal.chat_client import ChatFailed
from server.terminal.own_server import own_server

ROOT = Path(__file__).parents[3]
CTRL_C, CTRL_D = "\x03", "\x04"

# What `serve` promises to its starter: health on the given port, and an end when standard input closes.
SERVER = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
from server.terminal.own_server import end_when_input_closes
end_when_input_closes()
server.serve_forever()
"""


def test_prompt_is_answered_once(bramley, stub_server):
    result = bramley("run", "stub", "Capital of France?", "--temperature", "0", "--max-tokens", "9", "--seed", "7")
    assert (result.returncode, result.stdout, result.stderr) == (0, "Paris is it.\n", "")
    assert stub_server.bodies == [
        {
            "model": "stub",
            "messages": [{"role": "user", "content": "Capital of France?"}],
            "stream": True,
            "temperature": 0.0,
            "max_completion_tokens": 9,
            "seed": 7,
        }
    ]


def test_piped_input_is_the_prompt(bramley, stub_server):
    result = bramley("run", "org/stub", "--system", "Be brief.", typed="line one\nline two\n")
    assert result.stdout == "Paris is it.\n"
    assert stub_server.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "line one\nline two\n"},
    ]


def test_own_key_is_sent_to_the_running_server(bramley, stub_server):
    assert bramley("run", "stub", "hi", BRAMLEY_API_KEYS="sesame,other").returncode == 0
    assert stub_server.keys == ["Bearer sesame"]


def test_refusal_is_one_line_and_a_failure(bramley, stub_server):
    stub_server.status = 503
    result = bramley("run", "stub", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "bramley: The queue is full.\n"


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ('data: {"error": {"message": "The worker died."}}\n\n', "The worker died."),
        ("", "went away in the middle"),
        ("data: {nonsense\n\n", "not of this API"),
    ],
)
def test_answer_that_breaks_off_is_a_failure(bramley, stub_server, ending, words):
    stub_server.ending = ending
    result = bramley("run", "stub", "hi")
    assert result.returncode == 1
    assert result.stdout == "Paris is it.\n"
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_conversation_remembers_until_it_is_reset(terminal, stub_server):
    chat = terminal("run", "stub")
    chat.wait_for(">>> ")
    chat.type("one\n")
    chat.wait_for("Paris is it.")
    chat.wait_for(">>> ")
    chat.type("two\n")
    chat.wait_for("Paris is it.")
    chat.type("/reset\n")
    chat.wait_for("starts again")
    chat.type("three\n")
    chat.wait_for("Paris is it.")
    chat.type("/bye\n")
    assert chat.process.wait(10) == 0
    contents = [[message["content"] for message in body["messages"]] for body in stub_server.bodies]
    assert contents == [["one"], ["one", "Paris is it.", "two"], ["three"]]


def test_ctrl_c_stops_the_answer_and_ctrl_d_ends(terminal, stub_server):
    stub_server.pieces, stub_server.pause = [f"word{number} " for number in range(1000)], 0.02
    chat = terminal("run", "stub")
    chat.wait_for(">>> ")
    chat.type("talk\n")
    chat.wait_for("word5")
    chat.type(CTRL_C)
    chat.wait_for("(stopped)")
    assert stub_server.hung_up.wait(5)
    chat.wait_for(">>> ")
    stub_server.pieces = ["Yes."]
    chat.type("go on\n")
    chat.wait_for("Yes.")
    assert stub_server.bodies[1]["messages"][1]["content"].startswith("word0 word1 ")
    chat.wait_for(">>> ")
    chat.type(CTRL_C)
    chat.wait_for("(Ctrl-D ends)")
    chat.wait_for(">>> ")
    chat.type(CTRL_D)
    assert chat.process.wait(10) == 0


def test_failure_does_not_end_the_conversation(terminal, stub_server):
    chat = terminal("run", "stub")
    chat.wait_for(">>> ")
    stub_server.status = 503
    chat.type("one\n")
    chat.wait_for("The queue is full.")
    stub_server.status = 200
    chat.type("two\n")
    chat.wait_for("Paris is it.")
    assert [message["content"] for message in stub_server.bodies[-1]["messages"]] == ["two"]


def test_text_of_the_model_cannot_command_the_terminal(terminal, stub_server):
    stub_server.pieces = ["red\x1b[31m\x9b31m\a\b", " caf\u00e9 \U0001f469\u200d\U0001f4bb\n\tend"]
    chat = terminal("run", "stub", "hi")
    chat.wait_for("red[31m31m caf\u00e9 \U0001f469\u200d\U0001f4bb\r\n\tend")


def test_answers_in_a_pipe_are_exact(bramley, stub_server):
    stub_server.pieces = ["a\x1b[31m"]
    assert bramley("run", "stub", "hi").stdout == "a\x1b[31m\n"


def test_own_server_is_there_for_the_chat_and_gone_afterwards():
    before = set(psutil.Process().children(recursive=True))
    with own_server([sys.executable, "-c", SERVER]) as client:
        assert client.is_up()
        (child,) = set(psutil.Process().children(recursive=True)) - before
    assert not child.is_running()
    assert not client.is_up()


def test_own_server_that_fails_says_why():
    command = [sys.executable, "-c", "import sys; sys.stderr.write('There is no room.\\n'); sys.exit(1)"]
    with pytest.raises(ChatFailed, match=r"did not start: There is no room\."), own_server(command):
        pass


def test_own_server_ends_when_its_starter_is_killed():
    code = (
        "import sys, time; from server.terminal.own_server import own_server\n"
        f"with own_server([sys.executable, '-c', {SERVER!r}]):\n    print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    (child,) = psutil.Process(starter.pid).children()
    starter.kill()
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_model_that_makes_embeddings_does_not_chat(bramley):
    result = bramley("run", ROOT / "tests" / "engine" / "architectures" / "fixtures" / "qwen3-embedding", "hi")
    assert result.returncode == 1
    assert "makes embeddings and does not chat" in result.stderr
    assert "Traceback" not in result.stderr
