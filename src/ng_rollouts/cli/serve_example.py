"""`ng_serve_example`: the packaged agents on ports of their own, and a head server that lists them."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from ng_rollouts.agents.example.app import App, example_app, json_app
from ng_rollouts.agents.factory import EXAMPLE_AGENTS
from ng_rollouts.config.overrides import Keys
from ng_rollouts.errors import ConfigError, NgRolloutsError, require_extra

_USAGE = """\
Serve the packaged example agents, and a head server that lists them, until interrupted.

usage: ng_serve_example [+port=12000] [+head_port=11000] [+host=127.0.0.1] [+latency_s=0.05]

  port       of the first agent; the second has the next one (0: any that are free)
  head_port  of the head server (0: any that is free)
  latency_s  mean seconds before an agent answers, exponentially spread
"""


@dataclass(kw_only=True)
class ServeConfig:
    """What `ng_serve_example` is told."""

    host: str = "127.0.0.1"
    port: int = 12000
    head_port: int = 11000
    latency_s: float = 0.0


def main() -> None:
    """`ng_serve_example`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_USAGE)
        return
    try:
        asyncio.run(_serve(_parsed(sys.argv[1:])))
    except NgRolloutsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def global_config(parse_urls: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """What a head server tells of agents: an entry each, in NeMo Gym's shape."""
    return {
        name: {"responses_api_agents": {"example": {"entrypoint": "app.py", "host": host, "port": port}}}
        for name, (host, port) in parse_urls.items()
    }


def head_app(parse_urls: dict[str, tuple[str, int]]) -> App:
    """A head server for these agents."""
    import yaml  # noqa: PLC0415 - quick usage errors

    text = yaml.safe_dump(global_config(parse_urls))

    async def respond(method: str, path: str, _: bytes) -> tuple[int, Any]:
        if method == "GET" and path in ("/", "/global_config_dict_yaml"):
            return 200, text if path != "/" else {"name": "head_server"}
        return 404, {"detail": "Not Found"}

    return json_app(respond)


def _parsed(arguments: list[str]) -> ServeConfig:
    from omegaconf import OmegaConf  # noqa: PLC0415 - quick usage errors
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    overrides = Keys.of(ServeConfig, ()).rewrite(arguments)
    try:
        config = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(ServeConfig), OmegaConf.from_dotlist(overrides))
        )
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return cast("ServeConfig", config)


async def _serve(config: ServeConfig) -> None:
    require_extra("uvicorn", "serve", "ng_serve_example")
    import uvicorn  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        ports = [config.port + place if config.port else 0 for place in range(len(EXAMPLE_AGENTS))]
        bound = {
            name: stack.enter_context(_bind(config.host, port))
            for name, port in zip(EXAMPLE_AGENTS, ports, strict=True)
        }
        head = stack.enter_context(_bind(config.host, config.head_port))
        parse_urls = {name: (config.host, _port(listener)) for name, listener in bound.items()}
        apps = [(example_app(name, config.latency_s), listener) for name, listener in bound.items()]
        servers = [
            (uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")), listener)
            for app, listener in [*apps, (head_app(parse_urls), head)]
        ]
        for name, (host, port) in parse_urls.items():
            print(f"{name}: http://{host}:{port}")
        print(f"head server: http://{config.host}:{_port(head)}", flush=True)
        await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in servers))


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise ConfigError(f"a port is a number from 0 to 65535, got {port}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror} (0 takes any free port)") from error
    listener.listen(1024)
    return listener


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
