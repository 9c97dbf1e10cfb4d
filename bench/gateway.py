"""What a call costs on its way through the gateway, beside LiteLLM's proxy and a direct call.

One worker each, one local host that answers at once, in one run. The process under test is pinned
to one core, load and host to another. CPU per request and ratios hold on a shared machine; wall
times are its own. ``kimiya`` keeps no books, as LiteLLM here; ``books`` is the same gateway with
ledger, cache planner and a budget on.

    python bench/gateway.py [--quick] [--json] [--seconds 8] [--rounds 3] [--no-peer]

Figures (``--json`` prints them as one object on the last line):

* ``added_p50_ms``: median latency at one connection, less that of a direct call.
* ``cpu_ms_per_request``: of the gateway's process, whole JSON replies, 32 connections.
* ``cpu_us_per_event``: of the gateway's process, streams of 50 events a reply sent one event at a
  time, 32 connections.
* ``throughput_vs_litellm``: requests a second at 32 connections over LiteLLM's; null without it.
* ``books_added_p50_ms``, ``books_cpu_ms_per_request``: the first two with ledger, planner and a
  budget on.
* ``tamed_over_untamed_cpu``: CPU of a call through taming over one without, the larger of whole and
  streamed.
* ``rss_mb``: resident memory of the gateway after the load.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvloop
from load import Load, put_load, request_bytes

HERE = Path(__file__).parent
PEERS = HERE.parent / ".cache" / "peers"
LITELLM_VERSION = "1.106.2"
LITELLM_ENVIRONMENT = {
    # Both gateways run without keys here, so that none pays for a check the other skips.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
PROMPT = "Tell me of the sea, its weather and its ships. " * 20


@dataclass
class Row:
    """One line of the table: medians over the rounds, with their spread."""

    name: str
    shape: str
    p50_ms: list[float]
    rps: list[float]
    cpu_us: list[float]
    unit: str
    rss_mb: float
    errors: int


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Until the port accepts, or the process died."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server on port {port} ended with {process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.1)
    sys.exit(f"nothing listens on port {port} after {limit_s:.0f} s")


@contextmanager
def running(command: list[str], port: int, core: int, **env: str) -> Iterator[int]:
    """A server on its core; gives its process id."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (read after the process, closed with it)
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command,
        stdout=log,
        stderr=log,
        env={**os.environ, **env},
    )
    try:
        wait_for(port, process, 120)
        yield process.pid
    except SystemExit:
        log.seek(0)
        sys.stderr.write(log.read()[-3000:].decode(errors="replace"))
        raise
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


BOOKS = """
[budgets.everyone]
requests = 1000000000
period = "day"
"""
NO_BOOKS = """
[caching]
plan = false
"""


def kimiya_command(
    folder: Path, upstream: int, paced: int, port: int, *, books: bool = False
) -> list[str]:
    """Our gateway in front of the instant host."""
    config = folder / "kimiya.toml"
    config.write_text(
        f"""
[gateway]
port = {port}
keys_file = "{folder / "keys.json"}"

[ledger]
enabled = {str(books).lower()}
path = "{folder / "ledger.db"}"
spool = "{folder / "spool"}"

[providers.instant]
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"

[providers.paced]
kind = "openai"
base_url = "http://127.0.0.1:{paced}/v1"

[routes.bench]
targets = ["instant:bench"]

[routes.bench-paced]
targets = ["paced:bench"]

[routes.untamed]
targets = ["instant:raw"]

[routes.untamed-paced]
targets = ["paced:raw"]

[[models]]
host = "instant"
model_id = "raw"
like = "local/smollm2-135m-instruct"
dialects = ["openai_chat"]
call_format = "none"

[[models]]
host = "paced"
model_id = "raw"
like = "local/smollm2-135m-instruct"
dialects = ["openai_chat"]
call_format = "none"
{BOOKS if books else NO_BOOKS}"""
    )
    return [sys.executable, "-m", "kimiya", "serve", "--config", str(config)]


def litellm_command(folder: Path, upstream: int, paced: int, port: int) -> list[str]:
    """LiteLLM's proxy in front of the same host, as its documentation starts it."""
    config = folder / "litellm.yaml"
    models = "".join(
        f"""
  - model_name: {name}
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{address}/v1
      api_key: none
"""
        for name, address in (("bench", upstream), ("bench-paced", paced))
    )
    config.write_text(f"model_list:{models}")
    binary = PEERS / "litellm" / "bin" / "litellm"
    return [str(binary), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def find_litellm(*, may_install: bool) -> bool:
    """Whether LiteLLM is there, installing it into ``.cache/peers`` where that is allowed."""
    home = PEERS / "litellm"
    if (home / "bin" / "litellm").exists():
        return True
    if not may_install:
        return False
    print(f"installing litellm[proxy]=={LITELLM_VERSION} into {home} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run(
        [str(home / "bin" / "pip"), "install", "-q", f"litellm[proxy]=={LITELLM_VERSION}"],
        check=True,
    )
    return True


def chat_body(model: str, *, stream: bool) -> bytes:
    """A request of about a kilobyte, as OpenAI's clients send it."""
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": PROMPT},
        ],
        "temperature": 0.5,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def messages_body(model: str) -> bytes:
    """The same as an Anthropic request, streamed."""
    body = {
        "model": model,
        "max_tokens": 256,
        "stream": True,
        "system": "You answer briefly.",
        "messages": [{"role": "user", "content": PROMPT}],
    }
    return json.dumps(body).encode()


async def measure(
    name: str, port: int, pid: int | None, args: argparse.Namespace, *, is_peer: bool = False
) -> list[Row]:
    """Every shape of traffic against one address."""
    headers = {"authorization": "Bearer none"}
    chat = request_bytes("/v1/chat/completions", chat_body("bench", stream=False), headers)
    paced_chat = chat_body("bench-paced", stream=True)
    paced = request_bytes("/v1/chat/completions", paced_chat, headers)
    translated = request_bytes("/v1/messages", messages_body("bench-paced"), headers)
    streams = 4 if is_peer else 32
    shapes = [("JSON, 1 connection", chat, 1, "request"), ("JSON, 32", chat, 32, "request")]
    if name == "books":
        shapes = shapes[:2]
    elif is_peer and args.quick:
        shapes = shapes[1:]  # the only figure the ratio needs; the peer is slow to start
    elif pid is not None:
        shapes.append((f"SSE paced, {streams}", paced, streams, "event"))
        if not is_peer:
            shapes.append((f"SSE to Anthropic, {streams}", translated, streams, "event"))
            raw = request_bytes("/v1/chat/completions", chat_body("untamed", stream=False))
            raw_paced = chat_body("untamed-paced", stream=True)
            shapes.append(("untamed JSON, 32", raw, 32, "request"))
            shapes.append(
                (
                    "untamed SSE, 32",
                    request_bytes("/v1/chat/completions", raw_paced),
                    32,
                    "event",
                )
            )
    await put_load(port, chat, connections=4, seconds=min(1.0, args.seconds))
    rows = [Row(name, shape, [], [], [], unit, 0.0, 0) for shape, _, _, unit in shapes]
    # Shapes take turns, so that a machine whose speed drifts treats them alike.
    for _ in range(args.rounds):
        for row, (_, request, connections, _) in zip(rows, shapes, strict=True):
            load = await put_load(
                port, request, connections=connections, seconds=args.seconds, pid=pid
            )
            gather(row, load)
    return rows


def gather(row: Row, load: Load) -> None:
    """Add a round to its row."""
    if not load.requests:
        row.errors += max(1, load.errors)
        return
    count = load.requests if row.unit == "request" else load.events
    row.p50_ms.append(statistics.median(load.latencies_ms))
    row.rps.append(load.rps)
    row.cpu_us.append(load.cpu_s / max(1, count) * 1e6)
    row.rss_mb = max(row.rss_mb, load.rss_mb)
    row.errors += load.errors


def spread(values: list[float], digits: int = 2) -> str:
    """Median, with least and most behind it."""
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def print_table(rows: list[Row]) -> None:
    """The table of the README."""
    print(
        f"\n{'':9}{'shape':22}{'p50 ms':>24}{'per second':>21}{'CPU us':>26}{'RSS MB':>8}{'err':>5}"
    )
    for row in rows:
        cpu = f"{spread(row.cpu_us, 0)}/{row.unit[:3]}" if row.rss_mb else "-"
        rss = f"{row.rss_mb:.0f}" if row.rss_mb else "-"
        print(
            f"{row.name:9}{row.shape:22}{spread(row.p50_ms):>24}{spread(row.rps, 0):>21}"
            f"{cpu:>26}{rss:>8}{row.errors:>5}"
        )


def figures(rows: list[Row]) -> dict[str, float | None]:
    """The figures the table stands for."""
    by_key = {(row.name, row.shape.split(",")[0], "1 con" in row.shape): row for row in rows}

    def middle(name: str, shape: str, attribute: str, *, single: bool = False) -> float | None:
        row = by_key.get((name, shape, single))
        values = getattr(row, attribute) if row is not None else []
        return statistics.median(values) if values else None

    ours = middle("kimiya", "JSON", "p50_ms", single=True)
    direct = middle("direct", "JSON", "p50_ms", single=True)
    our_rps, their_rps = middle("kimiya", "JSON", "rps"), middle("litellm", "JSON", "rps")
    events = [
        value
        for shape in ("SSE paced", "SSE to Anthropic")
        if (value := middle("kimiya", shape, "cpu_us")) is not None
    ]
    cpu_us = middle("kimiya", "JSON", "cpu_us")
    tamed = [
        value / plain
        for shape, plain_shape in (("JSON", "untamed JSON"), ("SSE paced", "untamed SSE"))
        if (value := middle("kimiya", shape, "cpu_us"))
        and (plain := middle("kimiya", plain_shape, "cpu_us"))
    ]
    books = middle("books", "JSON", "p50_ms", single=True)
    books_cpu_us = middle("books", "JSON", "cpu_us")
    result = {
        "books_added_p50_ms": books - direct if books and direct else None,
        "books_cpu_ms_per_request": books_cpu_us / 1000 if books_cpu_us else None,
        "added_p50_ms": ours - direct if ours is not None and direct is not None else None,
        "cpu_ms_per_request": cpu_us / 1000 if cpu_us is not None else None,
        "cpu_us_per_event": max(events) if events else None,
        "throughput_vs_litellm": our_rps / their_rps if our_rps and their_rps else None,
        "tamed_over_untamed_cpu": max(tamed) if tamed else None,
        "rss_mb": max(row.rss_mb for row in rows if row.name == "kimiya"),
    }
    return {key: round(value, 3) if value is not None else None for key, value in result.items()}


async def run(args: argparse.Namespace) -> list[Row]:
    """Start everything in turn and measure."""
    server_core = 0
    load_core = 1 if (os.cpu_count() or 1) > 1 else 0
    os.sched_setaffinity(0, {load_core})
    instant, paced = free_port(), free_port()
    host = [sys.executable, str(HERE / "upstream.py")]
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running([*host, str(instant)], instant, load_core),
        running([*host, str(paced), "--pace-ms", "4"], paced, load_core),
    ):
        print("direct ...", flush=True)
        rows += await measure("direct", instant, None, args)
        print("kimiya ...", flush=True)
        port = free_port()
        command = kimiya_command(Path(folder), instant, paced, port)
        with running(command, port, server_core) as pid:
            rows += await measure("kimiya", port, pid, args)
        print("kimiya with books ...", flush=True)
        port = free_port()
        command = kimiya_command(Path(folder), instant, paced, port, books=True)
        with running(command, port, server_core) as pid:
            rows += await measure("books", port, pid, args)
        if args.peer and find_litellm(may_install=not args.quick):
            print("litellm ...", flush=True)
            port = free_port()
            command = litellm_command(Path(folder), instant, paced, port)
            with running(command, port, server_core, **LITELLM_ENVIRONMENT) as pid:
                rows += await measure("litellm", port, pid, args, is_peer=True)
    return rows


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    """Measure, print the table, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="done in 45 s; no long installs")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave LiteLLM out")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.rounds = 1.0, 2
    rows = uvloop.run(run(args))
    cpu = processor()
    print(f"\n{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python", end=" ")
    print(
        f"{platform.python_version()}, kimiya {version('kimiya')}, aiohttp {version('aiohttp')},",
        end=" ",
    )
    print(
        f"uvicorn {version('uvicorn')}, litellm {LITELLM_VERSION}; {args.rounds} rounds of", end=" "
    )
    print(f"{args.seconds:.0f} s, median (least-most)")
    print_table(rows)
    if args.json:
        print(json.dumps({**figures(rows), "machine": cpu, "litellm": LITELLM_VERSION}))


if __name__ == "__main__":
    main()
