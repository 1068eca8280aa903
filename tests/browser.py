"""Headless Chromium over its own protocol (CDP): open a page, ask it something, take its picture."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1400,900",
)


class Browser:
    """One tab. A context manager; `headers` go with every request."""

    def __init__(self, profile: Path, headers: Mapping[str, str]) -> None:
        self._profile, self._headers, self._last = profile, dict(headers), 0

    def __enter__(self) -> "Browser":
        assert CHROMIUM is not None
        argv = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        with ExitStack() as stack:
            self._start(argv, stack)
            self._open = stack.pop_all()
        return self

    def _start(self, argv: list[str], stack: ExitStack) -> None:
        process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        told = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (told.exists() and len(told.read_text().splitlines()) == 2):
            assert process.poll() is None, "Chromium ended at once"
            assert time.monotonic() < deadline, "Chromium did not start within 60 s"
            time.sleep(0.1)
        port, path = told.read_text().splitlines()
        self._socket = stack.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None))
        target = self._call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"]
        self._call("Network.enable")
        self._call("Network.setExtraHTTPHeaders", {"headers": self._headers})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("Page.navigate", {"url": url})

    def ask(self, expression: str) -> Any:
        """What a JavaScript expression says."""
        answer = self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 30) -> None:
        """Wait until an expression is true. Raises TimeoutError with what the page says."""
        deadline = time.monotonic() + timeout
        while not self.ask(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} is not true of:\n{self.ask('document.body.innerText')}")
            time.sleep(0.1)

    def write(self, selector: str, text: str) -> None:
        """Click on a field and type into it."""
        self.ask(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", {"text": text})

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", {"format": "png"})["data"])

    def _call(
        self, method: str, params: Mapping[str, Any] | None = None, session: str | None = "own"
    ) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": dict(params or {})}
        if session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
