"""The server that checks.py asks, in Python."""

import time

from stage import Stage

stage = Stage("zoo")


@stage.function
def echo(payload):
    return payload


@stage.function
def fails(payload):
    raise RuntimeError("no such luck")


@stage.function
def slow(payload):
    time.sleep(int(payload) / 1000)
    return payload


@stage.function
def hog(payload):
    """Lets no other thread of Python run for so many milliseconds: summing up a range never gives its lock away."""
    count = 10_000_000
    began = time.monotonic()
    sum(range(count))
    sum(range(int(count * int(payload) / 1000 / (time.monotonic() - began))))
    return payload


if __name__ == "__main__":
    stage.main()
