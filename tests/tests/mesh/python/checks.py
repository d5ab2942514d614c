"""What libzmq, the ZeroMQ that everybody else uses, must be able to do with a server of the test's.

    checks.py CHECK ENDPOINT UUID

The server is called `zoo`. Its functions: `echo`; `fails`, with the words "no such luck"; `slow`, which takes as many
milliseconds as its payload says, and answers with it.
"""

import json
import sys
import time
import uuid

import zmq

from call import CallError, Link, unwrap


def expect(kind, function, *args, **fields):
    try:
        answer = function(*args, **fields)
    except CallError as error:
        assert error.kind == kind, error
        return str(error)
    raise AssertionError(f"no {kind} but {answer!r}")


def answers_and_errors(endpoint, server, kind):
    link = Link(endpoint, kind, 20)
    assert link.call("zoo.echo", b"me") == b"me"
    assert link.call("zoo.echo") == b""
    assert link.call(f"{server}.echo", b"you", route=[server], client=str(uuid.uuid4())) == b"you"
    assert "no such luck" in expect("failed", link.call, "zoo.fails")
    assert "echo" in expect("no_such_function", link.call, "zoo.roar")
    expect("wrong_server", link.call, "park.echo")
    expect("wrong_server", link.call, "zoo.echo", route=[str(uuid.uuid4())])
    expect("bad_message", link.call, "zoo.echo", palm=2)
    expect("bad_message", link.call, "zoo.echo", stage="one")
    expect("bad_message", link.call, "zoo.echo", cache="x" * 70_000)
    expect("timed_out", link.call, "zoo.slow", b"2000", timeout_ms=50)
    expect("no_such_key", link.call, "zoo.get", cache="k")
    assert link.call("zoo.set", b"v", cache="k") == b"k"
    assert link.call("zoo.get", cache="k") == b"v"
    assert json.loads(link.call("zoo._ping"))["uuid"] == server
    assert link.call("zoo.echo", b"well") == b"well"


def dealer(endpoint, server):
    answers_and_errors(endpoint, server, zmq.DEALER)


def req(endpoint, server):
    answers_and_errors(endpoint, server, zmq.REQ)


def simplest(endpoint, server):
    """One send_multipart, as the protocol promises; and the frames as they are."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.connect(endpoint)
    socket.send_multipart([b'{"palm":1,"pipeline":["zoo.echo"]}', b"Hello"])
    header = f'{{"palm":1,"stage":0,"server":"{server}"}}'.encode()
    assert socket.recv_multipart() == [header, b"Hello"]
    socket.send_multipart([b'{"palm":1,"pipeline":["zoo.echo"]}'])
    assert socket.recv_multipart() == [header, b""]
    socket.send_multipart([b"", b'{"palm":1,"pipeline":["zoo.echo"]}', b"Hello"])
    assert socket.recv_multipart() == [b"", header, b"Hello"]


def nonsense(endpoint, server):
    """Each is answered with an error, and the next good call is answered well."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.connect(endpoint)
    good = b'{"palm":1,"pipeline":["zoo.echo"]}'
    two = b'{"palm":1,"pipeline":["zoo.echo","zoo.echo"]%s}'
    for frames in (
        [b""],
        [b"hello"],
        [b"[" * 60_000],
        [b'{"a":' * 10_000],
        [b'["palm"]'],
        [b'{"palm":1}'],
        [b'{"palm":1,"pipeline":["\xff\xfe"]}'],
        [b'{"palm":1,"pipeline":["\\ud800.echo"]}'],
        [b'{"palm":1,"pipeline":[]}'],
        [b'{"palm":1,"pipeline":"zoo.echo"}'],
        [b'{"palm":1,"pipeline":["zoo"]}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"idx":1e999}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"idx":true}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"idx":18446744073709551616}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"idx":' + b"9" * 60_000 + b"}"],
        [b'{"palm":1,"pipeline":["zoo.echo"],"route":["x"]}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"stage":1}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"cache":7}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"meta":["a"]}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"meta":{"a":1}}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"meta":{"":"a"}}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"meta":{"a":"\\ud800"}}'],
        [b'{"palm":1,"pipeline":["zoo.echo"],"meta":{"a":"' + b"x" * 8192 + b'"}}'],
        [two % b""],
        [two % b',"client":"0b7c4f5e-7f64-4d0c-9c3b-5d6f1f0e8a11"'],
        [b'{"palm":1,"hello":"me"}'],
        [b'{"palm":1,"hello":null}'],
        [b'{"palm":1,"pipeline":["zoo._log_query"]}', b"\xff"],
        [b'{"palm":1,"pipeline":["zoo.get"]}', b"\xff"],
        [b'{"palm":1,"pipeline":["zoo.set"],"cache":"\\ud800"}', b"v"],
        [good, b"a", b"b"],
    ):
        socket.send_multipart(frames)
        answer = json.loads(socket.recv_multipart()[0])
        assert "error" in answer, (frames[0][:80], answer)
        socket.send_multipart([good, b"well"])
        assert socket.recv_multipart()[1] == b"well"


def hello(endpoint, server):
    for kind in (zmq.DEALER, zmq.REQ):
        link = Link(endpoint, kind, 20)
        assert link.hello(uuid.uuid4()) == server
        assert link.call("zoo.echo", b"me") == b"me"
        assert link.hello(uuid.uuid4()) == server, "again, as another client"
    # Many at once only ask which server this is, as each link does first, before any of them greets.
    links = [Link(endpoint, zmq.DEALER, 20) for _ in range(8)]
    for link in links:
        link.send({"hello": str(uuid.uuid4()), "identify": True})
    for link in links:
        answer, _ = link.receive()
        assert (answer.get("server"), answer.get("error")) == (server, None), answer
    for link in links:
        assert link.hello(uuid.uuid4()) == server, "greeted beside others that only identified"


def big(endpoint, server):
    limit = 64 * 1024 * 1024
    payload = bytes(range(256)) * (limit // 256)
    for kind in (zmq.DEALER, zmq.REQ):
        link = Link(endpoint, kind, 60)
        assert link.call("zoo.echo", payload) == payload
        expect("too_large", link.call, "zoo.echo", payload + b"!")
        assert link.call("zoo.echo", b"well") == b"well"


def many(endpoint, server):
    """Answers come as they are ready, each with its number."""
    link = Link(endpoint, zmq.DEALER, 60)
    slow = link.request("zoo.slow", b"3000")
    sent = {link.request("zoo.echo", str(n).encode()): str(n).encode() for n in range(5000)}
    got = {}
    while len(got) < len(sent) + 1:
        header, result = link.receive()
        assert header["idx"] not in got
        got[header["idx"]] = unwrap(header, result)
    # A busy machine may take longer over all of them than the slow one sleeps, but not over the first ones.
    assert list(got).index(slow) > 100, "the slow one held others up"
    assert got.pop(slow) == b"3000" and got == sent


def returns(endpoint, server):
    """libzmq reconnects by itself: the test brings another server to the port once this has said `ready`."""
    links = [Link(endpoint, kind, 20) for kind in (zmq.DEALER, zmq.REQ)]
    for link in links:
        assert link.hello(uuid.uuid4()) == server
    print("ready", flush=True)
    deadline = time.monotonic() + 60
    link = links[0]
    link.timeout = 0.5
    while True:
        try:
            now = link.hello(uuid.uuid4())
            if now != server:
                break
        except CallError:
            assert time.monotonic() < deadline, "nobody came back"
    link.timeout = 20
    assert link.call(f"{now}.echo", b"back") == b"back"
    # A REQ that had no request under way goes on as well.
    assert links[1].call(f"{now}.echo", b"back") == b"back"


if __name__ == "__main__":
    check, *args = sys.argv[1:]
    globals()[check](*args)
