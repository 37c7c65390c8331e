"""`ng_serve_example`: serve each packaged agent on its own port, and a head server that lists them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

from ng_rollouts.agents.example.app import App, example_app, json_app
from ng_rollouts.agents.source_agents import EXAMPLE_AGENTS
from ng_rollouts.cli.simple_command import run_command
from ng_rollouts.config.fields import check_fields, param
from ng_rollouts.errors import ConfigError, require_extra


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve the packaged example agents and a head server that lists them, until interrupted."""

    host: str = param("127.0.0.1", "Address to listen on.")
    port: int = param(
        12000, "Port of the first agent; the second uses the next one (0: any free ports).", minimum=0, maximum=65534
    )
    head_port: int = param(11000, "Port of the head server (0: any free port).", minimum=0, maximum=65535)
    latency_s: float = param(0.0, "Mean seconds before an agent answers, exponentially distributed.", minimum=0)

    def __post_init__(self) -> None:
        check_fields(self)


def main() -> NoReturn:
    """Run `ng_serve_example`."""
    run_command("ng_serve_example", ServeConfig, run, example="+latency_s=0.5")


def run(config: ServeConfig) -> int:
    """Serve until interrupted, and return the exit code.

    Raises:
        ConfigError: a port is taken, or uvicorn is not installed.
    """
    asyncio.run(_serve(config))
    return 0


def global_config(addresses: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """The configuration that a head server publishes: an entry per agent, in NeMo Gym's structure."""
    return {
        name: {"responses_api_agents": {"example": {"entrypoint": "app.py", "host": host, "port": port}}}
        for name, (host, port) in addresses.items()
    }


def head_app(addresses: dict[str, tuple[str, int]]) -> App:
    """A head server for agents at these addresses.

    Args:
        addresses: host and port by name.
    """
    import yaml  # noqa: PLC0415 - loaded late, so that usage errors are quick

    text = yaml.safe_dump(global_config(addresses))

    async def respond(method: str, path: str, _: bytes) -> tuple[int, Any]:
        if method == "GET" and path in ("/", "/global_config_dict_yaml"):
            return 200, text if path != "/" else {"name": "head_server"}
        return 404, {"detail": "Not Found"}

    return json_app(respond)


async def _serve(config: ServeConfig) -> None:
    require_extra("uvicorn", "serve", "ng_serve_example")
    import uvicorn  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        ports = [config.port + number if config.port else 0 for number in range(len(EXAMPLE_AGENTS))]
        # All ports are bound before the first server starts: a port that is taken is an error, and nothing is served.
        bound = {
            name: stack.enter_context(_bind(config.host, port, "port"))
            for name, port in zip(EXAMPLE_AGENTS, ports, strict=True)
        }
        head = stack.enter_context(_bind(config.host, config.head_port, "head_port"))
        addresses = {name: (config.host, _port(listener)) for name, listener in bound.items()}
        apps = [(example_app(name, config.latency_s), listener) for name, listener in bound.items()]
        servers = [
            (uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")), listener)
            for app, listener in [*apps, (head_app(addresses), head)]
        ]
        for name, (host, port) in addresses.items():
            print(f"{name}: http://{host}:{port}")
        print(f"head server: http://{config.host}:{_port(head)}", flush=True)
        await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in servers))


def _bind(host: str, port: int, parameter: str) -> socket.socket:
    """A listening socket.

    Args:
        parameter: the parameter that the port comes from, for the message.

    Raises:
        ConfigError: the address cannot be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # A port can be used again at once, although connections of an earlier process are still in TIME_WAIT.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        fix = f"choose another port with +{parameter}=, or 0 for any free one"
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}: {fix}") from error
    listener.listen(1024)
    return listener


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])
