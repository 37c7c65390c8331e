"""Secrets are found in parameters as they are typed, and in composed values."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ng_rollouts.config.secrets import remember_arguments, remember_file, remember_proxies, remember_values
from ng_rollouts.redaction import display_command, redact
from tests.conftest import EXAMPLE, FILES, Ran
from tests.servers import Served

KEY = "Vq7wLx2mZt9cRb4nKd"
OTHER = "Hy3sPe8gUa5fJo1iWm"


@pytest.mark.parametrize(
    "argument",
    [
        f"+policy_api_key={KEY}",
        f"policy_api_key='{KEY}'",
        f"policy_api_key={KEY},{OTHER}",
        f"policy_api_key=choice({OTHER},{KEY})",
        f"+policy_api_key=[{OTHER}, {KEY}]",
        f"--policy_api_key={KEY}",
        f"+agent_url=http://me:{KEY}@host:1",
        f"agent_url=http://a:1,http://me:{KEY}@b:2",
        f"+agent_url=[http://me:{OTHER}@a:1,http://me:{KEY}@b:2]",
        f"+agent_url=me:{KEY}@host:1",
        f"+agent_url=http://me:{KEY[:9]}/{KEY[9:]}@host:1",
        f"+agent_url=http://me:{KEY[:9]}@{KEY[9:]}@host:1",
        f"+agent_url=http://me:{KEY[:9]}%40{KEY[9:]}@host:1",
        f"+agent_url=http://me:{KEY[:9]}?{KEY[9:]}@host:1",
        f"+agent_url=http://me:{KEY[:9]} {KEY[9:]}@host:1",
        f"+agent_url=https://{KEY}@host",
        f"+agent_url=http://host/run?api_key={KEY}",
        f"+upload_to=s3://id:{KEY}@bucket/path",
        f"+upload_to=s3://{KEY}:{OTHER}@bucket/path",
        f"+input_jsonl_fpath=https://host/tasks.jsonl?sig={KEY}",
        f"+agents.a.policy_api_key={KEY}",
        f"+agents={{a: {{policy_base_url: http://h/v1, policy_api_key: {KEY}}}}}",
        f'+agents={{"a": {{"policy_api_key": "{KEY}"}}}}',
        f"+agents.a=http://me:{KEY}@host:1",
        f"+verifier.api_key={KEY}",
        f"+responses_create_params.extra_headers.Authorization=Bearer {KEY}",
        f"+responses_create_params.extra_headers.Authorization=Basic {base64.b64encode(f'me:{KEY}'.encode()).decode()}",
        f"+responses_create_params.extra_headers.x-api-key={KEY}",
        f"+responses_create_params.extra_headers.X-Litellm-Key={KEY}",
        f"+responses_create_params.extra_headers.Cookie=session={KEY}",
        f"+responses_create_params.extra_headers={{Authorization: {KEY}}}",
        f"+responses_create_params.extra_body.api_key={KEY}",
        f'+responses_create_params={{"extra_body": {{"api_key": "{KEY}"}}}}',
    ],
)
def test_typed_secrets_are_known(argument: str) -> None:
    """Keys and passwords are masked in all texts once they are typed, in any place and grammar."""
    remember_arguments(["-m", argument])
    assert KEY[:9] not in display_command([argument])
    assert (
        redact(f"you sent {KEY}") in ("you sent ***", f"you sent {KEY}"[: -len(KEY)] + "***")
        or "[" in argument
        or (KEY not in argument)
    )
    assert KEY not in redact(f"you sent {argument}")


def test_value_behind_a_mistyped_flag_is_known() -> None:
    """A key in its own word is quoted by the message about it, so it is masked too."""
    remember_arguments(["--policy_api_key", KEY])
    assert redact(f"unexpected {KEY}!") == "unexpected ***!"


def test_environment_variables_of_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a variable is a secret if the parameter is, while the interpolation is shown as it is typed."""
    monkeypatch.setenv("MINE", KEY)
    remember_arguments(["+policy_api_key=${oc.env:MINE}", "+agent_url=http://me:${oc.env:MINE}@h"])
    assert redact(KEY) == "***"
    assert display_command(["+policy_api_key=${oc.env:MINE}"]) == "'+policy_api_key=${oc.env:MINE}'"


def test_lists_and_dicts_are_searched() -> None:
    """Secrets are found at any depth of composed values."""
    remember_values(
        {
            "policy_base_url": [f"http://me:{KEY}@a", "http://b"],
            "agents": {"a": {"policy_api_key": [OTHER]}},
            "credentials": {"id": "some-identity"},
        }
    )
    assert redact(f"{KEY} {OTHER} some-identity") == "*** *** ***"


def test_secrets_of_a_file_that_is_not_valid_are_known(tmp_path: Path) -> None:
    """A YAML file is searched line by line, because the message about a mistake in it may quote a key."""
    (tmp_path / "env.yaml").write_text(f"policy_api_key: {KEY}\nurl: 'http://me:{OTHER}@host'\n  : [broken\n")
    remember_file(tmp_path / "env.yaml")
    assert redact(f"{KEY} {OTHER}") == "*** ***"


@pytest.mark.parametrize(
    "argument",
    [
        "+policy_model_name=org/some-model@revision",
        "+agent_url=http://gpu1:8000/models/llama@main",
        "+input_jsonl_fpath=hf://datasets/someorganisation/somedataset@main/tasks.jsonl",
        "+responses_create_params.instructions=Write to me:somewhere@example.org",
        "+responses_create_params.max_output_tokens=10000000",
        "+responses_create_params.extra_body.stop_token=<|end_of_text|>",
        "+max_total_tokens=somethingelse",
        "+answer_key=extracted_answer",
        "+upload_to=s3://some-bucket/some-folder",
        "+agent_name=tokenizer-agent",
    ],
)
def test_values_that_are_no_secrets_are_shown(argument: str) -> None:
    """Names, addresses and counts stay readable in commands and messages."""
    remember_arguments([argument])
    value = argument.partition("=")[2]
    assert redact(f"got {value!r}") == f"got {value!r}"
    assert "***" not in display_command([argument]) or "_token" in argument  # which look like a credential


@pytest.mark.parametrize(
    "arguments",
    [
        [f"+agent_url=me:{KEY}@host:1"],
        [f"+agent_url=http://me:{KEY[:9]}/{KEY[9:]}@host:1"],
        [f"+max_attempts=http://me:{KEY}@h"],
        ["+verifier=exact_match", f"+policy_base_url=[http://me:{KEY}@h,ftp://me:{OTHER}@h]"],
        ["-m", f"+agent_url=http://me:{KEY}@127.0.0.1:9,http://me:{OTHER}@127.0.0.1:9", "+wait_for_agent_s=0"],
        [f"+policy_api_key=[{KEY},{OTHER}]", "+policy_base_url=http://h"],
        [f"+agents={{a: {{policy_api_key: {KEY}"],
        [f"--policy_api_key={KEY}"],
        [f"+responses_create_params.extra_headers.Authorization={KEY}", "+responses_create_params.temperature=9"],
    ],
)
def test_secrets_are_in_no_message_about_a_mistake(
    command: Callable[..., Ran], tasks: Callable[..., Path], arguments: list[str]
) -> None:
    """A message about a wrong value shows the value without its secrets."""
    tasks(1)
    ran = command(*FILES, *arguments)
    assert ran.code in (2, 3), ran.stderr
    for part in (KEY, KEY[:9], OTHER):
        assert part not in ran.stdout + ran.stderr


def test_secrets_among_the_sampling_parameters_are_in_no_message_and_side_file(
    command: Callable[..., Ran], tasks: Callable[..., Path], serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Typed headers and bodies with keys are masked in summary, manifest, failures and messages; a resume fits them."""
    tasks(3)
    arguments = [
        *FILES,
        f"+agent_url={serve(faults={'400': 0.5}).url}",
        f"+responses_create_params.extra_headers.Authorization=Bearer {KEY}",
        f"+responses_create_params.extra_body.api_key={OTHER}",
    ]
    for more in ([], ["+resume_from_cache=true"], ["+dry_run=true"]):
        ran = command(*arguments, *more)
        assert ran.code in (0, 1), ran.stderr
        assert "has a secret, which becomes a part of each row" in ran.stderr
        side_files = [path.read_text() for path in tmp_path.iterdir() if path.name not in ("r.jsonl", "tasks.jsonl")]
        for text in (ran.stdout, ran.stderr, *side_files):
            assert KEY not in text
            assert OTHER not in text
    manifest = json.loads((tmp_path / "r_manifest.json").read_text())
    assert manifest["responses_create_params"]["extra_headers"] == {"Authorization": "***"}


@pytest.mark.parametrize(
    "content",
    [
        f"policy_api_key: [{KEY}, {OTHER}]\npolicy_base_url: http://127.0.0.1:9/v1\n",
        f"policy_base_url:\n  - http://me:{KEY}@127.0.0.1:9/v1\n  - http://me:{OTHER}@127.0.0.1:9/v1\n",
        f"policy_api_key: {KEY}\nother: [\n",
    ],
)
def test_secrets_of_env_yaml_are_in_no_message(
    command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path, content: str
) -> None:
    """Keys and passwords of env.yaml are masked in every message, also if the file has a mistake."""
    tasks(1)
    (tmp_path / "env.yaml").write_text(content)
    ran = command(*FILES, "+verifier=exact_match", "+wait_for_agent_s=0")
    assert ran.code in (2, 3), ran.stderr
    assert KEY not in ran.stderr
    assert OTHER not in ran.stderr


def test_secrets_of_other_commands_are_masked(command: Callable[..., Ran]) -> None:
    """Commands that only read files mask what was typed, too."""
    ran = command(f"+input_jsonl_fpath=s3://id:{KEY}@bucket/r.jsonl", script="ng_view_rollouts")
    assert ran.code == 2
    assert KEY not in ran.stderr


def test_traceback_and_sweep_lines_are_masked(command: Callable[..., Ran]) -> None:
    """A sweep prints the overrides of each run without their secrets."""
    files = [*EXAMPLE, "+output_jsonl_fpath=r.jsonl", "+limit=1"]
    ran = command("-m", *files, f"+responses_create_params.user={KEY},b", f"+head_server.host=me:{OTHER}@h,b")
    assert "run 1 of the sweep" in ran.stderr
    assert OTHER not in ran.stderr


def test_passwords_of_proxies_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may quote the credentials that it got from the environment, decoded."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pa%2Fs:Wq9x7Lm2@127.0.0.1:8")
    remember_proxies()
    assert redact("denied: user:pa/s:Wq9x7Lm2") == "denied: user:***"


@pytest.mark.parametrize(
    "argument",
    [
        f"+agent_url=//me:{KEY}@host/v1",
        f"+policy_api_key@x={KEY}",
        f"+policy_api_key=${{oc.env:{KEY}}}",
        f"+policy_api_key=${{{KEY}}}",
        f"+agent_url=https://h/api/run?code={KEY}",
    ],
)
def test_secret_in_a_wrong_place_is_masked(argument: str) -> None:
    """A key without scheme, in a package, as the name of a variable or in a query is known once it is typed."""
    remember_arguments([argument])
    assert KEY not in redact(f"cannot use {KEY}")


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg", "all"], ["--info", "config"]], ids=" ".join)
def test_printed_configuration_is_masked(command: Callable[..., Ran], flags: list[str]) -> None:
    """Hydra prints the composed configuration without keys and passwords."""
    ran = command(*EXAMPLE, *flags, f"+policy_api_key={KEY}", f"+head_server.host=me:{OTHER}@h")
    assert ran.code == 0, ran.stderr
    assert "input_jsonl_fpath" in ran.stdout
    assert not {secret for secret in (KEY, OTHER) if secret in ran.stdout + ran.stderr}
