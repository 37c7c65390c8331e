"""The measurements of `run`."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
from environments import NotInstalledError, installed
from harness import HERE, Used, client_environment, median, often, stub, timed, write_tasks
from idle_slots import idle_share
from programs import Command, Programs, counts_instructions, in_turns, median_ratio
from ray_actors import ARRANGEMENTS, measured
from stub_agent import reply_of

GROUPS_LISTED = 5000
"""The metrics list groups of at most so many tasks, so a rollout costs more in shorter runs."""


@dataclass(frozen=True)
class Peer:
    """A program beside which ours is measured.

    Attributes:
        limit: the ratio of our cost to that of the program that is the bar; None without a bar.
        share: the share of the rollouts that it collects; less than 1 if it is slow.
    """

    name: str
    command: Command
    limit: float | None = None
    share: float = 1.0


class Bench:
    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.programs = Programs(folder, installed())
        self.times = 2 if quick else 5
        self.scale = 10 if quick else 1
        self.rows: list[tuple[str, str, str, str]] = []

    def used(self, command: Command, url: str, count: int, parallel: int) -> Used:
        return timed(command(url, write_tasks(self.folder, count), parallel), self.folder)

    def ours(self, url: str, count: int, parallel: int) -> Used:
        return self.used(self.programs.ours, url, count, parallel)

    def note(self, what: str, bar: str, figure: str, *, met: bool | None = None) -> None:
        """Keep a figure; `met` is None where there is no bar."""
        verdict = {True: "yes", False: "**no**", None: ""}[met]
        self.rows.append((what, bar, figure, verdict))
        print(f"{what}: {figure} (bar: {bar}) {verdict}", flush=True)

    def start_up(self) -> None:
        """A run of one row, start to finish."""
        name, command = self.programs.nemo_gym()
        with stub(latency=0) as url:
            runs = often(self.times, lambda: self.ours(url, 1, 1))
            theirs = f"{name} {self.used(command, url, 1, 1).wall_s:.1f} s" if command else name
        cpu, wall = median(runs, "cpu_s"), median(runs, "wall_s")
        self.note(
            "one row, start to finish", "≤ 0.22 s CPU", f"{cpu:.2f} s CPU, {wall:.2f} s; {theirs}", met=cpu <= 0.22
        )

    def per_rollout(self) -> None:
        """CPU of a rollout, beside scripts and NeMo Gym."""
        count, peers = 2 * GROUPS_LISTED, self.peers()
        with stub(latency=0.02) as url:
            measures = {"ours": self.cpu_us(self.programs.ours, url, count, 100)}
            for peer in peers:
                measures[peer.name] = self.cpu_us(peer.command, url, int(count * peer.share), 100)
            figures = in_turns(self.times, measures)
        for peer in peers:
            what = f"CPU per rollout, 100 in flight, 20 ms: {peer.name}"
            self.beside(what, peer.limit, figures["ours"], figures[peer.name])

    def peers(self) -> list[Peer]:
        """The programs beside which a rollout is measured."""
        script = self.programs.script
        peers = [
            Peer("a script over the same HTTP engine", script("same_engine"), 1.35),
            Peer("a script with aiohttp", script("aiohttp_gather"), 0.8),
            Peer("a script with raw sockets", script("raw_socket")),
            Peer("a script with httpx", script("httpx_gather"), share=0.1),
        ]
        name, command = self.programs.nemo_gym()
        if command is None:
            self.note("CPU per rollout beside NeMo Gym", "≤ 0.25 x", name)
            return peers
        return [*peers, Peer(name, command, 0.25)]

    def cpu_us(self, command: Command, url: str, count: int, parallel: int) -> Callable[[], float]:
        return lambda: self.programs.cpu_us(command, url, count, parallel)

    def beside(self, what: str, limit: float | None, ours: list[float], theirs: list[float]) -> None:
        """Keep our microseconds beside those of another program."""
        ratio = median_ratio(ours, theirs)
        mine = f"{statistics.median(ours):.0f} µs ({min(ours):.0f}-{max(ours):.0f})"
        told = f"{mine}, beside {statistics.median(theirs):.0f} µs: {ratio:.2f} x"
        bar, met = (f"≤ {limit:g} x", ratio <= limit) if limit else ("", None)
        self.note(what, bar, told, met=met)

    def instructions(self) -> None:
        """Instructions of a rollout, which hold under noise."""
        what = f"thousands of instructions per rollout, 100 in flight, beyond {GROUPS_LISTED} tasks"
        if not counts_instructions():
            self.note(what, "", "not measured: valgrind is not installed")
            return
        programs = self.programs
        peers = {"over the same HTTP engine": "same_engine", "with aiohttp": "aiohttp_gather"}
        with stub(latency=0.02) as url:
            ours = programs.instructions(programs.ours, url, GROUPS_LISTED + 1)
            theirs = {name: programs.instructions(programs.script(file), url, 300) for name, file in peers.items()}
            short = programs.instructions(programs.ours, url, 300)
        beside = "; ".join(f"a script {name} {count:.0f} ({ours / count:.2f} x)" for name, count in theirs.items())
        self.note(what, "", f"{ours:.0f}; {beside}")
        self.note("the same with fewer tasks, whose groups the metrics list", "", f"{short:.0f}")

    def large_replies(self) -> None:
        """200 kB replies, beside parsing and writing them once."""
        count = 3000 // self.scale
        with stub(latency=0.02, reply_bytes=200_000) as url:
            ours = self.cpu_us(self.programs.ours, url, count, 32)
            figures = in_turns(self.times, {"ours": ours, "once": lambda: self.parse_and_write_us(count)})
        self.beside("a rollout with a reply of 200 kB: parsing and writing it", 4, figures["ours"], figures["once"])

    def parse_and_write_us(self, count: int) -> float:
        """Microseconds of CPU that it takes to parse and write a reply of 200 kB."""
        body = reply_of(200_000).partition(b"\r\n\r\n")[2]
        bodies = [bytes(bytearray(body)) for _ in range(64)]  # no cache holds them all
        path = self.folder / "once.jsonl"
        with path.open("wb", buffering=0) as file:
            began = time.process_time()
            for number in range(count):
                file.write(orjson.dumps(orjson.loads(bodies[number % len(bodies)])) + b"\n")
            used = time.process_time() - began
        path.unlink()
        return used / count * 1e6

    def all_at_once(self) -> None:
        """16,000 rollouts of five seconds, all in flight."""
        count = 16_000 // self.scale
        memory_mb, net_s = self.without_start_up(self.programs.ours, count)
        _, floor_s = self.without_start_up(self.programs.script("same_engine"), count)
        told = f"{net_s:.1f} s + start-up; the script over the same engine {floor_s:.1f} s"
        self.note(f"{count} at once, 5 s each, one core", "≤ 9 s + start-up", told, met=net_s <= 9)
        each = memory_mb * 1024 / count - 6
        self.note("memory per rollout in flight, its row and reply aside", "≤ 40 kB", f"{each:.0f} kB", met=each <= 40)

    def without_start_up(self, command: Command, count: int) -> tuple[float, float]:
        """Peak memory in MB and seconds of so many rollouts at once, less those of one."""
        with stub(latency=5) as url:
            runs = often(self.some, lambda: self.used(command, url, count, count))
        with stub(latency=0) as url:
            base = self.used(command, url, 1, 1)
        return median(runs, "peak_mb") - base.peak_mb, median(runs, "wall_s") - base.wall_s

    @property
    def some(self) -> int:
        """The rounds of a measurement that takes long."""
        return max(1, self.times // 2)

    def idle(self) -> None:
        """How long slots have no request at the agent, latencies spread."""
        count, parallel = 20_000 // self.scale, 1000 // self.scale
        share = statistics.median(self.idle_share(count, parallel) for _ in range(self.some))
        self.note(
            f"{parallel} in flight, 0.5-2 s: slots idle while work is left", "≤ 2 %", f"{share:.2%}", met=share <= 0.02
        )

    def idle_share(self, count: int, parallel: int) -> float:
        with stub(latency=1.25, spread=0.75) as url:
            self.ours(url, count, parallel)
            with urllib.request.urlopen(f"{url}/times") as reply:
                times = json.load(reply)
        return idle_share(times["arrived"], times["answered"], parallel)

    def in_flight(self) -> None:
        """CPU of a rollout by how many are in flight."""
        figures = {}
        for parallel, latency in ((10, 0.002), (1000, 0.2), (10_000, 2.0)):
            with stub(latency=latency) as url:
                count = max(20_000 // self.scale, parallel)
                figures[parallel] = self.programs.cpu_us(self.programs.ours, url, count, parallel)
        ratio = max(figures.values()) / min(figures.values())
        told = ", ".join(f"{parallel}: {cost:.0f} µs" for parallel, cost in figures.items())
        self.note("CPU per rollout by rollouts in flight", "within 1.5 x", f"{told} ({ratio:.1f} x)", met=ratio <= 1.5)

    def memory(self) -> None:
        """Peak memory of a long run beside that of a short one."""
        few, many = 10_000 // self.scale, 1_000_000 // self.scale
        with stub(latency=0.01) as url:
            short, long = (self.ours(url, count, 100).peak_mb for count in (few, many))
        told = f"{long:.0f} MB, {long - short:+.0f} MB"
        self.note(f"peak memory, {many} rollouts", f"≤ 12 MB above {few}", told, met=long - short <= 12)

    def ray(self) -> None:
        """Rollouts a second against Ray actors, all on the same cores."""
        what = "Ray actors, 200 in flight, 20 ms, two cores for all"
        try:
            programs = Programs(self.folder, installed("ray"))
        except NotInstalledError as error:
            self.note(what, "", f"not measured: {error}")
            return
        rows = write_tasks(self.folder, 10_000 // self.scale)
        figures = []
        with stub(latency=0.02) as url:
            for name, options in ARRANGEMENTS:
                rate, driver_us = measured(programs, url, rows, *options)
                figures.append(f"{name}: {rate:.0f}/s, driver {driver_us:.0f} µs each")
        self.note(what, "", "; ".join(figures))

    def finishing(self) -> None:
        """Putting a journal in order, beside copying it."""
        command = [self.programs.python, str(HERE / "finish_journal.py"), str(self.folder)]
        size = 2_000_000_000 // self.scale
        done = subprocess.run(
            [*command, str(size)], capture_output=True, text=True, check=True, env=client_environment()
        )
        figures = json.loads(done.stdout)
        copies = sorted(figures["copies_s"])
        ratio = figures["finish_s"] / statistics.median(copies)
        told = f"{figures['finish_s']:.1f} s, copying {copies[0]:.1f}-{copies[-1]:.1f} s ({ratio:.2f} x the median)"
        self.note(f"finishing {size / 1e9:g} GB", "≤ 1.5 x copying", told, met=ratio <= 1.5)
