"""A stage that refuses everything, with a code and data, and one that greets."""

from stage import Answer, ApplicationError, Stage

stage = Stage("pyshop")


@stage.function
def take(payload):
    raise ApplicationError("no_item", "there is no " + payload.decode(), {"asked": payload.decode(), "near": ["nut", 1]})


@stage.function
def endless(payload):
    raise ApplicationError("é" * 100, "too much", {"data": [float("nan"), "x" * 20_000]})


@stage.function
def greet(payload, meta):
    """Greets the user in the metadata; answers as much metadata as that says."""
    meta = {"language": "en", "more": "x" * int(meta.get("more") or 0), "seen": " ".join(sorted(meta))}
    return Answer(b"Hello, " + payload, meta)


@stage.function
def keep(payload, times=2):
    return payload * times


if __name__ == "__main__":
    stage.main()
