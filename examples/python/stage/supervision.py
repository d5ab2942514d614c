"""Supervises the threads and tasks of a server: one that fails is logged and restarted."""

import asyncio
import collections
import logging
import threading
import time

log = logging.getLogger("peer")

# After this many failures within this many seconds, the server gives up.
MAX_FAILURES = 3
WINDOW = 60.0
# How long to wait before a task restarts, in seconds.
REST = 0.5


class Supervisor:
    """Restarts what ended with an exception, and logs it with its name. Calls `gave_up()` at the third failure within a minute."""

    def __init__(self, gave_up):
        self.gave_up = gave_up
        self.failures = collections.deque(maxlen=MAX_FAILURES)
        self.lock = threading.Lock()

    def thread(self, name, body):
        """Runs `body()` on a thread, until it returns."""
        threading.Thread(target=self.keep, args=(name, body), name=name, daemon=True).start()

    def keep(self, name, body):
        while True:
            try:
                return body()
            except Exception:
                if not self.may_go_on(name):
                    return None
            time.sleep(REST)

    async def keep_task(self, name, body):
        """Runs `await body()` until it returns, or the task is cancelled."""
        while True:
            try:
                return await body()
            except Exception:
                if not self.may_go_on(name):
                    return None
            await asyncio.sleep(REST)

    def may_go_on(self, name):
        """Counts the exception that is being handled, and logs it. Returns whether to restart."""
        now = time.monotonic()
        with self.lock:
            self.failures.append(now)
            gave_up = len(self.failures) == MAX_FAILURES and now - self.failures[0] < WINDOW
        if gave_up:
            log.exception("task %s failed; that is the third failure within a minute: giving up", name)
            self.gave_up()
        else:
            log.exception("task %s failed; it restarts in %s s", name, REST)
        return not gave_up
