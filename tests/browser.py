"""A headless Chromium, driven over pipes, that tells all that a page asks for and complains of."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(own), fcntl.F_DUPFD, 10) for own in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):  # those that Chromium reads and writes
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found():
    """Return the path of Chromium; without one, skip the test."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("looks at a page in Chromium, which is not installed (apt install chromium)")
    return path


@contextmanager
def browser(profile):
    """Run Chromium with a profile of its own, without any network, while the block lasts."""
    asked, answered = os.pipe(), os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    ends = asked[0], answered[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, *map(str, ends), found(), *options],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        with os.fdopen(asked[1], "wb", 0) as sink, os.fdopen(answered[0], "rb", 0) as source:
            yield Browser(sink, source)
    finally:
        process.terminate()
        process.wait(timeout=30)


class Browser:
    """One tab, and what was heard of it: see the DevTools Protocol."""

    def __init__(self, sink, source):
        self._sink, self._source = sink, source
        self._rest, self._heard, self._number, self._session = b"", deque(), 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **arguments):
        """Call a method and return its result; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        self._sink.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._heard.append(answer)

    def _read(self):
        while b"\0" not in self._rest:
            part = os.read(self._source.fileno(), 1 << 16)
            assert part, "Chromium has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def open(self, path):
        """Open a file, wait until it and all that it asks for is there, and return complaints.

        These are requests beyond the file's own, errors and all that is written to the console.
        """
        address = path.resolve().as_uri()
        self._heard.clear()
        self.call("Page.navigate", url=address)
        events = []
        while not any(event.get("method") == "Page.loadEventFired" for event in events):
            events.append(self._heard.popleft() if self._heard else self._read())
        self.tell("1")  # what came before its answer is heard now
        events += self._heard
        return [told for event in events for told in _complaints(event, address)]

    def tell(self, expression):
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def look(self, width, height, *, dark=False, phone=False):
        """Lay the page out on a screen, and return a picture of all of it, as a PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])


def _complaints(event, address):
    method, given = event.get("method"), event.get("params", {})
    asked = given.get("request", {}).get("url", "")
    if method == "Network.requestWillBeSent" and not (
        asked == address or asked.startswith("data:")
    ):
        yield f"request: {asked}"
    elif method == "Log.entryAdded":
        yield f"log: {given['entry']['text']}"
    elif method == "Runtime.exceptionThrown":
        yield f"exception: {given['exceptionDetails']['text']}"
    elif method == "Runtime.consoleAPICalled":
        yield f"console: {given['args'][0].get('value')}"
