"""The real program, in an environment where jax cannot be imported."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mmjax import ending
from mmjax.serving.__main__ import main
from mmjax.serving.limits import MEBI

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("jax", "jaxlib", "flax", "optax", "orbax")


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """Modules of those names come first, and fail."""
    folder = place / "without_jax"
    folder.mkdir()
    for name in FORBIDDEN:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not to be imported')")
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(
    model_folder: Path, index_folder: Path, environment: dict[str, str]
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    command = [sys.executable, "-m", "mmjax.serving", "--model", str(model_folder), "--index", str(index_folder)]
    with subprocess.Popen(
        [*command, "--port", "0"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        yield process, int(line.rpartition(":")[2])
        process.kill()


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read()


def test_it_is_ready_and_searches(server: tuple["subprocess.Popen[str]", int]) -> None:
    _, port = server
    assert json.loads(get(port, "/ready")) == {"status": "ready"}
    body = json.dumps({"text": "picture 3", "target": "texts", "count": 1}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/search", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["results"][0]["text"] == "picture 3"


@pytest.mark.parametrize("length", ["content-length: 52428800", "transfer-encoding: chunked"])
def test_50_mb_are_refused_while_they_arrive(server: tuple["subprocess.Popen[str]", int], length: str) -> None:
    """The client sends until the server hangs up, which is long before the end; the server holds none of it."""
    process, port = server
    before = psutil.Process(process.pid).memory_info().rss
    head = f"POST /v1/embed/images HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
    piece = b"0" * MEBI
    framed = b"100000\r\n" + piece + b"\r\n" if "chunked" in length else piece
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(head.encode())
            while sent < 50:
                connection.sendall(framed)
                sent += 1
            answer = connection.recv(100)
        except ConnectionError:
            pass
    assert sent < 50 or answer.startswith(b"HTTP/1.1 413")
    assert sent <= 16 + 8  # Of which the operating system's buffers took some.
    assert psutil.Process(process.pid).memory_info().rss - before < 48 * MEBI
    assert json.loads(get(port, "/health")) == {"status": "ok"}
    assert 'reason="large_body"' in get(port, "/metrics").decode()


def test_a_told_length_is_answered_at_once(server: tuple["subprocess.Popen[str]", int]) -> None:
    _, port = server
    head = "POST /v1/embed/images HTTP/1.1\r\nhost: x\r\ncontent-length: 52428800\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = b""
        while received := connection.recv(4096):
            answer += received
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_headers_without_end_are_refused(server: tuple["subprocess.Popen[str]", int]) -> None:
    _, port = server
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


def test_sigterm_ends_it(server: tuple["subprocess.Popen[str]", int]) -> None:
    process, _ = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert process.stderr is not None
    # Of the headers without end; a failure would have left a traceback.
    assert process.stderr.read().splitlines() in ([], ["WARNING:  Invalid HTTP request received."])


def test_a_user_error_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.status(main, ["--model", str(tmp_path), "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} has no config.json: give --model")


def test_no_batch_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.status(main, ["--model", str(tmp_path), "--max-batch", "0"]) == 2
    assert "--max-batch, --max-body-mib and --answer-secs start at 1" in capsys.readouterr().err


def test_a_port_in_use_is_a_user_error(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert ending.status(main, ["--model", str(model_folder), "--port", port]) == 2
    assert "choose another --host or --port" in capsys.readouterr().err


def test_the_index_program_needs_no_jax(environment: dict[str, str]) -> None:
    """Also where it reads the emoji: TFDS is imported then, and the data set opened."""
    code = (
        "import mmjax.serving.index; from mmjax.serving.datasets import open_records; "
        "print(open_records('emoji', 'unseen_style')[0].captions[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "grinning face\n"), run.stderr
