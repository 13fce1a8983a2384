"""Every example runs as a process of its own, and does what it says."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROMPTLY_S = 60.0


def command(name: str, *arguments: str) -> list[str]:
    """The command line of an example."""
    return [sys.executable, str(ROOT / "examples" / name), *arguments]


def environment() -> dict[str, str]:
    """With this checkout first, whatever else is installed."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def finished(command_line: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder until it ends."""
    return subprocess.run(
        command_line,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PROMPTLY_S,
        check=False,
    )


def output_of(name: str, folder: Path) -> str:
    """Run an example on the CPU, somewhere else than in the checkout."""
    done = finished(command(name, "cpu"), folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_minimal_pipeline_squares_in_batches(tmp_path: Path) -> None:
    """A hundred requests need far fewer steps, and every answer is right."""
    result = re.fullmatch(
        r"100 squares in (\d+) steps on cpu: correct=True\n",
        output_of("minimal_pipeline.py", tmp_path),
    )
    assert result is not None
    assert 13 <= int(result[1]) < 100


def test_vision_batches_are_identical_with_and_without_overlap(tmp_path: Path) -> None:
    """Overlap changes how images fall into batches, and no pixel."""
    lines = output_of("vision_batches.py", tmp_path).splitlines()
    assert re.fullmatch(r"OverlapScheduler: 200 images in \d+ batches", lines[0])
    assert re.fullmatch(r"SequentialScheduler: 200 images in \d+ batches", lines[1])
    assert lines[2] == "200 images of 64x64 upscaled to 128x128 on cpu: identical=True"


def test_find_a_race_reports_replays_draws_and_mends_it(tmp_path: Path) -> None:
    """The race is reported with both places, and the command that is printed shows it again."""
    shutil.copy(ROOT / "examples" / "find_a_race.py", tmp_path)
    done = finished([sys.executable, "find_a_race.py", "race.svg"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(
        r"WAR on tensor .*: prepare#1 .* writes at find_a_race.py:\d+, forward#0 .* reads at "
        r"find_a_race.py:\d+; missing: an event of 'forward' behind shift #2 -> schedule",
        lines[1],
    )
    assert lines[-2:] == ["picture: race.svg", "fixed: 200 schedules, nothing found"]
    assert (tmp_path / "race.svg").read_text().startswith("<svg")
    (replay,) = (line for line in lines if line.startswith("replay: aio-sched "))
    main = "import sys; from aio_sched.cli import main; sys.exit(main())"
    again = [sys.executable, "-c", main, *shlex.split(replay.removeprefix("replay: aio-sched "))]
    done = finished(again, tmp_path)
    assert (done.returncode, done.stdout.splitlines()[1]) == (1, lines[1])


# The service ----------------------------------------------------------------------


class Service:
    """The service as its clients see it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            command("embed_in_service.py", "cpu", "0"),
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        listening = re.fullmatch(r"listening on port (\d+)\n", self.process.stdout.readline())
        if listening is None:
            self.process.kill()
            pytest.fail(f"the service did not start: {self.process.communicate()[1]}")
        self.port = int(listening[1])

    def ask(self, path: str) -> socket.socket:
        """Send a request, and do not wait for the answer."""
        connection = socket.create_connection(("127.0.0.1", self.port), PROMPTLY_S)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        return connection

    def answer(self, connection: socket.socket) -> tuple[int, Any]:
        """Wait for the answer to a request: its status and content."""
        with connection:
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, json.loads(response.read())

    def get(self, path: str) -> tuple[int, Any]:
        """Ask and wait."""
        return self.answer(self.ask(path))

    def stop(self) -> tuple[int, str, str]:
        """Ask the service to stop, as an orchestrator does: exit status, output, errors."""
        self.process.send_signal(signal.SIGTERM)
        output, errors = self.process.communicate(timeout=PROMPTLY_S)
        return self.process.returncode, output, errors


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The running service, killed if the test did not stop it."""
    service = Service(tmp_path)
    yield service
    if service.process.poll() is None:
        service.process.kill()
        service.process.communicate()


def busy(service: Service, num_requests: int = 60) -> list[socket.socket]:
    """Give the device so much to do that it is at work when the next request comes."""
    return [service.ask(f"/embed/text%20{number}") for number in range(num_requests)]


def test_health_is_answered_while_the_device_works(service: Service) -> None:
    """Other requests pass by those that wait for the device."""
    waiting = busy(service)
    status, health = service.get("/health")
    assert status == 200
    assert health["open_requests"] > 0, "the device was done already: nothing was shown"
    answers = [service.answer(connection) for connection in waiting]
    assert {status for status, _ in answers} == {200}
    vectors = [tuple(answer["embedding"]) for _, answer in answers]
    assert len(set(vectors)) == len(vectors)
    again = service.get("/embed/text%207")[1]["embedding"]
    assert again == pytest.approx(list(vectors[7]), rel=1e-3, abs=1e-3)
    assert service.get("/health") == (200, {"open_requests": 0})


def test_unknown_path_is_told_what_there_is(service: Service) -> None:
    """A wrong path is the client's mistake, and no reason to stop."""
    assert service.get("/nonsense")[0] == 404
    assert service.get("/health")[0] == 200


def test_sigterm_answers_open_requests_and_exits_cleanly(service: Service) -> None:
    """Who was accepted is answered; then the process ends with status 0."""
    waiting = busy(service)
    assert service.get("/health")[1]["open_requests"] > 0
    status, output, errors = service.stop()
    assert [service.answer(connection)[0] for connection in waiting] == [200] * len(waiting)
    assert (status, errors) == (0, "")
    assert re.fullmatch(r"stopped after \d+ steps, 0 requests left open\n", output)
