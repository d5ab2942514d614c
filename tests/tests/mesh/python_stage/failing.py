"""A server whose task of this name, `FAIL=<task>:<times>`, fails as often as that when it begins."""

import os

from stage import Stage
from stage.member import Member
from stage.relay import Relay

TASKS = {
    "lease-keeper": (Member, "keep"),
    "own-record": (Member, "watch"),
    "directory": (Relay, "follow"),
    "serving": (Stage, "hear"),
    "finish": (Stage, "result"),
}
task, times = os.environ["FAIL"].split(":")
owner, method = TASKS[task]
original, left = getattr(owner, method), [int(times)]


def fail_first(self, *args):
    if left[0] > 0:
        left[0] -= 1
        raise RuntimeError(f"FAIL names {task}")
    return original(self, *args)


setattr(owner, method, fail_first)
stage = Stage("pytext")


@stage.function
def reverse(payload):
    return payload.decode()[::-1].encode()


stage.main()
