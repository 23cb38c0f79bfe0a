"""Minimal client of a headless Chromium: the DevTools protocol over a pipe, without further dependencies."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_TIMEOUT_S = 60.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser with one page.

    Attributes:
        console_messages: messages of the console, such as script errors and violations of the page's policy.
        requests: all URLs that the page requested.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest, self._session = 0, b"", ""
        self.console_messages: list[str] = []
        self.requests: list[str] = []
        self._is_loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def open(self, page: pathlib.Path, width: int = 1280, dark: bool = False) -> None:
        """Opens a file at this screen width and waits until it has loaded."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._is_loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline_s = time.monotonic() + _TIMEOUT_S
        while not self._is_loaded:
            assert time.monotonic() < deadline_s, "the page did not load"
            self._next()

    def value(self, expression: str) -> Any:
        """Evaluates a JavaScript expression on the page and returns its value."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: pathlib.Path) -> None:
        """Writes a PNG of the whole page."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(result["data"]))

    def _next(self) -> dict[str, Any]:
        """Reads the next message and records page loads, requests and console messages."""
        while b"\0" not in self._rest:
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has exited"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        match message.get("method"):
            case "Page.loadEventFired":
                self._is_loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.console_messages.append(json.dumps(message["params"])[:1000])
        return message


@contextlib.contextmanager
def browser(folder: pathlib.Path) -> Iterator[Browser]:
    """Starts a browser with its profile in this folder, and stops it."""
    assert PROGRAM
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()
    environment = {**os.environ, "HOME": str(folder)}

    def descriptors() -> None:
        # With --remote-debugging-pipe Chromium reads commands from descriptor 3 and answers on 4.
        reading, writing = os.dup(read_commands), os.dup(write_answers)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    process = subprocess.Popen(
        [PROGRAM, *_OPTIONS, f"--user-data-dir={folder / 'profile'}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment, close_fds=False, preexec_fn=descriptors,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)  # Chromium exits when its pipe is closed
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
