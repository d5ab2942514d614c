#!/usr/bin/env python3
"""Calls a function of a PALM mesh, with nothing but pyzmq and docs/protocol.md.

    call.py --etcd http://127.0.0.1:2379 printf.printf Hello
    call.py --endpoint tcp://127.0.0.1:5555 printf.printf Hello

Prints the answer's bytes. Exit status: 0 done, 1 the mesh answered an error, 2 usage.
"""

import argparse
import base64
import json
import os
import random
import sys
import time
import urllib.request
import uuid

import zmq

VERSION = 1
MAX_HEADER_BYTES = 64 * 1024


class CallError(Exception):
    """An error of the protocol: a kind for programs, a message for people."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def published(etcd, prefix=""):
    """What can be reached: the instances under /pipelines/, by server name, read through etcd's JSON gateway."""
    encode = lambda text: base64.b64encode(text.encode()).decode()
    folder = f"{prefix.rstrip('/')}/pipelines/"
    # All keys that start with the folder: up to the same text with the last byte one higher, "/" becoming "0".
    body = json.dumps({"key": encode(folder), "range_end": encode(folder[:-1] + "0")}).encode()
    request = urllib.request.Request(etcd.rstrip("/") + "/v3/kv/range", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        found = json.load(response).get("kvs", [])
    servers = {}
    for kv in found:
        key, instance = base64.b64decode(kv["key"]).decode(), json.loads(base64.b64decode(kv["value"]))
        if key == f"{folder}{instance.get('server')}/{instance.get('uuid')}":
            servers.setdefault(instance["server"], []).append(instance)
    return servers


def instances(servers, target):
    """The instances that `server.function`, or `<uuid>.function`, can mean."""
    server, _, function = target.partition(".")
    every = [instance for named in servers.values() for instance in named]
    named = servers[server] if server in servers else [i for i in every if i["uuid"] == server]
    if not named:
        known = f"the published ones are {', '.join(sorted(servers))}" if servers else "no server is published"
        raise CallError("no_such_server", f"no server {server} can be reached: {known}")
    able = [instance for instance in named if function in instance["functions"]]
    if not able:
        raise CallError("no_such_function", f"{server} has no function {function}, only {', '.join(named[0]['functions'])}")
    return able


class Link:
    """One connection to one server."""

    def __init__(self, endpoint, kind=zmq.DEALER, timeout=30.0):
        self.socket = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.timeout = timeout
        self.next = 0
        self.socket.connect(endpoint)

    def send(self, header, payload=b""):
        """Sends a message of two frames."""
        encoded = json.dumps({"palm": VERSION, **header}).encode()
        if len(encoded) > MAX_HEADER_BYTES:
            # The server would not read it, and so answer without its number.
            raise CallError("bad_message", f"header of {len(encoded)} bytes, {MAX_HEADER_BYTES} at most")
        self.socket.send_multipart([encoded, payload])

    def receive(self, timeout=None):
        """The next answer: its header, and its payload."""
        timeout = self.timeout if timeout is None else timeout
        if not self.socket.poll(max(0, timeout) * 1000):
            raise CallError("timed_out", "no answer before the deadline; the function may have run")
        header, *payload = self.socket.recv_multipart()
        return json.loads(header), payload[0] if payload else b""

    def hello(self, client):
        """Greets, and gives the uuid of the server that is really there."""
        self.send({"hello": str(client)})
        return self.receive()[0]["server"]

    def request(self, target, payload=b"", **fields):
        """Sends a request without waiting for its answer; gives its number."""
        number, self.next = self.next, self.next + 1
        header = {"pipeline": [target], "idx": number, "timeout_ms": int(self.timeout * 1000), **fields}
        self.send(header, payload)
        return number

    def call(self, target, payload=b"", **fields):
        """Calls one function, and gives its result."""
        number = self.request(target, payload, **fields)
        deadline = time.monotonic() + self.timeout
        while True:
            header, result = self.receive(deadline - time.monotonic())
            # The late answer to a request that was given up is nobody's.
            if header.get("idx") == number:
                return unwrap(header, result)

    def close(self):
        self.socket.close()


def unwrap(header, result):
    """The result of an answer, unless it is an error."""
    if "error" in header:
        raise CallError(header["error"]["kind"], header["error"]["message"])
    return result


def call_anywhere(able, target, payload, kind, timeout, **fields):
    """Calls one instance; another one when it is certain that the function did not run."""
    client = uuid.uuid4()
    refused = CallError("unreachable", "no other instance can be tried")
    for instance in random.sample(able, len(able)):
        link = Link(instance["endpoint"], kind, min(timeout, 2.0))
        try:
            # A REQ takes turns with its server, and so can greet just as well.
            if link.hello(client) != instance["uuid"]:
                refused = CallError("unreachable", f"another server answers at {instance['endpoint']}")
                continue
            link.timeout = timeout
            return link.call(target, payload, route=[instance["uuid"]], client=str(client), **fields)
        except CallError as error:
            greeted = link.next > 0
            if greeted and error.kind not in ("busy", "leaving", "wrong_server"):
                raise
            refused = error
        finally:
            link.close()
    raise refused


def main():
    parser = argparse.ArgumentParser(description="call a function of a PALM mesh")
    parser.add_argument("target", help="server.function or <uuid>.function")
    parser.add_argument("payload", nargs="?", default="", help="the payload; - reads standard input")
    parser.add_argument("--etcd", default=os.environ.get("PALM_ETCD", "http://127.0.0.1:2379"), help="a URL of etcd")
    parser.add_argument("--prefix", default=os.environ.get("PALM_PREFIX", ""), help="prefix of the mesh's keys in etcd")
    parser.add_argument("--endpoint", help="call this server without looking it up in etcd: tcp://host:port")
    parser.add_argument("--req", action="store_true", help="use a REQ socket instead of a DEALER")
    parser.add_argument("--cache", help="key in the server's store, for get, set, append and delete")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for the answer")
    args = parser.parse_args()
    payload = sys.stdin.buffer.read() if args.payload == "-" else args.payload.encode()
    kind = zmq.REQ if args.req else zmq.DEALER
    fields = {"cache": args.cache} if args.cache is not None else {}
    try:
        if args.endpoint:
            answer = Link(args.endpoint, kind, args.timeout).call(args.target, payload, **fields)
        else:
            able = instances(published(args.etcd.split(",")[0], args.prefix), args.target)
            answer = call_anywhere(able, args.target, payload, kind, args.timeout, **fields)
    except (CallError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
