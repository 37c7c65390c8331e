"""Starts NeMo Gym's servers: `python nemo_gym_servers.py '{"configs": [...], ...}'`, with a Python that has NeMo Gym.

NeMo Gym's `ng_run` makes a virtual environment for each server and a Ray cluster for all of them. These servers need
neither, so each app runs in its own process. From NeMo Gym 0.7 on, there is an environment server before each agent.
Prints the head server's port once all servers answer, and stops them when standard input ends. Options:

    configs     YAML files of NeMo Gym, by their paths in its package
    policy      base URL of the model behind NeMo Gym's model server
    secret      the API key of that model
    settings    more entries of the configuration; `entrypoint` may be the absolute path of an app
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

KINDS = ("responses_api_agents", "resources_servers", "responses_api_models", "environment_servers")
UP_WITHIN_S = 120.0


def main(options: dict[str, Any]) -> None:
    servers = addresses_of(configuration(options))
    children = {
        name: subprocess.Popen(
            # -P: the folders beside this file have names of the standard library
            [sys.executable, "-P", __file__, "--serve", name],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        for name in servers
    }
    try:
        for name, url in servers.items():
            wait_for(url, children[name])
        print(servers["head_server"].rpartition(":")[2], flush=True)
        sys.stdin.read()
    finally:
        for child in children.values():
            child.kill()


def configuration(options: dict[str, Any]) -> Any:
    """The configuration as NeMo Gym composes it, also stored in the environment variable that the servers read."""
    import nemo_gym.global_config as config
    from omegaconf import OmegaConf

    whole = config.GlobalConfigDictParser().parse_no_environment(
        OmegaConf.create(
            {
                "config_paths": options["configs"],
                "policy_base_url": options["policy"],
                "policy_api_key": options["secret"],
                "policy_model_name": "test-model",
                "head_server": {"host": "127.0.0.1", "port": free_port()},
                **options.get("settings", {}),
            }
        )
    )
    os.environ[config.NEMO_GYM_CONFIG_DICT_ENV_VAR_NAME] = OmegaConf.to_yaml(whole)
    return OmegaConf.to_container(whole)


def addresses_of(whole: dict[str, Any]) -> dict[str, str]:
    """The URLs of all servers, by name."""
    urls = {"head_server": "http://{host}:{port}".format(**whole["head_server"])}
    for name, entry in whole.items():
        for kind in KINDS:
            if isinstance(entry, dict) and kind in entry:
                urls[name] = "http://{host}:{port}".format(**next(iter(entry[kind].values())))
    return urls


def serve(name: str) -> None:
    """Run one of the servers in this process."""
    import nemo_gym
    from nemo_gym import global_config, server_utils

    server_utils.initialize_ray = lambda: None
    if name == "head_server":
        _, thread, _ = server_utils.HeadServer.run_webserver()
        thread.join()
        return
    os.environ[global_config.NEMO_GYM_CONFIG_PATH_ENV_VAR_NAME] = name
    entry = global_config.get_global_config_dict()[name]
    kind = next(kind for kind in KINDS if kind in entry)
    [(server_type, server)] = entry[kind].items()
    folder = Path(nemo_gym.PARENT_DIR, kind, server_type)
    sys.path.insert(0, str(folder))
    # an absolute path, of an app that is not NeMo Gym's, replaces the folder
    runpy.run_path(str(folder / server["entrypoint"]), run_name="__main__")


def wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"{url} does not answer")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        main(json.loads(sys.argv[1]))
