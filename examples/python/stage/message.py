"""The messages of docs/protocol.md, sections 4 to 7: reading requests, writing the headers of answers."""

import json
import time
import uuid

VERSION = 1
LONGEST_HEADER = 64 * 1024
LONGEST_PAYLOAD = 64 * 1024 * 1024
# The words of an error, in characters: the header must hold them, each escaped.
LONGEST_WORDS = 1024
MOST_STAGES = 64
# What a request may wait when it does not say, and at most, in milliseconds.
USUAL_TIMEOUT = 30_000
LONGEST_TIMEOUT = 24 * 3600 * 1000
# The fields that go on to the next stage.
KNOWN = ("palm", "pipeline", "stage", "route", "client", "job", "idx", "timeout_ms", "cache", "report", "avoid")


class Failure(Exception):
    """An error as it travels: a kind for programs, a message for people."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        # What cannot be written as UTF-8 is no message.
        message = message.encode("utf-8", "replace").decode()
        self.message = message if len(message) <= LONGEST_WORDS else message[:LONGEST_WORDS] + "…"


def bad(words):
    return Failure("bad_message", words)


def read_json(header):
    """The fields of a header, unchecked."""
    if len(header) > LONGEST_HEADER:
        raise bad(f"header of {len(header)} bytes, {LONGEST_HEADER} at most")
    try:
        fields = json.loads(header)
    # The second comes of JSON that is nested too deeply.
    except (ValueError, RecursionError) as error:
        raise bad(f"not a header of this protocol: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise bad("not a header of this protocol: it is not a JSON object")
    return fields


def read_hello(fields):
    """Of a greeting, who says it, whether it wants to hear a goodbye, and whether it only asks who is there; None if it is none."""
    if fields.get("palm") != VERSION or not isinstance(fields.get("hello"), str) or "pipeline" in fields:
        return None
    return read_uuid(fields, "hello"), fields.get("bye") is True, fields.get("identify") is True


def read_parting(fields):
    """Whether it is the last word over its connection, which answers a goodbye."""
    return fields.get("palm") == VERSION and isinstance(fields.get("bye"), str) and "pipeline" not in fields


def read_uuid(fields, name):
    value = fields.get(name)
    if value is None:
        return None
    try:
        return str(uuid.UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise bad(f"{name} is not a uuid") from None


def read_number(fields, name):
    value = fields.get(name)
    # A bool is an int to Python, but not to JSON.
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 64):
        raise bad(f"{name} is not a whole number of 64 bits")
    return value


def read_texts(fields, name):
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise bad(f"{name} is not a list of strings")
    return value


def is_text(value):
    """Not every text of JSON can be written as UTF-8: half of a surrogate pair cannot."""
    return isinstance(value, str) and value.encode("utf-8", "replace") == value.encode("utf-8", "surrogatepass")


class Request:
    """A message to this server, and what its answer must repeat. `to`: the frames that come before the answer's own."""

    def __init__(self, to, frames):
        self.to = to
        self.arrived = time.monotonic()
        self.header = frames[0] if frames else b""
        self.payload = frames[1] if len(frames) > 1 else b""
        self.too_many = len(frames) > 2
        self.job = self.idx = self.client = None
        self.stage = 0
        # Whether another server passed it on.
        self.relayed = False

    def read(self, fields):
        """Takes the fields in. What could be read before a Failure comes back in its answer."""
        self.idx = read_number(fields, "idx")
        self.job = read_uuid(fields, "job")
        # An error names the stage that was meant, be there such a stage or not.
        self.stage = read_number(fields, "stage") or 0
        self.fields = {name: fields[name] for name in KNOWN if fields.get(name) is not None}
        if read_number(fields, "palm") != VERSION:
            raise bad(f"protocol {fields.get('palm')} is not supported, only {VERSION}")
        self.pipeline, self.route = read_texts(fields, "pipeline"), read_texts(fields, "route")
        self.client = read_uuid(fields, "client")
        self.cache = fields.get("cache")
        for instance in read_texts(fields, "avoid"):
            read_uuid({"avoid": instance}, "avoid")
        if not isinstance(fields.get("report", False), bool):
            raise bad("report is not true or false")
        if self.cache is not None and not is_text(self.cache):
            raise bad("cache is not a string")
        timeout = read_number(fields, "timeout_ms")
        timeout = min(USUAL_TIMEOUT if timeout is None else timeout, LONGEST_TIMEOUT)
        self.deadline = self.arrived + timeout / 1000
        self.check()

    def check(self):
        stages = len(self.pipeline)
        if not 1 <= stages <= MOST_STAGES:
            raise bad(f"a pipeline has 1 to {MOST_STAGES} stages, not {stages}")
        if self.stage >= stages:
            raise bad(f"stage {self.stage} of a pipeline of {stages}")
        self.relayed = self.stage > 0 and self.client is not None
        if self.route and len(self.route) != stages:
            raise bad(f"a route of {len(self.route)} for a pipeline of {stages}")
        self.route = [read_uuid({"route": instance}, "route") for instance in self.route]
        if stages > 1 and not (self.route and self.client):
            raise bad("a pipeline of several stages needs a route, and a client, which has greeted its servers")
        if self.too_many:
            raise bad("a message has two frames, a header and a payload")

    def time_left(self):
        return max(0.0, self.deadline - time.monotonic())

    def goes_on(self):
        """Whether another stage follows this one."""
        return self.stage + 1 < len(self.pipeline)


def is_for(request, name, me):
    """The function that is meant here. Raises Failure when another server is."""
    target = request.pipeline[request.stage]
    server, dot, function = target.partition(".")
    if not (server and dot and function) or "." in function:
        raise bad(f"{target!r} is not of the form server.function")
    routed = not request.route or request.route[request.stage] == me
    if not routed or (server != name and server.lower() != me):
        raise Failure("wrong_server", f"this is {name} {me}, not {target}")
    return function


def answer_header(request, me):
    """The header of an answer to it, without an error."""
    header = {"palm": VERSION}
    if request.job is not None:
        header["job"] = request.job
    if request.idx is not None:
        header["idx"] = request.idx
    return {**header, "stage": request.stage, "server": me}


def forward_header(request, stage):
    """The header with which it goes on to a stage. Fields that nobody here knows do not go on."""
    return {**request.fields, "stage": stage, "route": list(request.route)}
