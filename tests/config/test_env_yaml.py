"""`env.yaml` in the working folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran, sums
from tests.servers import Served


def test_env_yaml_sets_parameters_that_the_command_line_omits(
    serve_model: Callable[..., Served], command: Callable[..., Ran], tasks: Callable[..., Path], tmp_path: Path
) -> None:
    """The command line takes precedence over `env.yaml`, and a key that other users can read gives a warning."""
    server = serve_model(models=["from-file", "from-command"], key="sk-in-the-file")
    tasks(sums(2))
    env = tmp_path / "env.yaml"
    env.write_text(
        f"policy_base_url: {server.url}/v1\npolicy_api_key: sk-in-the-file\npolicy_model_name: from-file\nother: 1\n"
    )
    env.chmod(0o644)
    files = ["+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=rollouts.jsonl", "+overwrite=true"]
    ran = command(*files, "+verifier=exact_match")
    assert ran.code == 0, ran.stderr
    assert "chmod 600 env.yaml" in ran.stderr
    env.chmod(0o600)
    ran = command(*files, "+verifier=exact_match", "+policy_model_name=from-command")
    assert ran.code == 0
    assert "warning: env.yaml" not in ran.stderr
    assert [request["model"] for request in server.stats()["last"]] == ["from-file"] * 2 + ["from-command"] * 2
