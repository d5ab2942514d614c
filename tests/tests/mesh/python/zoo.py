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


if __name__ == "__main__":
    stage.main()
