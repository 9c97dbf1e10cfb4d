"""A host that answers at once: the floor under every gateway bench.

A bare uvloop protocol, so that what is measured is the gateway and not its upstream. It answers any
POST with a fixed OpenAI chat reply, whole or streamed according to ``"stream": true`` in the body.
``--pace-ms`` sends one event at a time, each in its own write.

``--stall-every N`` never finishes every Nth reply: the connection stays open and silent.

    python bench/upstream.py PORT [--events 50] [--pace-ms 0] [--stall-every 0]
"""

import argparse
import asyncio
import itertools
import json

import uvloop

REPLY = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "bench",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "An answer of ordinary length. " * 12},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 200, "completion_tokens": 90, "total_tokens": 290},
}


def whole_reply() -> bytes:
    """Head and body of the whole reply."""
    body = json.dumps(REPLY).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    return head + body


def stream_events(count: int) -> list[bytes]:
    """Each event of a streamed reply as one HTTP chunk."""

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        event = {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": "bench",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        return b"data: " + json.dumps(event).encode() + b"\n\n"

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": f" word{n}"}) for n in range(count)]
    events += [chunk({}, "stop")]
    usage = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_790_000_000}
    usage |= {"model": "bench", "choices": [], "usage": REPLY["usage"]}
    events += [b"data: " + json.dumps(usage).encode() + b"\n\n", b"data: [DONE]\n\n"]
    return [b"%x\r\n%s\r\n" % (len(event), event) for event in events]


class Upstream(asyncio.Protocol):
    """Answers each request on a connection as soon as its body is complete."""

    whole = whole_reply()
    events: tuple[bytes, ...] = ()
    pace_s = 0.0
    stall_every = 0
    served = itertools.count(1)
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in the buffer."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(b'"stream":true' in body.replace(b" ", b""))

    def answer(self, is_stream: bool) -> None:
        """Write the reply, or the beginning of it."""
        if self.stall_every and next(self.served) % self.stall_every == 0:
            if is_stream:
                self.transport.write(self.head + self.events[0])
            return
        if not is_stream:
            self.transport.write(self.whole)
        elif self.pace_s:
            self.transport.write(self.head)
            self.step(0)
        else:
            self.transport.write(self.head + b"".join(self.events) + b"0\r\n\r\n")

    def step(self, position: int) -> None:
        """Send one event and come back for the next."""
        if self.transport.is_closing():
            return
        if position == len(self.events):
            self.transport.write(b"0\r\n\r\n")
            return
        self.transport.write(self.events[position])
        asyncio.get_running_loop().call_later(self.pace_s, self.step, position + 1)


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="a host that answers at once")
    parser.add_argument("port", type=int)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--pace-ms", type=float, default=0.0)
    parser.add_argument("--stall-every", type=int, default=0)
    args = parser.parse_args()
    Upstream.stall_every = args.stall_every
    Upstream.events = tuple(stream_events(args.events))
    Upstream.pace_s = args.pace_ms / 1000
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", args.port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
