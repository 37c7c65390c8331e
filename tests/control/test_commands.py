"""Commands from text, where the socket of a run is, and what its client takes for it."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ng_rollouts.cli.control import as_parameters
from ng_rollouts.control import client
from ng_rollouts.control.address import MAX_PATH_BYTES, is_private, make_private, socket_paths
from ng_rollouts.control.client import send_command
from ng_rollouts.control.commands import FORMS, SETTABLE, parse_command
from ng_rollouts.control.controls import _lines
from ng_rollouts.errors import ConfigError, InputError
from ng_rollouts.types import RolloutKey


@given(st.text())
def test_any_text_is_a_command_or_a_usage_error(text: str) -> None:
    """Whatever arrives, parsing it gives a command or a ConfigError."""
    with suppress(ConfigError):
        assert parse_command(text).name in FORMS


def test_spaces_between_the_words_of_a_command_do_not_matter() -> None:
    """A command has its arguments as values, and its text with single spaces."""
    assert parse_command("  cancel   7 ").key == RolloutKey(7, 0)
    assert parse_command("show 7:3").key == RolloutKey(7, 3)
    setting = parse_command("set +max_requests_per_minute=0.5")
    assert (setting.parameter, setting.value) == ("max_requests_per_minute", 0.5)
    assert parse_command("retry \t failed").text == "retry failed"


@pytest.mark.parametrize(("attempts", "text"), [(1, ""), (2, ", 2 attempts (these are the turns of the first one)")])
def test_show_says_how_many_attempts_a_rollout_has(attempts: int, text: str) -> None:
    """The turns are those of one attempt."""
    turns = [{"role": "user", "content": "hi"}]
    shown = {"rollout": "1:0", "in_flight_s": 2.0, "attempts": attempts, "agent": "a", "servers": [], "turns": turns}
    assert _lines(shown) == [f"1:0: 2.0 s in flight, agent a{text}", "  user: hi"]


@pytest.mark.parametrize("name", sorted(SETTABLE))
def test_null_is_a_value_of_limits_that_a_run_can_do_without(name: str) -> None:
    """`set NAME=null` takes a limit away; parameters that always have a value refuse it."""
    if name in ("max_attempts", "drain_s"):
        with pytest.raises(ConfigError, match=f"{name} must be .* got 'null'"):
            parse_command(f"set {name}=null")
    else:
        assert parse_command(f"set {name}=null").value is None


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e30", "x", ""])
def test_numbers_that_a_parameter_cannot_have_are_refused(value: str) -> None:
    """`set` takes numbers above 0 that are finite."""
    with pytest.raises(ConfigError, match="must be a number above 0"):
        parse_command(f"set max_requests_per_minute={value}")


def test_words_without_a_name_are_output_and_command() -> None:
    """The first word is the output unless a parameter names it; the other words are the command."""
    command = ["+output_jsonl_fpath=r.jsonl", "+command=set max_attempts=2"]
    assert as_parameters(["r.jsonl", "set", "max_attempts=2"]) == command
    assert as_parameters(["+output_jsonl_fpath=r.jsonl", "set", "max_attempts=2"]) == command
    assert as_parameters(["r.jsonl", "status", "+json=true"])[0] == "+json=true"


def test_path_that_is_too_long_for_a_socket_has_another_one(tmp_path: Path) -> None:
    """The last place is always short enough, and is another one for another output."""
    long = tmp_path / ("x" * 200)
    [first], [second] = (list(socket_paths(long / f"{name}_control.sock")) for name in "ab")
    assert first != second
    assert len(os.fsencode(first)) <= MAX_PATH_BYTES


def test_folder_that_others_can_enter_is_not_private(tmp_path: Path) -> None:
    """A link, a file, and a folder with rights for others are no private folders; a new one is."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch(mode=0o600)
    assert not any(is_private(tmp_path / name) for name in ("open", "link", "file", "absent"))
    assert not make_private(tmp_path / "open")
    assert make_private(tmp_path / "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another user")
def test_socket_of_another_user_gets_no_command(tmp_path: Path) -> None:
    """In a shared folder, another user could listen in place of the run."""
    path = tmp_path / "r_control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        os.chown(path, 65534, 65534)
        with pytest.raises(InputError, match="no run is writing this output"):
            send_command(path, "pause")


def test_reply_that_trickles_has_one_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a reply is that of the whole reply, not of each byte."""
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.2)
    path = tmp_path / "r_control.sock"

    def trickle() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while not is_over.wait(0.05):
                connection.sendall(b" ")

    is_over = Event()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = Thread(target=trickle)
        thread.start()
        with pytest.raises(InputError, match="did not answer"):
            send_command(path, "status")
        is_over.set()
        thread.join()


def test_place_of_a_socket_does_not_depend_on_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of a cluster and a shell have other folders for temporary files."""
    path = tmp_path / ("x" * 200) / "r_control.sock"
    before = list(socket_paths(path))
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert list(socket_paths(path)) == before
