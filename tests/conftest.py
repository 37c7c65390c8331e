"""Fixtures: live servers, the commands as a user types them, and files of tasks."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import settings

from ng_rollouts import redaction
from ng_rollouts.cli import collect

from .agent_server import reward_of
from .servers import ProcessServer, Served, ThreadServer, answer_ok, serve_connections

# How long an example takes says how busy the machine is, not whether the law holds.
settings.register_profile("busy_machine", deadline=None)
settings.load_profile("busy_machine")

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data" / "nemo_gym"
SCRIPTS = Path(sys.executable).parent

FILES = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+agent_name=a"]
"""Arguments for a run of an agent server: the input that `tasks` writes, the output r.jsonl, the agent `a`."""

EXAMPLE = [
    "+agent_name=example_math_agent",
    f"+input_jsonl_fpath={ROOT / 'examples' / 'arithmetic.jsonl'}",
    "+limit=10",
]
"""Arguments for a run of an agent that needs no server, over ten tasks."""

RESUME = "+resume_from_cache=true"


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def averages(self) -> Any:
        return json.loads(self.stdout[self.stdout.index("{\n") if "{\n" in self.stdout else self.stdout.index("{}") :])


@pytest.fixture(autouse=True)
def plain_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx on its own transport, which respx can stand in for, whatever is installed."""
    monkeypatch.setitem(sys.modules, "httpx_aiohttp", None)


@pytest.fixture(autouse=True)
def no_known_secrets() -> Iterator[None]:
    """No test masks the secrets of another one: commands run in one process here."""
    yield
    redaction._KNOWN.clear()


@pytest.fixture(autouse=True)
def no_logging_of_other_tests() -> Iterator[None]:
    """No test logs as Hydra has set it up in another one: commands run in one process here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start agent servers with the given options; they are stopped after the test."""
    yield from _starting("agent")


@pytest.fixture
def serve_model() -> Iterator[Callable[..., Served]]:
    """Start OpenAI-compatible model servers with the given options; they are stopped after the test."""
    yield from _starting("model")


def _starting(kind: str) -> Iterator[Callable[..., Served]]:
    servers: list[Served] = []

    def start(*, process: bool = False, **options: Any) -> Served:
        """Start a server in a thread, or in a process that can die."""
        servers.append(ProcessServer(kind, options) if process else ThreadServer(kind, options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """Start an S3 server with the bucket `bucket`; the environment variables that point a client to it."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
    yield environment
    server.stop()


@pytest.fixture
def certificate_authority() -> trustme.CA:
    """A new certificate authority, which no client trusts yet."""
    return trustme.CA()


@pytest.fixture
def tls_port(certificate_authority: trustme.CA) -> Iterator[int]:
    """The port of a TLS server with a certificate of `certificate_authority`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate_authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve_connections(answer_ok, context) as port:
        yield port


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Ran]:
    """Run a command as a process in the test's folder, to its end: for tests about the process itself."""

    def run(*arguments: str, script: str = "ng_collect_rollouts", env: dict[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [str(SCRIPTS / script), *arguments],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command in this process, in the test's folder, to its end: what a user types and what they see."""

    def run(*arguments: str, script: str = "ng_collect_rollouts", env: dict[str, str] | None = None) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", [str(SCRIPTS / script), *arguments])
            patch.setattr(sys, "path", list(sys.path))
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = run_in_process(script)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


def run_in_process(script: str) -> int:
    """Run a console script with `sys.argv` as it is; its exit code."""
    if script in ("ng_collect_rollouts", "nemo_gym_collect_rollouts"):
        return collect._guarded(lambda: collect._main(sys.argv[1:]))
    [entry] = [each for each in entry_points(group="console_scripts") if each.name == script]
    thresholds = gc.get_threshold()
    try:
        with pytest.raises(SystemExit) as left:
            entry.load()()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    return int(left.value.code or 0)


@pytest.fixture
def tasks(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of tasks: so many plain ones, or these rows."""

    def write(rows: int | list[Any], name: str = "tasks.jsonl") -> Path:
        if isinstance(rows, int):
            rows = [
                {"id": f"t{number}", "responses_create_params": {"input": f"question {number}"}}
                for number in range(rows)
            ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def sums(count: int) -> list[Any]:
    """Tasks that ask for a sum, with the expected answer: n + 2n = 3n."""
    return [
        {"responses_create_params": {"input": f"What is {n} + {2 * n}?"}, "expected_answer": str(3 * n)}
        for n in range(count)
    ]


@pytest.fixture
def collect_sums(command: Callable[..., Ran], tasks: Callable[..., Path]) -> Callable[..., Ran]:
    """Collect rollouts of `sums`, or of other rows, from the model server at a URL, into `rollouts.jsonl`."""

    def collect(url: str, *arguments: str, rows: int | list[Any] = 5) -> Ran:
        tasks(sums(rows) if isinstance(rows, int) else rows)
        files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl"]
        return command(f"+policy_base_url={url}/v1", *files, *arguments)

    return collect


def assert_rejected_before_sending(ran: Ran, server: Served, message: str) -> None:
    """The command exited with 2 and a message that contains these words, and the model server got no request."""
    assert ran.code == 2, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not {"/v1/responses", "/v1/chat/completions"} & server.stats()["asked"].keys()


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSONL file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keys_of(path: Path) -> list[tuple[int, int]]:
    """The keys of a file's rows, in its order."""
    return [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in read_rows(path)]


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder by name, without the input."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and "tasks" not in path.name}


def assert_complete(folder: Path, tasks: int, repeats: int = 1) -> None:
    """The output r.jsonl has every rollout once, in order and undamaged, and no rollout failed or was set aside."""
    assert keys_of(folder / "r.jsonl") == [(task, rollout) for task in range(tasks) for rollout in range(repeats)]
    for row in read_rows(folder / "r.jsonl"):
        assert row["reward"] == reward_of(row["_ng_task_index"], row["_ng_rollout_index"])
    assert not (folder / "r_incomplete.jsonl").exists()
    assert not (folder / "r_failures.jsonl").exists()


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip a test on a machine without these programs."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)} on the PATH")


SLOW_MACHINE_S = 300
"""How long tests wait for what happens within a second on a machine that has time."""


def wait_until(condition: Callable[[], bool], seconds: float = SLOW_MACHINE_S) -> None:
    """Poll a condition; fail if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not true after {seconds} s"
        time.sleep(0.02)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `ng_collect_rollouts` as a process in a folder, and leave it running; `options` go to Popen."""
    process = subprocess.Popen(
        [str(SCRIPTS / "ng_collect_rollouts"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )
    _started.append(process)
    return process


_started: list[subprocess.Popen[str]] = []
"""The processes of the current test."""


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """End the processes of a test, also if it fails: their pipes would otherwise fail a later test."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def ended(process: subprocess.Popen[str]) -> Ran:
    """Wait for a started command to end; its exit code and output."""
    stdout, stderr = process.communicate(timeout=SLOW_MACHINE_S)
    return Ran(process.returncode, stdout, stderr)
