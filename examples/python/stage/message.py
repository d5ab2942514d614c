"""The messages of docs/protocol.md, sections 4 to 7: reading requests, writing the headers of answers."""

import json
import time
import uuid

VERSION = 1
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD = 64 * 1024 * 1024
# The longest message of an error, in characters: escaped, it must fit into the header.
MAX_MESSAGE_CHARS = 1024
# The longest code of an application error, in bytes; its data, in bytes of JSON, and how deeply that may be nested.
MAX_CODE_BYTES = 128
MAX_DATA_BYTES = 16 * 1024
MAX_DATA_DEPTH = 32
MAX_STAGES = 64
# The metadata of a message or an answer: names and values together, in bytes.
MAX_META_BYTES = 8192
# The default and the maximum of a request's timeout, in milliseconds.
DEFAULT_TIMEOUT = 30_000
MAX_TIMEOUT = 24 * 3600 * 1000
# The fields that are passed on to the next stage.
KNOWN = ("palm", "pipeline", "stage", "route", "client", "job", "idx", "timeout_ms", "cache", "report", "avoid", "meta")


class ApplicationError(Exception):
    """An error of a function, with a code for the caller's program, and data that JSON can hold. The caller gets it as `failed`."""

    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class Answer:
    """The result of a function with metadata, a dict of strings, for the next stage or the client."""

    def __init__(self, payload, meta=None):
        self.payload, self.meta = payload, dict(meta or {})


class Failure(Exception):
    """An error as it travels: a kind for programs, a message for people; of an application error also its code and data."""

    def __init__(self, kind, message, code=None, data=None):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.code = None if code is None else str(code).encode("utf-8", "replace")[:MAX_CODE_BYTES].decode("utf-8", "ignore")
        self.data = data
        if data is not None and not is_sendable(data):
            self.data = None
            message += " (without its data, which cannot be sent)"
        # The header is UTF-8.
        message = message.encode("utf-8", "replace").decode()
        self.message = message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "…"


    def fields(self):
        """The error in the header of an answer."""
        fields = {"kind": self.kind, "message": self.message, "code": self.code, "data": self.data}
        return {name: value for name, value in fields.items() if value is not None}


def is_sendable(data):
    """Whether data is JSON that every reader can read, within the limits."""
    try:
        # Half of a surrogate pair cannot be written as UTF-8, and NaN is no JSON.
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
        return len(json.dumps(data, separators=(",", ":"))) <= MAX_DATA_BYTES and is_shallow(data, MAX_DATA_DEPTH)
    except (TypeError, ValueError, RecursionError):
        return False


def is_shallow(value, depth):
    """Whether lists and objects are nested at most so deep, and numbers fit into 64 bits."""
    if isinstance(value, dict):
        return depth > 0 and all(is_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(is_shallow(item, depth - 1) for item in value)
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 64


def bad(words):
    return Failure("bad_message", words)


def read_json(header):
    """The fields of a header, unchecked."""
    if len(header) > MAX_HEADER_BYTES:
        raise bad(f"header of {len(header)} bytes, {MAX_HEADER_BYTES} at most")
    try:
        fields = json.loads(header)
    # RecursionError: JSON that is nested too deeply.
    except (ValueError, RecursionError) as error:
        raise bad(f"not a header of this protocol: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise bad("not a header of this protocol: it is not a JSON object")
    return fields


def read_hello(fields):
    """Of a greeting: the client, whether it wants a goodbye, and whether it only identifies the server. None if it is not one."""
    if fields.get("palm") != VERSION or not isinstance(fields.get("hello"), str) or "pipeline" in fields:
        return None
    return read_uuid(fields, "hello"), fields.get("bye") is True, fields.get("identify") is True


def read_goodbye_ack(fields):
    """Whether it acknowledges a goodbye: nothing more comes over this connection."""
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


def read_meta(fields):
    meta = {} if fields.get("meta") is None else fields["meta"]
    problem = meta_problem(meta)
    if problem:
        raise bad(problem)
    return meta


def meta_problem(meta):
    """What keeps metadata from being sent, or None."""
    if not isinstance(meta, dict) or not all(is_text(text) for entry in meta.items() for text in entry):
        return "meta is not an object of strings"
    if "" in meta:
        return "meta with an empty name"
    size = sum(len(text.encode()) for entry in meta.items() for text in entry)
    return f"meta of {size} bytes, {MAX_META_BYTES} at most" if size > MAX_META_BYTES else None


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
        # The metadata of the message, and what the function sets on the result.
        self.meta, self.answer_meta = {}, {}
        # Whether another server passed it on.
        self.relayed = False

    def read(self, fields):
        """Reads the fields. What was read before a Failure is repeated in its answer."""
        self.idx = read_number(fields, "idx")
        self.job = read_uuid(fields, "job")
        # An error names the stage of the request, even if the pipeline has no such stage.
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
        self.meta = read_meta(fields)
        timeout = read_number(fields, "timeout_ms")
        timeout = min(DEFAULT_TIMEOUT if timeout is None else timeout, MAX_TIMEOUT)
        self.deadline = self.arrived + timeout / 1000
        self.check()

    def check(self):
        stages = len(self.pipeline)
        if not 1 <= stages <= MAX_STAGES:
            raise bad(f"a pipeline has 1 to {MAX_STAGES} stages, not {stages}")
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

    def set_meta(self, meta):
        """Sets the metadata of the result. Raises Failure when it cannot be sent, to the next stage or at all."""
        total = {**self.meta, **meta} if isinstance(meta, dict) and self.goes_on() else meta
        problem = meta_problem(meta) or meta_problem(total)
        if problem:
            raise Failure("too_large", f"the function answered {problem}")
        self.answer_meta = meta

    def goes_on(self):
        """Whether another stage follows this one."""
        return self.stage + 1 < len(self.pipeline)


def is_for(request, name, me):
    """Returns the function that is called. Raises Failure when the request is for another server."""
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
    """Returns the header for the next stage. Unknown fields are left out."""
    header = {**request.fields, "stage": stage, "route": list(request.route)}
    if request.answer_meta:
        header["meta"] = {**request.meta, **request.answer_meta}
    return header
