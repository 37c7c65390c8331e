"""The command: what was typed -> typed config -> run -> exit code.

The only room that knows Hydra, which is imported once the cheap checks have passed.
"""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ng_rollouts._version import __version__
from ng_rollouts.config.env_yaml import fill_from_env_yaml
from ng_rollouts.config.groups import conf_folder
from ng_rollouts.config.overrides import Keys
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.console import log, open_closed_streams
from ng_rollouts.errors import ConfigError, Interrupted, NgRolloutsError, Unreachable, UsageError
from ng_rollouts.redaction import display_command, redact

if TYPE_CHECKING:
    from omegaconf import DictConfig

_JOBS_FOLDER = "ng_rollouts_jobs"
"""Where jobs of a launcher leave their logs; on a cluster, in a folder that all nodes see."""

COMPLETION_FLAGS = ("-sc", "--shell-completion")


def main() -> NoReturn:
    """`ng_collect_rollouts`."""
    open_closed_streams()
    _heed_signals_before_the_run()
    code = _guarded(lambda: _main(sys.argv[1:]))
    if _left:
        told = "interrupted before anything was sent"
        log(_end_jobs() if _has_launcher(sys.argv[1:]) else told)
        code = 128 + _left[0]
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Everything is closed. Taking the interpreter down as well would race with the threads of the HTTP engine, which
    # now and then end in an abort (https://github.com/PyO3/pyo3-async-runtimes/issues/40).
    os._exit(code)


_left: list[int] = []
"""The signal that ended the command before its run, if one did: libraries may swallow the exception."""


def _heed_signals_before_the_run() -> None:
    """SIGINT in a script's `cmd &` comes ignored, SIGUSR1 would kill."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, _: object) -> None:
    """End the command from where it is, cleaning up on the way."""
    _left.append(number)
    raise SystemExit(128 + number)


def _main(arguments: list[str]) -> int:
    if any(argument.startswith(COMPLETION_FLAGS) for argument in arguments):
        return _complete(arguments)
    if {"--help", "-h"} & set(arguments):
        from ng_rollouts.config.help import collect_help  # noqa: PLC0415 - not needed to collect

        print(collect_help(conf_folder()))
        return 0
    if "--version" in arguments:
        print(f"ng_rollouts {__version__}")
        return 0
    if not arguments:
        raise ConfigError(
            "nothing to collect: give +input_jsonl_fpath=, +output_jsonl_fpath= and +agent_name= (--help)"
        )
    keys = Keys.of(CollectConfig, _groups(arguments))
    return _through_hydra(keys.rewrite(arguments))


def _own_name() -> str:
    """This command as the shell finds it: by its name, or by the path that was typed."""
    name = Path(sys.argv[0]).name
    found = shutil.which(name)
    return name if found and Path(found).samefile(sys.argv[0]) else sys.argv[0]


def _complete(arguments: list[str]) -> int:
    """Hydra's shell completion, for words that begin with plus signs too."""
    line = os.environ.get("COMP_LINE", "")
    word = line[line.rfind(" ") + 1 :]
    pluses = word[: len(word) - len(word.lstrip("+"))]
    os.environ["COMP_LINE"] = line.removesuffix(word) + word.removeprefix(pluses)
    with redirect_stdout(io.StringIO()) as told:
        code = _through_hydra(arguments)
    querying = any("query=" in argument for argument in arguments)
    text = told.getvalue()
    print(" ".join(pluses + option for option in text.split()) if querying and pluses else text, end="")
    return code


def _groups(arguments: list[str]) -> set[str]:
    """Names of config groups, those of a folder of the user's included."""
    folders = [conf_folder()]
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value or following))
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}


def _through_hydra(arguments: list[str]) -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra  # noqa: PLC0415 - a third of a second, which a typo should not cost
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    ConfigStore.instance().store(name="parameters", node=CollectConfig)
    command = [_own_name(), *sys.argv[1:]]
    codes: list[int] = []

    sweep = bool({"-m", "--multirun"} & set(arguments))
    if sweep and {"input_jsonl_fpath=-", "input_jsonl_fpath='-'"} & {argument.lstrip("+") for argument in arguments}:
        raise ConfigError("input_jsonl_fpath=-: stdin can be read once, a sweep reads it for each run: name a file")

    def job(config: DictConfig) -> None:
        if elsewhere := os.environ.get("SUBMITIT_EXECUTOR"):
            _run_elsewhere(lambda: _collect(config, command), elsewhere)
            return
        if sweep:
            log(f"run {len(codes) + 1} of the sweep: {_overrides_of_job()}")
        codes.append(_guarded(lambda: _collect(config, command)))
        if codes[-1] >= 128:
            raise SystemExit(codes[-1])

    with _folder_of_sweep(arguments) if sweep else nullcontext() as folder:
        sys.argv[1:] = [*arguments, f"hydra.sweep.dir={folder}"] if sweep else arguments
        try:
            _one_line_errors(hydra.main(str(conf_folder()), "config", version_base="1.3")(job))
        except JobFailedError as failed:
            log(f"error: {failed}: the logs are in {folder}")
            codes.append(failed.code)
    return max(codes, default=0)


def _folder_of_sweep(arguments: Sequence[str]) -> AbstractContextManager[str]:
    """Where Hydra puts what it writes of a sweep: a folder that goes away, unless jobs elsewhere are to find it."""
    if _has_launcher(arguments):
        return nullcontext(_JOBS_FOLDER)
    return tempfile.TemporaryDirectory(prefix="ng_rollouts_")


def _has_launcher(arguments: Sequence[str]) -> bool:
    return any(argument.lstrip("+").startswith("hydra/launcher=") for argument in arguments)


def _end_jobs() -> str:
    """Have the jobs of a launcher on this machine drain; what is to be said of them."""
    children = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if children:
        return f"interrupted: the jobs here drain and end; their logs are in {_JOBS_FOLDER}"
    return f"interrupted: jobs that were submitted go on by themselves; their logs are in {_JOBS_FOLDER}"


class JobFailedError(Exception):
    """A job of a sweep that ran elsewhere; made of plain values, since it comes back pickled."""

    def __init__(self, where: str, code: int) -> None:
        super().__init__(where, code)
        self.code = code

    def __str__(self) -> str:
        return f"a job of the sweep ended with exit code {self.code} ({self.args[0]})"


def _run_elsewhere(action: Callable[[], int], executor: str) -> None:
    """Run a job in a process of a launcher: its exit code comes back as an exception.

    A job that Slurm is about to end has drained by then; the launcher's own handler has it queued again.

    Raises:
        JobFailedError: it is not 0.
    """
    requeue = signal.getsignal(signal.SIGUSR2)
    code = _guarded(action)
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 128 + signal.SIGUSR2 and callable(requeue):
        requeue(signal.SIGUSR2, None)
    if code:
        raise JobFailedError(f"{executor}, {_overrides_of_job()}", code)


def _one_line_errors(compose_and_run: Callable[[], Any]) -> None:
    """Run what raises only while a config is composed: jobs guard themselves."""
    try:
        compose_and_run()
    except JobFailedError:
        raise
    except Exception as error:
        raise ConfigError(_in_one_line(error)) from error


def _overrides_of_job() -> str:
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415

    return display_command([_unquoted(override) for override in HydraConfig.get().overrides.task])


def _unquoted(override: str) -> str:
    """An override without the quotes that its value was given for Hydra."""
    key, _, value = override.lstrip("+").partition("=")
    return f"{key}={value[1:-1]}" if value[:1] == value[-1:] == "'" else f"{key}={value}"


def _collect(config: DictConfig, command: Sequence[str]) -> int:
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    fill_from_env_yaml(config)
    try:
        typed = cast("CollectConfig", OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(_in_one_line(error)) from error
    from ng_rollouts.run.run import run  # noqa: PLC0415 - the config is checked before what sends is loaded

    if _left:
        raise SystemExit(128 + _left[0])
    # Garbage collection walks whatever is in flight again and again, and finds no cycles: a fifth of the CPU of a run
    # with 16,000 in flight.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    if typed.dry_run:
        return _rehearsed(lambda: run(typed, command))
    return run(typed, command)


def _rehearsed(rehearse: Callable[[], int]) -> int:
    """Whatever keeps a run from beginning is, of a dry run, a thing to put right."""
    try:
        return rehearse()
    except Unreachable as error:
        raise UsageError(str(error)) from error


def _in_one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf says, without its notes on types, keys and where it searched."""
    told: list[str] = []
    current: BaseException | None = error
    while current is not None and len(told) < 2:
        lines = [line.strip() for line in str(current).partition("Config search path")[0].splitlines()]
        notes = ("object_type=", "reference_type=", "full_key:")
        told.append(" ".join(line for line in lines if line and not line.startswith(notes)))
        current = current.__cause__
    message = ": ".join(dict.fromkeys(filter(None, told)))
    for opening in ("In 'config': ", "Error merging override "):
        message = message.removeprefix(opening)
    typed = getattr(error, "override", None)
    return f"{typed}: {message}" if typed else message


def _guarded(action: Callable[[], int]) -> int:
    """The exit code of an action; an error of ours is one line on stderr."""
    try:
        return action()
    except Interrupted as interrupted:
        return interrupted.exit_code
    except NgRolloutsError as error:
        log(f"error: {redact(str(error))}")
        return error.exit_code
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    except Exception:
        log(redact(traceback.format_exc()))
        log("error: this is a defect of ng_rollouts: please report it with the lines above")
        return 4
