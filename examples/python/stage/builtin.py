"""What every server answers besides its author's functions: docs/protocol.md, section 9."""

import collections
import datetime
import logging
import os
import time
import uuid

from .message import Failure

# The most lines of log that wait for `_log_query`, and the longest, in characters.
MAX_ENTRIES = 1000
MAX_ENTRY_CHARS = 1024
# The bytes that the store may hold, and the longest key.
STORE_HOLDS = 256 * 1024 * 1024
MAX_KEY_BYTES = 1024
# How many functions run at once.
THREADS = 16
# How many of the latest durations `_ping` tells the quantiles of.
SAMPLE = 1024

LEVELS = {
    "CRITICAL": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": 0,
}


class Counters:
    """What `_ping` tells. Used by the serving loop alone."""

    def __init__(self):
        self.started = time.monotonic()
        self.requests = self.errors = self.in_flight = 0
        self.durations = collections.deque(maxlen=SAMPLE)

    def began(self):
        self.requests += 1
        self.in_flight += 1
        return time.monotonic()

    def ended(self, began):
        self.in_flight -= 1
        self.durations.append(time.monotonic() - began)

    def told(self):
        durations = sorted(self.durations)
        quantile = lambda percent: int(durations[len(durations) * percent // 100] * 1e6) if durations else None
        return {
            "uptime": time.monotonic() - self.started,
            "requests": self.requests,
            "errors": self.errors,
            "in_flight": min(self.in_flight, THREADS),
            "queued": max(0, self.in_flight - THREADS),
            "p50_us": quantile(50),
            "p99_us": quantile(99),
        }


class Logbook(logging.Handler):
    """Keeps what was logged since the last `_log_query`."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.entries = collections.deque()
        self.dropped = 0

    def emit(self, record):
        when = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        text = record.getMessage()[:MAX_ENTRY_CHARS]
        place = f"{os.path.basename(record.pathname)}/{record.lineno}"
        name = "ERROR" if record.levelno >= logging.ERROR else record.levelname
        line = f"{when.strftime('%Y-%m-%dT%H:%M:%S.%f')}:{self.server}:{name}:{place}:{escaped(text)}"
        if len(self.entries) == MAX_ENTRIES:
            self.entries.popleft()
            self.dropped += 1
        self.entries.append((record.levelno, name[0], line))

    def take(self, payload):
        """Returns one letter for each line below the level that is asked for, and the whole line from that level on."""
        name = payload.decode(errors="replace").strip().upper() or "ERROR"
        if name not in LEVELS:
            raise Failure("bad_message", f"{name!r} is not a level such as WARNING")
        parts = [f"{self.dropped} dropped"] if self.dropped else []
        self.dropped = 0
        # Other threads log meanwhile.
        for _ in range(len(self.entries)):
            level, letter, line = self.entries.popleft()
            parts.append(line if level >= LEVELS[name] else letter)
        return ",".join(parts).encode()


def escaped(text):
    """Escapes a message, so that it stays one line and cannot control a terminal."""
    for character, written in (("\\", "\\\\"), (",", "\\,"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, written)
    control = lambda character: ord(character) < 32 or 127 <= ord(character) < 160
    return "".join(f"\\x{ord(c):02x}" if control(c) else c for c in text)


class Store:
    """The server's own store: bounded, and nothing is dropped to make room."""

    def __init__(self):
        self.values = {}
        self.held = 0

    def set(self, request):
        key = request.cache if request.cache is not None else str(uuid.uuid4())
        return self.put(key, request.payload)

    def append(self, request):
        key = request.cache if request.cache is not None else str(uuid.uuid4())
        return self.put(key, self.values.get(key, b"") + request.payload)

    def put(self, key, value):
        length = len(key.encode())
        if not 1 <= length <= MAX_KEY_BYTES:
            raise Failure("bad_message", f"a key has 1 to {MAX_KEY_BYTES} bytes, not {length}")
        before = length + len(self.values[key]) if key in self.values else 0
        if self.held - before + length + len(value) > STORE_HOLDS:
            raise Failure("full", f"the store holds {self.held} bytes of {STORE_HOLDS}")
        self.held += length + len(value) - before
        self.values[key] = value
        return key.encode()

    def get(self, request):
        return self.values[self.known(request)]

    def delete(self, request):
        key = self.known(request)
        self.held -= len(key.encode()) + len(self.values.pop(key))
        return key.encode()

    def known(self, request):
        try:
            key = request.cache if request.cache is not None else request.payload.decode()
        except UnicodeDecodeError:
            raise Failure("bad_message", "a key must be UTF-8") from None
        if key not in self.values:
            raise Failure("no_such_key", f'nothing is stored under "{key}"')
        return key
