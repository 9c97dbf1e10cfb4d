"""What ``make run`` shows: the gateway with the embedded model, called by the official SDKs.

Starts ``kimiya serve`` on loopback, sends a chat, a streamed chat and a forced tool call through
it with the OpenAI and the Anthropic SDK, prints what came back, and leaves the gateway up until
Ctrl-C (with ``--once`` or ``ONCE=1`` it ends). Needs the packages of requirements/run.lock and the
embedded model (``kimiya local install``); no key, no network.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai

MODEL = "smollm2-135m-instruct"
SYSTEM = "You are a helpful assistant."
CAPITAL = "What is the capital of France?"
ALCHEMY = "In one sentence, what is alchemy?"
WEATHER = "What will the weather be in Lisbon for the next 3 days?"
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
}
GREEDY = {"temperature": 0}
"""The Anthropic SDK has no argument for it any more; the dialect still has the field."""
WIDTH = 78
READY_S = 60.0
CONFIG = """\
[gateway]
keys_file = "{folder}/keys.json"
log = "warning"

[providers.local]
kind = "local"
"""


def main() -> int:
    """Run the tour; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--port", type=int, default=8484, help="the gateway's port (8484); 0 takes any"
    )
    parser.add_argument("--once", action="store_true", help="end after the calls")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the gateway is stopped too
    # Calls to loopback go past any proxy the machine is set to use.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    once = args.once or os.environ.get("ONCE", "") not in ("", "0")
    with tempfile.TemporaryDirectory(prefix="kimiya-run-") as folder:
        port = args.port if args.port and is_free(args.port) else free_port()
        if port != args.port != 0:
            print(f"port {args.port} is taken; using {port}")
        with gateway(Path(folder), port) as process:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, process)
            title(f"Kimiya is up at {address}, with {MODEL} inside")
            try_openai(address)
            try_anthropic(address)
            point_a_client(address)
            if once:
                return 0
            print("\nCtrl-C stops the gateway.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()
    return 0


def try_openai(address: str) -> None:
    """The three calls with the OpenAI SDK."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
    title("OpenAI SDK: a chat")
    asked(CAPITAL)
    begun = time.perf_counter()
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": CAPITAL}],
        max_tokens=60,
        temperature=0,
    )
    answered(reply.choices[0].message.content or "")
    counted(reply.usage.prompt_tokens, reply.usage.completion_tokens, time.perf_counter() - begun)

    title("OpenAI SDK: a streamed chat")
    asked(ALCHEMY)
    begun = time.perf_counter()
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": ALCHEMY}],
        max_tokens=60,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage = None
    with typed() as type_out:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                type_out(choice.delta.content or "")
    counted(usage.prompt_tokens, usage.completion_tokens, time.perf_counter() - begun)

    title("OpenAI SDK: a forced tool call")
    asked(WEATHER)
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        tools=[{"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}],
        tool_choice={"type": "function", "function": {"name": "forecast"}},
        max_tokens=80,
        temperature=0,
    )
    for call in reply.choices[0].message.tool_calls or ():
        called(call.id, call.function.name, json.loads(call.function.arguments))


def try_anthropic(address: str) -> None:
    """The same three with the Anthropic SDK."""
    client = anthropic.Anthropic(base_url=address, api_key="none")
    title("Anthropic SDK: a chat")
    asked(CAPITAL)
    begun = time.perf_counter()
    reply = client.messages.create(
        model=MODEL,
        system=SYSTEM,
        messages=[{"role": "user", "content": CAPITAL}],
        max_tokens=60,
        extra_body=GREEDY,
    )
    answered("".join(block.text for block in reply.content if block.type == "text"))
    counted(all_read(reply.usage), reply.usage.output_tokens, time.perf_counter() - begun)

    title("Anthropic SDK: a streamed chat")
    asked(ALCHEMY)
    begun = time.perf_counter()
    with (
        client.messages.stream(
            model=MODEL,
            system=SYSTEM,
            messages=[{"role": "user", "content": ALCHEMY}],
            max_tokens=60,
            extra_body=GREEDY,
        ) as stream,
        typed() as type_out,
    ):
        for piece in stream.text_stream:
            type_out(piece)
        final = stream.get_final_message()
    counted(all_read(final.usage), final.usage.output_tokens, time.perf_counter() - begun)

    title("Anthropic SDK: a forced tool call")
    asked(WEATHER)
    reply = client.messages.create(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        tools=[{"name": "forecast", "input_schema": PARAMETERS}],
        tool_choice={"type": "tool", "name": "forecast"},
        max_tokens=80,
        extra_body=GREEDY,
    )
    for block in reply.content:
        if block.type == "tool_use":
            called(block.id, block.name, block.input)


def all_read(usage: anthropic.types.Usage) -> int:
    """Input tokens with those from the cache, which this dialect counts apart."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def point_a_client(address: str) -> None:
    """The two lines."""
    title("Point a client at it")
    print(f"export OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY=none")
    print(f"export ANTHROPIC_BASE_URL={address} ANTHROPIC_API_KEY=none", flush=True)


@contextlib.contextmanager
def gateway(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``kimiya serve`` with a configuration of its own, stopped at the end."""
    config = folder / "kimiya.toml"
    config.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    # The tour shows the embedded model, whatever hosts and keys the user has configured.
    env = {name: text for name, text in os.environ.items() if not name.startswith("KIMIYA_")}
    env["KIMIYA_CONFIG"] = str(config)
    command = [sys.executable, "-m", "kimiya", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until ``/healthz`` answers; ends the tour if the gateway does."""
    deadline = time.monotonic() + READY_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the gateway ended with status {process.returncode}; its message is above")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            opener.open(f"{address}/healthz", timeout=5).close()
            return
        time.sleep(0.1)
    sys.exit(f"the gateway did not answer at {address}/healthz within {READY_S:.0f} s")


def is_free(port: int) -> bool:
    """Whether the port can be bound on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port the system has to spare."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def title(text: str) -> None:
    print(f"\n── {text} ".ljust(WIDTH, "─"))


def asked(text: str) -> None:
    print(f"> {text}", flush=True)


def answered(text: str) -> None:
    print("\n".join(textwrap.fill(line, WIDTH) for line in text.strip().splitlines()))


def called(call_id: str, name: str, arguments: object) -> None:
    print(f"calls {name}({json.dumps(arguments)[:WIDTH]})  id {call_id}")


def counted(read: int, written: int, spent_s: float) -> None:
    print(f"  [{read} tokens read, {written} written, {spent_s:.1f} s]")


@contextlib.contextmanager
def typed() -> Iterator["Typewriter"]:
    """Something that prints pieces as they come, broken at the width."""
    writer = Typewriter()
    yield writer
    print(flush=True)


class Typewriter:
    """Prints pieces of text at once, and starts a new line before a word that does not fit."""

    def __init__(self) -> None:
        self._column = 0

    def __call__(self, piece: str) -> None:
        if self._column + len(piece) > WIDTH and piece.startswith(" "):
            print()
            self._column, piece = 0, piece.lstrip()
        print(piece, end="", flush=True)
        newline = piece.rfind("\n")
        self._column = self._column + len(piece) if newline < 0 else len(piece) - newline - 1


if __name__ == "__main__":
    sys.exit(main())
