"""`ng_collect_rollouts`: from the command line to a configuration, a run and an exit code.

Only this module uses Hydra. Hydra is imported after the names of all parameters are checked, because its import takes
longer than those checks.

One command passes through these functions:

1. `main`: streams, early signals, exit code.
2. `_main`: `--help`, `--version` and completion; otherwise checks the names of all parameters.
3. `_run_hydra`: lets Hydra compose the configuration, once or for each run of a sweep.
4. `_run_sweep`: each run of a sweep, which may be the job of a launcher (`cli/launcher.py`).
5. `_collect`: makes the typed configuration, and runs it.

`_guarded` turns the exceptions of 2 and of each run into an exit code and a line on stderr.
"""

from __future__ import annotations

import gc
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ng_rollouts._version import __version__
from ng_rollouts.cli.launcher import (
    JobFailedError,
    has_launcher,
    interrupt_jobs,
    run_as_job,
    sweep_folder,
    without_launcher,
)
from ng_rollouts.config.env_yaml import fill_from_env_yaml
from ng_rollouts.config.groups import conf_folder
from ng_rollouts.config.literal_text import unmark_values, unmarked
from ng_rollouts.config.overrides import NEEDLESS, Keys, needless
from ng_rollouts.config.parameters import CollectConfig
from ng_rollouts.config.secrets import remember_arguments, remember_file, remember_proxies, remember_values
from ng_rollouts.console import MaskedStream, log, log_error, log_lines, only_json, open_closed_streams, print_text
from ng_rollouts.errors import ConfigError, Interrupted, NgRolloutsError, Unreachable, UsageError
from ng_rollouts.redaction import display_command, redact
from ng_rollouts.streams import finish, patient

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LAST_WRITES_S = 5.0
"""How long the exit waits for a reader that takes no results or messages. Without a reader, the command must end."""

_ESCAPED, _CHARACTER = re.compile(r"\\([\\()\[\]{}:=, \t])"), r"\1"
"""A character that Hydra's grammar escapes by a backslash, and the character alone."""

COMPLETION_FLAGS = ("-sc", "--shell-completion")


def main() -> NoReturn:
    """Run `ng_collect_rollouts`."""
    # The garbage collector traverses all modules and everything in flight again and again, and finds no cycles. With
    # its default thresholds, that was a fifth of the CPU time of a run with 16,000 rollouts in flight.
    gc.set_threshold(100_000, 20, 100)
    open_closed_streams()
    sys.stdout, sys.stderr = patient(sys.stdout, keeps_all=True), patient(sys.stderr)
    _handle_early_signals()
    code = _guarded(lambda: _main(sys.argv[1:]))
    if _early_signals:
        log(interrupt_jobs() if has_launcher(sys.argv[1:]) else "interrupted before anything was sent")
        code = 128 + _early_signals[0]
    with suppress(OSError):
        if not_taken := finish(sys.stdout, _LAST_WRITES_S):
            log(f"warning: the last {not_taken} bytes of stdout were not read, so they are missing")
    with suppress(OSError):
        finish(sys.stderr, _LAST_WRITES_S)
    # All files and connections are closed. A regular exit would also finalize the interpreter while the threads of the
    # HTTP engine still run, which sometimes ends in an abort (https://github.com/PyO3/pyo3-async-runtimes/issues/40).
    # os._exit skips that. It flushes nothing, hence the loop above.
    os._exit(code)


_early_signals: list[int] = []
"""The signals that arrived before the run began.

Their exception alone is not enough: Hydra, or a library that is being imported, may catch it.
"""


def _handle_early_signals() -> None:
    """Install signal handlers for the time before the run, which installs its own.

    Imports, the composition of the configuration and the wait for servers take from a second to minutes, and leave
    temporary files if a signal kills the process. The default actions are also wrong for this command:

    - A shell without job control, such as that of a script, starts `cmd &` with SIGINT ignored (POSIX.1-2017, Shell
      Command Language, 2.11). Python installs no handler for an ignored SIGINT, so `kill -INT` would have no effect.
    - SIGUSR1, which asks a run for a report, would kill the process.
    - SIGHUP stays ignored if it is: that is how `nohup` works.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit_early)


def _exit_early(number: int, _: object) -> None:
    """End the command with an exception, so that `with` and `finally` blocks clean up."""
    _early_signals.append(number)
    raise SystemExit(128 + number)


def _main(arguments: list[str]) -> int:
    remember_proxies()
    remember_arguments(arguments)
    remember_file(Path("env.yaml"))
    if any(argument.startswith(COMPLETION_FLAGS) for argument in arguments):
        return _complete(arguments)
    if {"--help", "-h"} & set(arguments):
        from ng_rollouts.config.help import collect_help  # noqa: PLC0415 - not needed to collect

        print_text(collect_help(conf_folder()))
        return 0
    if "--version" in arguments:
        print_text(f"ng_rollouts {__version__}\n")
        return 0
    if not arguments:
        raise ConfigError(
            "nothing to collect: give +input_jsonl_fpath=, +output_jsonl_fpath= and +agent_name= (--help)"
        )
    for name in needless(arguments):
        log(f"note: {name} has no effect: {NEEDLESS[name]}")
    keys = Keys.of(CollectConfig, _group_names(arguments))
    return _run_hydra(keys.rewrite(arguments))


def _command_name() -> str:
    """This command for a resume: its name if the shell finds it under that name, or else the path that was typed."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return "python -m ng_rollouts"
    on_path = shutil.which(name)
    return name if on_path and Path(on_path).resolve() == Path(sys.argv[0]).resolve() else sys.argv[0]


def _complete(arguments: list[str]) -> int:
    """Run Hydra's shell completion, which does not complete words that begin with plus signs.

    The plus signs are removed from the word for Hydra, and added to its suggestions.
    """
    line = os.environ.get("COMP_LINE", "")
    word = line[line.rfind(" ") + 1 :]
    pluses = word[: len(word) - len(word.lstrip("+"))]
    os.environ["COMP_LINE"] = line.removesuffix(word) + word.removeprefix(pluses)
    with redirect_stdout(io.StringIO()) as output:
        code = _run_hydra(arguments)
    # Without `query=`, the output is a script that installs the completion.
    querying = any("query=" in argument for argument in arguments)
    text = output.getvalue()
    print_text(" ".join(pluses + option for option in text.split()) if querying and pluses else text)
    return code


def _group_names(arguments: list[str]) -> set[str]:
    """Names of config groups, including those in the user's own folder (`--config-dir`)."""
    folders = [conf_folder()]
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value or following))
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}


def _run_hydra(arguments: list[str]) -> int:
    """Let Hydra compose the configuration and run it, once or as a sweep; the highest exit code of the runs."""
    # With this variable, Hydra raises its exceptions, and _one_line_errors turns them into a ConfigError. Without it,
    # Hydra prints an error in several lines and exits with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    command = [_command_name(), *sys.argv[1:]]
    if {"-m", "--multirun"} & set(arguments):
        return _run_sweep(arguments, command)
    codes: list[int] = []
    _compose(arguments, lambda config: codes.append(_guarded(lambda: _collect(_typed(config, command), command))))
    return max(codes, default=0)


def _compose(arguments: Sequence[str], job: Callable[[DictConfig], None]) -> None:
    """Let Hydra compose the configuration and pass it to `job`, once or for each run of a sweep.

    Raises:
        ConfigError: it cannot be composed.
    """
    import hydra  # noqa: PLC0415 - a mistyped parameter should not cost this time
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415

    ConfigStore.instance().store(name="parameters", node=CollectConfig)
    if _has_only_parameters(arguments):
        _one_line_errors(lambda: job(_composed(arguments)))
        return
    sys.argv[1:] = arguments  # hydra.main takes its arguments from there
    with _hydra_output(arguments):
        _one_line_errors(hydra.main(str(conf_folder()), "config", version_base="1.3")(job))


def _has_only_parameters(arguments: Sequence[str]) -> bool:
    """True if no argument is a flag, a setting of Hydra or a reference to one."""
    return not any(argument.startswith("-") or "hydra" in argument for argument in arguments)


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run, as `hydra.main` composes it, for a quarter of the time.

    `hydra.main` composes it with Hydra's own settings, and twice: first to see if they ask for a sweep.
    """
    import hydra  # noqa: PLC0415 - the caller has loaded it

    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra.compose("run", list(overrides))


def _run_sweep(arguments: list[str], command: Sequence[str]) -> int:
    """Run each combination of values; the highest exit code of the runs."""
    from ng_rollouts.cli.sweep import SweptRun, table_lines  # noqa: PLC0415 - loads orjson

    codes: list[int] = []
    runs: list[SweptRun] = []
    is_quiet = "quiet=true" in {argument.lstrip("+") for argument in arguments}

    def job(config: DictConfig) -> None:
        # submitit sets this variable in the process of a job.
        if executor := os.environ.get("SUBMITIT_EXECUTOR"):
            run_as_job(
                lambda: _guarded(lambda: _collect(_typed(config, command), command)),
                lambda: f"{executor}, {display_command(_overrides_of_job())}",
            )
            return
        if not is_quiet:
            log(f"run {len(codes) + 1} of the sweep: {display_command(_overrides_of_job())}")
        runs.append(SweptRun(dict(override.split("=", 1) for override in _overrides_of_job())))
        typed = _typed(config, command)
        codes.append(_guarded(lambda: _collect(typed, command)))
        runs[-1].end(codes[-1], typed)
        # A signal ends the sweep, not only the current run.
        if codes[-1] >= 128:
            raise SystemExit(codes[-1])

    _check_sweep(arguments, command)
    with sweep_folder(arguments) as folder:
        try:
            _compose([*arguments, f"hydra.sweep.dir={folder}"], job)
        except JobFailedError as failed:
            log(f"error: {failed}: the logs are in {folder}")
            codes.append(failed.code)
        finally:
            log_lines("\n".join(table_lines([] if is_quiet else runs)))
    return max(codes, default=0)


def _check_sweep(arguments: list[str], command: Sequence[str]) -> None:
    """Check the values of all runs of a sweep before the first run.

    Raises:
        ConfigError: a value is wrong, or two runs contradict each other.
    """
    from ng_rollouts.cli.sweep import check_outputs  # noqa: PLC0415 - loads orjson
    from ng_rollouts.run.prepare import check_values  # noqa: PLC0415 - loads what a run needs

    _refuse_stdin(arguments)
    # With `--cfg`, no run begins. Another sweeper chooses the values of a run by the results of those before.
    if _prints_config(arguments) or any(argument.lstrip("+").startswith("hydra/sweeper=") for argument in arguments):
        return
    configs: list[CollectConfig] = []
    errors: list[ConfigError] = []

    def check(config: DictConfig) -> None:
        # Hydra prints a line about an exception that leaves the function.
        try:
            configs.append(_typed(config, command))
        except ConfigError as error:
            errors.append(error)

    with tempfile.TemporaryDirectory(prefix="ng_rollouts_") as folder:
        composed = [*without_launcher(arguments), f"hydra.sweep.dir={folder}"]
        _compose(composed, check)
    for error in errors:
        raise error
    for config in configs:
        check_values(config)
    check_outputs(configs)


def _prints_config(arguments: Sequence[str]) -> bool:
    return bool({"--cfg", "-c", "--info", "-i"} & set(arguments))


@contextmanager
def _hydra_output(arguments: Sequence[str]) -> Iterator[None]:
    """Mask the secrets in what Hydra prints: the configuration, and the overrides of a launcher's job that failed."""
    with (
        _unmarked_stdout() if _prints_config(arguments) else nullcontext(),
        redirect_stderr(MaskedStream(sys.stderr)) if has_launcher(arguments) else nullcontext(),
    ):
        yield


def _refuse_stdin(arguments: Sequence[str]) -> None:
    if {"input_jsonl_fpath=-", "input_jsonl_fpath='-'"} & {argument.lstrip("+") for argument in arguments}:
        raise ConfigError(
            "input_jsonl_fpath=-: stdin can be read once, but a sweep reads its input for each run: name a file"
        )


@contextmanager
def _unmarked_stdout() -> Iterator[None]:
    """Print what Hydra prints, with free text as it was typed and secrets masked."""
    with redirect_stdout(io.StringIO()) as output:
        yield
    print_text(redact(unmarked(output.getvalue())))


def _hydra_message(error: BaseException) -> str:
    from ng_rollouts.cli.hydra_errors import message_of  # noqa: PLC0415 - only after a mistake

    return unmarked(message_of(error))


def _one_line_errors(compose_and_run: Callable[[], Any]) -> None:
    """Turn errors of Hydra and OmegaConf into a `ConfigError` of one line.

    An exception that gets here is from the composition of the configuration or from a launcher, and its traceback
    would not help the user. A run handles its own exceptions (`_guarded`).
    """
    try:
        compose_and_run()
    except JobFailedError:
        raise
    except Exception as error:
        raise ConfigError(_hydra_message(error)) from error


def _overrides_of_job() -> list[str]:
    """The overrides of the current run of a sweep, as they were typed."""
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415

    return [unmarked(_unquoted(override)) for override in HydraConfig.get().overrides.task]


def _unquoted(override: str) -> str:
    """An override without the quotes that `overrides.quoted` added for Hydra's grammar."""
    key, _, value = override.lstrip("+").partition("=")
    # In a sweep, Hydra escapes what its grammar would read, such as the colon of a URL.
    is_quoted = value[:1] == value[-1:] == "'"
    return f"{key}={value[1:-1]}" if is_quoted else f"{key}={_ESCAPED.sub(_CHARACTER, value)}"


def _typed(config: DictConfig, command: Sequence[str]) -> CollectConfig:
    """The configuration that Hydra composed as the program's own type.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or contradicts another.
    """
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    # Again in the process of a launcher's job.
    remember_proxies()
    remember_arguments(command)
    remember_file(Path("env.yaml"))
    try:
        # First, because an interpolation that cannot be resolved is only here reported with its parameter.
        remember_values(OmegaConf.to_container(config, resolve=False))
        remember_values(OmegaConf.to_container(config, resolve=True))
        # A copy, because a launcher writes the original to a file with the job's result.
        config = config.copy()
        fill_from_env_yaml(config)
        typed = cast("CollectConfig", OmegaConf.to_object(config))
        unmark_values(vars(typed))
    except OmegaConfBaseException as error:
        raise ConfigError(_hydra_message(error)) from error
    return typed


def _collect(typed: CollectConfig, command: Sequence[str]) -> int:
    """Collect, and return the exit code."""
    from ng_rollouts.run.run import run  # noqa: PLC0415 - loads the HTTP engine, which a wrong value should not cost

    # A signal during the imports, whose exception a library has caught.
    if _early_signals:
        raise SystemExit(128 + _early_signals[0])
    gc.freeze()
    if typed.verifier.get("kind") == "group_judge":
        from ng_rollouts.rescoring.group_scoring import collect_and_score_groups as run  # noqa: PLC0415 - few runs
    with only_json(wanted=typed.quiet and not typed.dry_run):
        return _dry_run(lambda: run(typed, command)) if typed.dry_run else run(typed, command)


def _dry_run(run: Callable[[], int]) -> int:
    """Run a dry run, in which an unreachable server is a usage error: the run it checks could not begin.

    Raises:
        UsageError: a server does not answer.
    """
    try:
        return run()
    except Unreachable as error:
        raise UsageError(str(error)) from error


def _guarded(action: Callable[[], int]) -> int:
    """Run an action and return its exit code. An expected error is one line on stderr, another one a traceback."""
    try:
        return action()
    except Interrupted as interrupted:
        return interrupted.exit_code
    except NgRolloutsError as error:
        log_error(error)
        return error.exit_code
    except SystemExit as exit_request:
        return exit_request.code if isinstance(exit_request.code, int) else 1
    except Exception:
        log_lines(traceback.format_exc())
        log("error: unexpected error in ng_rollouts: please report it with the traceback above")
        return 4
