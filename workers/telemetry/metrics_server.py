"""Hardened HTTP server for metrics: two paths, few connections, short timeouts.

prometheus-client's own server answers every path, binds to all interfaces by default and gives each half-open
connection a thread.

Connections are bounded, and yet those that send nothing keep no scraper out: a connection beyond the limit takes the
place of the one that has waited longest for its request. A scraper sends its request with its connection, so that it
loses its place only to `MAX_CONNECTIONS` newer ones within that instant.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable

HEADER_TIMEOUT_S = 2.0  # until the whole request head has arrived
ANSWER_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 32
MAX_HEADER_BYTES = 8192
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """HTTP server for GET /metrics and GET /healthz, in a thread of its own.

    Args:
        host: address to listen on.
        port: port to listen on; 0 for a free one, which `port` then holds.
        render: returns the body of /metrics.
        header_timeout_s: seconds until a client that has not sent its whole request head is disconnected.

    Raises:
        OSError: cannot listen on the address.
    """

    def __init__(
        self, host: str, port: int, render: Callable[[], bytes], header_timeout_s: float = HEADER_TIMEOUT_S
    ) -> None:
        self._render = render
        self._header_timeout_s = header_timeout_s
        self._awaits_request: dict[asyncio.StreamWriter, bool] = {}  # the open connections, in the order of arrival
        self._loop = asyncio.new_event_loop()
        self._bound: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._serve, args=(host, port), name="metrics", daemon=True)
        self._thread.start()
        # Waits for the thread to listen, and raises here what it has raised.
        self.port = self._bound.result()

    def close(self) -> None:
        """Stops listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _serve(self, host: str, port: int) -> None:
        try:
            starting = asyncio.start_server(self._answer, host, port, limit=MAX_HEADER_BYTES)
            server = self._loop.run_until_complete(starting)
        except (OSError, OverflowError) as error:
            self._loop.close()
            self._bound.set_exception(error)
            return
        self._bound.set_result(server.sockets[0].getsockname()[1])
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))  # one turn of the loop, in which the cancelled tasks end
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._awaits_request[writer] = True
        self._make_room()
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._header_timeout_s)
            self._awaits_request[writer] = False
            writer.write(await self._response(head))
            await asyncio.wait_for(writer.drain(), ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that is slow, gone or sends too much gets no answer
        finally:
            self._awaits_request.pop(writer, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _make_room(self) -> None:
        """Closes the connection that has waited longest: the new one itself, where all others are being answered."""
        if len(self._awaits_request) > MAX_CONNECTIONS:
            oldest = next(writer for writer, is_waiting in self._awaits_request.items() if is_waiting)
            del self._awaits_request[oldest]
            oldest.transport.abort()

    async def _response(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        path = words[1].split(b"?", 1)[0] if len(words) == 3 and words[0] == b"GET" else b""
        if path == b"/healthz":
            return _message(b"200 OK", b"ok\n")
        if path != b"/metrics":
            return _message(b"404 Not Found", b"only GET /metrics and /healthz\n")
        try:
            # In another thread: reading the files would stop the loop, and /healthz with it.
            return _message(b"200 OK", await self._loop.run_in_executor(None, self._render))
        except (OSError, ValueError):
            return _message(b"500 Internal Server Error", b"cannot read the metrics\n")


def _message(status: bytes, body: bytes) -> bytes:
    lines = [
        b"HTTP/1.1 " + status,
        b"Content-Type: " + CONTENT_TYPE.encode(),
        b"Content-Length: %d" % len(body),
        # One answer each: idle connections would use up `MAX_CONNECTIONS`.
        b"Connection: close",
        b"",
        body,
    ]
    return b"\r\n".join(lines)
