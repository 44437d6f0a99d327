"""A headless Chromium that is driven as a person would: clicks, drops and files by the DevTools
protocol, over a pair of pipes. What goes wrong on a page is kept."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Chromium reads commands from descriptor 3 and answers on 4.
_START = (
    "import fcntl, os, sys; "
    "ends = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]; "
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
SECONDS = 240  # that anything may take


class Browser:
    """One page of a browser; use as a context manager.

    Attributes:
        errors: uncaught exceptions, what the page logs as an error, requests that failed.
    """

    def __init__(self, profile: Path, width: int = 1200, height: int = 900) -> None:
        """`profile` is a folder for what Chromium keeps; width and height are of its window."""
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        for end in (commands, answers):
            os.set_inheritable(end, True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(commands), str(answers), CHROMIUM, *_OPTIONS,
             f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        self._loaded = False

    def __enter__(self) -> "Browser":
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        attached = self._do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self._do(f"{domain}.enable")
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, address: str) -> None:
        """Shows a page and waits until it is loaded."""
        self._loaded = False
        answer = self._do("Page.navigate", url=address)
        assert "errorText" not in answer, (address, answer)
        end = time.monotonic() + SECONDS
        while not self._loaded:
            self._next(end)

    def value(self, expression: str):
        """What an expression of JavaScript is, as JSON holds it."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self._do("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str):
        """The value of an expression once it is truthy."""
        end = time.monotonic() + SECONDS
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"{expression} is still {value!r}; {self.errors}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Presses and releases the mouse on the middle of an element."""
        x, y = self._middle(selector)
        button = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._do("Input.dispatchMouseEvent", type=kind, **button)

    def drop(self, selector: str, file: Path) -> None:
        """Drags a file over an element and lets it go."""
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._do("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, file: Path) -> None:
        """Chooses a file in a field for files."""
        root = self._do("DOM.getDocument")["root"]["nodeId"]
        node = self._do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._do("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        size = self._do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"], "height": size["height"]}
        shot = self._do("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _middle(self, selector: str) -> list[float]:
        """x and y of an element in the window, where it is scrolled to."""
        found = f"document.querySelector({json.dumps(selector)})"
        box = f"{found}.getBoundingClientRect()"
        self.value(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        return self.value(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})")

    def _do(self, method: str, **params) -> dict:
        """The result of a command."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while (answer := self._next(end)).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self, end: float) -> dict:
        """The next message of the browser; events are noted."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, f"Chromium says nothing; {self.errors}"
            part = os.read(self._read, 1 << 20)
            assert part, f"Chromium has ended with code {self._process.poll()}"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict) -> None:
        """Keeps what an event says."""
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.errors.append(params["errorText"])
