"""A proxy that lets nothing through and remembers who tried.

Clients are told to use it for every address but loopback, so a client that needs the net fails its
test, and one that only tries is seen.
"""

import socketserver
import threading
from types import TracebackType


class Tripwire:
    """Running from ``__enter__`` on; ``tried`` lists the first line of every attempt."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        tried = self.tried

        class Refuse(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                tried.append(self.rfile.readline(4096).decode("latin-1").strip())
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "Tripwire":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send a process's calls here, but for those to loopback."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        variables = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), url)
        variables["NO_PROXY"] = "127.0.0.1,localhost"
        return variables | {name.lower(): text for name, text in variables.items()}
