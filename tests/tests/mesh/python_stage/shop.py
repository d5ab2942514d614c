"""A stage that refuses everything, with a code and data."""

from stage import ApplicationError, Stage

stage = Stage("pyshop")


@stage.function
def take(payload):
    raise ApplicationError("no_item", "there is no " + payload.decode(), {"asked": payload.decode(), "near": ["nut", 1]})


@stage.function
def endless(payload):
    raise ApplicationError("é" * 100, "too much", {"data": [float("nan"), "x" * 20_000]})


if __name__ == "__main__":
    stage.main()
