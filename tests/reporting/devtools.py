"""A real browser driven by mouse and keys, over the pipe it offers to debuggers."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe", "--window-size=1280,1000",
)  # fmt: skip
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9, " ": 32, "Enter": 13, "PageUp": 33}


def find_browser() -> str | None:
    """The browser's program."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page in the browser; what it complains about and asks for is kept."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._buffer, self._count, self._session = to_browser, from_browser, b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command's result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60.0)
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, patience: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], patience)
            assert ready, "the browser says nothing"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser is gone"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(said["args"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded += 1

    def open(self, url: str) -> None:
        """Load an address in full."""
        self.call("Page.navigate", url="about:blank")
        before = self._loaded
        self.call("Page.navigate", url=url)
        while self._loaded <= before:
            self._next(60.0)
        # The event may be the blank page's, come late.
        self.wait_for(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn the answer to all that it was asked: it marks its root while it owes one."""
        self.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(1))))")
        self.wait_for("document.documentElement.dataset.waiting === undefined")

    def wait_for(self, condition: str, patience: float = 60.0) -> None:
        """Wait until a condition holds in the page, `patience` seconds at most."""
        deadline = time.monotonic() + patience
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"still not so after {patience:g} s: {condition}"
            time.sleep(0.01)

    def value(self, expression: str) -> Any:
        """What an expression is worth in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def box(self, selector: str) -> dict[str, float]:
        """Where an element stands, scrolled into view: x, y, width, height in pixels."""
        found: dict[str, float] = self.value(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return {{x: b.x, y: b.y, width: b.width, height: b.height}}; }})(document.querySelector({selector!r}))"
        )
        return found

    def mouse(self, kind: str, x: float, y: float) -> None:
        """mousePressed, mouseMoved or mouseReleased of the left button."""
        button = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, selector: str) -> None:
        """A click in the middle of an element."""
        box = self.box(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)
        self.settle()

    def drag(self, selector: str, start: float, end: float) -> None:
        """Press at one share of an element's width, move in steps, let go at another."""
        box = self.box(selector)
        y = box["y"] + box["height"] / 2
        at = [box["x"] + box["width"] * (start + (end - start) * k / 8) for k in range(9)]
        self.mouse("mousePressed", at[0], y)
        for x in at[1:]:
            self.mouse("mouseMoved", x, y)
        self.mouse("mouseReleased", at[-1], y)
        self.settle()

    def key(self, name: str, times: int = 1) -> None:
        """A key pressed and let go."""
        for _ in range(times):
            text = {"text": name} if name == " " else {"text": "\r"} if name == "Enter" else {}
            code = {"key": name, "windowsVirtualKeyCode": KEYS[name], "code": "Space" if name == " " else name}
            self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)
        self.settle()

    def type(self, selector: str, text: str) -> None:
        """Replace a field's text and confirm it."""
        self.click(selector)
        self.value(f"document.querySelector({selector!r}).select()")
        self.call("Input.insertText", text=text)
        self.key("Enter")

    def screen(self, width: int, height: int, *, mobile: bool = False, **media: str) -> None:
        """Another screen; `media` are features such as prefers-color-scheme, underscores for hyphens."""
        scale = 2 if mobile else 1
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=mobile)  # fmt: skip
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, out: Path) -> Path:
        """What the screen shows, as PNG."""
        data = self.call("Page.captureScreenshot")["data"]
        out.write_bytes(base64.b64decode(data))
        return out

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])


@contextlib.contextmanager
def browser_tab(program: str, profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, ended with the block."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    # bash, since plainer shells take no descriptor above 9.
    joined = f'exec "$@" 3<&{down_read} 4>&{up_write}'
    words = ["bash", "-c", joined, "bash", program, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        words, pass_fds=(down_read, up_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(down_read)
    os.close(up_write)
    try:
        tab = Tab(down_write, up_read)
        yield tab
        with contextlib.suppress(AssertionError, OSError):
            tab._session = ""
            tab.call("Browser.close")
    finally:
        os.close(down_write)
        os.close(up_read)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
        process.wait()
