"""Minutes of ordinary trouble: clients that vanish in mid-stream, hosts that stall, half capacity.

Capacity is measured first (requests a second of whole replies at 32 connections); then traffic
runs at half of it for the time given: whole replies, streams read to their end, streams whose
client goes after a few events, and hosts that never finish (cut by the gateway's limits). In the
end the gateway must be as it was: no request in flight, no task and no socket more than before the
load, and no growth of memory over the second half.

    python bench/soak.py [--minutes 10] [--quick] [--json]

Exit status 1 where anything leaked.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from load import put_load, request_bytes, rss_mb

from gateway import chat_body, free_port, messages_body, running

HERE = Path(__file__).parent
SEED = 7
MOST_GROWTH_MB = 4.0
"""Growth over the second half that still counts as noise of the allocator."""


@dataclass
class Tally:
    """What became of the requests."""

    whole: int = 0
    streamed: int = 0
    vanished: int = 0
    errors: int = 0
    refused: int = 0
    samples: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, resident MB)."""


def config_text(port: int, folder: Path, hosts: dict[str, int]) -> str:
    """A gateway before three hosts: instant, paced, and one that stalls now and then."""
    providers = "".join(
        f"""
[providers.{name}]
kind = "openai"
base_url = "http://127.0.0.1:{address}/v1"
timeouts = {{ connect_s = 2, head_s = 2, idle_s = 2 }}

[routes.{name}]
targets = ["{name}:bench"]
retries = 0
"""
        for name, address in hosts.items()
    )
    return f"""
[gateway]
port = {port}
keys_file = "{folder / "keys.json"}"

[ledger]
path = "{folder / "ledger.db"}"
spool = "{folder / "spool"}"
{providers}"""


def read_metrics(port: int) -> dict[str, float]:
    """The unlabelled gauges of the metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    pairs = (line.split() for line in lines if line.startswith("kimiya_") and "{" not in line)
    return {pair[0]: float(pair[1]) for pair in pairs}


def count_sockets(pid: int) -> int:
    """Open sockets of a process."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")
        except OSError:
            continue
    return count


async def one_client(port: int, tally: Tally, rng: random.Random) -> None:
    """One request of a random kind."""
    kind = rng.choices(("whole", "stream", "vanish", "stall"), (60, 20, 15, 5))[0]
    model = {"whole": "instant", "stall": "stalling"}.get(kind, "paced")
    is_stream = kind != "whole"
    if is_stream and rng.random() < 0.5:
        data = request_bytes("/v1/messages", messages_body(model))
    else:
        data = request_bytes("/v1/chat/completions", chat_body(model, stream=is_stream))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        if kind == "vanish":
            await asyncio.wait_for(reader.read(rng.randrange(1, 2000)), 30)
            writer.transport.abort()
            tally.vanished += 1
            return
        is_chunked = b"chunked" in head.lower()
        if is_chunked:
            while not (await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)).startswith(b"0\r\n"):
                pass
        tally.refused += not head.startswith(b"HTTP/1.1 200")
        tally.streamed += is_stream
        tally.whole += not is_stream
        writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.LimitOverrunError):
        tally.errors += 1


async def traffic(port: int, pid: int, rate: float, seconds: float) -> Tally:
    """Requests at a steady rate, and a look at memory every second."""
    rng = random.Random(SEED)
    tally = Tally()
    began = time.monotonic()
    next_sample = next_line = began
    running_clients: set[asyncio.Task[None]] = set()
    while (now := time.monotonic()) < began + seconds:
        if now >= next_sample:
            tally.samples.append((now - began, rss_mb(pid)))
            next_sample += 1
        if now >= next_line:
            done = tally.whole + tally.streamed + tally.vanished
            print(f"  {now - began:5.0f} s  {done:7} done  {rss_mb(pid):6.1f} MB", flush=True)
            next_line += 15
        client = asyncio.create_task(one_client(port, tally, rng))
        running_clients.add(client)
        client.add_done_callback(running_clients.discard)
        await asyncio.sleep(rng.expovariate(rate))
    if running_clients:
        await asyncio.wait(running_clients, timeout=60)
    return tally


async def settled(port: int, pid: int, before: dict[str, float], sockets: int) -> tuple[float, int]:
    """Wait until the gateway is idle again; tasks and sockets it then has beyond ``before``."""
    extra_tasks, extra_sockets = 0.0, 0
    for _ in range(40):
        metrics = read_metrics(port)
        extra_tasks = metrics["kimiya_tasks"] - before["kimiya_tasks"]
        extra_sockets = count_sockets(pid) - sockets
        if metrics["kimiya_in_flight"] == 0 and extra_tasks <= 0 and extra_sockets <= 0:
            break
        await asyncio.sleep(0.5)
    return extra_tasks, extra_sockets


def growth_mb(samples: list[tuple[float, float]]) -> float:
    """Memory at the end over memory at half time, each a median of a tenth of the run."""
    sizes = [size for _, size in samples]
    tenth = max(1, len(sizes) // 10)
    half = len(sizes) // 2
    return statistics.median(sizes[-tenth:]) - statistics.median(sizes[half : half + tenth])


async def run(args: argparse.Namespace) -> dict[str, float | int | str]:
    """Measure capacity, run the traffic, look at what is left."""
    hosts = {name: free_port() for name in ("instant", "paced", "stalling")}
    script = [sys.executable, str(HERE / "upstream.py")]
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        running([*script, str(hosts["instant"])], hosts["instant"], 1),
        running([*script, str(hosts["paced"]), "--pace-ms", "5"], hosts["paced"], 1),
        running([*script, str(hosts["stalling"]), "--stall-every", "2"], hosts["stalling"], 1),
    ):
        config = Path(folder) / "kimiya.toml"
        config.write_text(config_text(port, Path(folder), hosts))
        command = [sys.executable, "-m", "kimiya", "serve", "--config", str(config)]
        with running(command, port, 0) as pid:
            request = request_bytes("/v1/chat/completions", chat_body("instant", stream=False))
            capacity = (await put_load(port, request, connections=32, seconds=4, pid=pid)).rps
            warm = await traffic(port, pid, capacity / 10, 3)
            await asyncio.sleep(args.settle)
            before, sockets = read_metrics(port), count_sockets(pid)
            # A stream costs about as much as ten whole replies here: half capacity in CPU terms.
            rate = capacity / 2 / 4.5
            print(f"capacity {capacity:.0f}/s; {rate:.0f}/s mixed for {args.minutes:g} min")
            tally = await traffic(port, pid, rate, args.minutes * 60)
            await asyncio.sleep(args.settle)
            extra_tasks, extra_sockets = await settled(port, pid, before, sockets)
            result: dict[str, float | int | str] = {
                "minutes": args.minutes,
                "whole": tally.whole,
                "streamed": tally.streamed,
                "vanished": tally.vanished,
                "refused": tally.refused,
                "errors": tally.errors,
                "leaked_tasks": int(max(0, extra_tasks)),
                "leaked_sockets": max(0, extra_sockets),
                "in_flight": int(read_metrics(port)["kimiya_in_flight"]),
                "growth_mb": round(growth_mb(tally.samples), 2),
                "rss_mb": round(rss_mb(pid), 1),
                "warm_errors": warm.errors,
                "seed": SEED,
            }
    return result


def main() -> None:
    """Run, print, and fail where something leaked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="20 seconds of traffic")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    # Connections to hosts stay pooled for a minute after their last use; they are no leak.
    args.settle = 65.0
    if args.quick:
        args.minutes, args.settle = 1 / 3, 6.0
    result = uvloop.run(run(args))
    leaks = [key for key in ("leaked_tasks", "in_flight") if result[key]]
    if not args.quick:
        # A quick run waits for neither the pool to empty nor memory to settle.
        leaks += ["leaked_sockets"] if result["leaked_sockets"] else []
        leaks += ["growth_mb"] if float(result["growth_mb"]) > MOST_GROWTH_MB else []
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in result.items():
        print(f"  {key:16}{value}")
    print("leaked: " + (", ".join(leaks) or "nothing"))
    if args.json:
        print(json.dumps(result))
    sys.exit(1 if leaks else 0)


if __name__ == "__main__":
    main()
