"""A PALM server in Python, on pyzmq and docs/protocol.md: what it answers, and how it passes messages on.

    from stage import Stage

    stage = Stage("text")

    @stage.function
    def shout(payload):
        return payload.upper()

    stage.main()

Functions take bytes and return bytes. One with two parameters, `greet(payload, meta)`, gets the metadata of the message as well, a dict of strings; one that
returns an `Answer` sets metadata on its result. They run on threads, so they may block, and several run at once. An exception is
answered as `failed`; an `ApplicationError` has a code and data for the caller's program. Unlike a server in Rust, it has no ingress before this port, and no TLS:
keep it to networks that you trust.
"""

import argparse
import asyncio
import concurrent.futures
import errno
import inspect
import json
import logging
import os
import signal
import time
import uuid

import zmq
import zmq.asyncio

from .builtin import THREADS, Counters, Logbook, Store
from .clients import Clients
from .etcd import Etcd
from .member import Member
from .message import MAX_PAYLOAD, VERSION, Answer, ApplicationError, Failure, Request
from .message import answer_header, forward_header, is_for, read_hello, read_json, read_goodbye_ack
from .path import keep_alive
from .relay import Relay
from .supervision import Supervisor

log = logging.getLogger("peer")

# How many requests may run or wait, and the bytes of their payloads; beyond, the answer is `busy`.
MAX_IN_FLIGHT = 5120
MAX_HELD = 256 * 1024 * 1024
# How long an answer waits for the greeting of a client that has not greeted yet, in seconds.
GREETS_WITHIN = 10.0
# How many answers may wait for one client that does not read.
MAX_UNREAD = 50_000
# How long a leaving server may finish what it has, in seconds.
DRAIN = 10.0
# How long a client that has just found this server may take to open a connection, in seconds.
LINGER = 0.3
# The exit status that tells systemd not to start the server again.
EVICTED = 77


class Stage:
    """A server of a mesh: one ROUTER, its functions, and its place in etcd."""

    def __init__(self, name):
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.functions = {}
        self.store = Store()
        self.logbook = Logbook(self.uuid)
        self.counters = Counters()
        self.built_in = {
            "_ping": lambda request: json.dumps({"uuid": self.uuid, "server": name, **self.counters.told()}).encode(),
            "_log_query": lambda request: self.logbook.take(request.payload),
            "get": self.store.get,
            "set": self.store.set,
            "append": self.store.append,
            "delete": self.store.delete,
        }
        self.context = zmq.asyncio.Context()
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=THREADS)
        self.clients = Clients()
        # The connections that have not acknowledged the goodbye yet, and may still send something.
        self.awaiting_ack = set()
        self.tasks = set()
        self.held = 0
        self.leaving = False

    def function(self, function):
        """Adds a function of bytes, or of bytes and metadata; to be used as a decorator."""
        takes_meta = required_parameters(function) > 1
        call = lambda request: function(request.payload, dict(request.meta)) if takes_meta else function(request.payload)
        self.functions[function.__name__] = call
        return function

    # Receiving.

    async def hear(self):
        """Receives one message after the other. Nothing here waits for a function, so that probes are answered."""
        while True:
            connection, *frames = await self.router.recv_multipart()
            # A REQ socket puts an empty frame first, and wants it back.
            delimiter = [b""] if len(frames) > 1 and not frames[0] else []
            self.handle_message([connection, *delimiter], frames[len(delimiter):])

    def handle_message(self, to, frames):
        request = Request(to, frames)
        try:
            fields = read_json(request.header)
            hello = read_hello(fields)
            if hello:
                self.greet(to, *hello)
            elif read_goodbye_ack(fields):
                self.awaiting_ack.discard(to[0])
            else:
                request.read(fields)
                self.start(request, is_for(request, self.name, self.uuid))
        except Failure as failure:
            self.answer(request, failure)
        except Exception as error:
            # A bug in here must not end the loop.
            log.exception("a message could not be read")
            self.answer(request, Failure("bad_message", type(error).__name__))

    def greet(self, to, client, bye, identify):
        # A client that only identifies the server may close the connection after the answer: it may have looked for another server.
        waiting = self.clients.greet(None if identify else client, to[0], bye)
        self.send(to, {"palm": VERSION, "server": self.uuid}, b"")
        for request, result in waiting:
            self.answer(request, result)

    def start(self, request, function):
        """Starts a function, or answers at once. Raises Failure when no function ran."""
        if len(request.payload) > MAX_PAYLOAD:
            raise Failure("too_large", f"a payload of {len(request.payload)} bytes, {MAX_PAYLOAD} at most")
        if self.leaving and request.stage > 0:
            # The stages before it have run, and would run again if it was refused.
            self.spawn(request, self.pass_on(request, request.payload, request.stage))
        elif function in self.functions:
            if self.leaving:
                raise Failure("leaving", "this server is leaving the mesh")
            if len(self.tasks) >= MAX_IN_FLIGHT or self.held + len(request.payload) > MAX_HELD:
                raise Failure("busy", f"{len(self.tasks)} requests run or wait, of {self.held} bytes")
            self.spawn(request, self.run(request, self.functions[function]))
        elif function == "_probe":
            self.spawn(request, self.probe(request))
        elif function in self.built_in:
            result = self.built_in[function](request)
            if request.goes_on():
                self.spawn(request, self.pass_on(request, result, request.stage + 1))
            else:
                self.answer(request, result)
        else:
            known = ", ".join([*self.functions, *self.built_in])
            raise Failure("no_such_function", f"{self.name} has no function {function}, only {known}")

    def spawn(self, request, work):
        task = asyncio.get_running_loop().create_task(self.finish(request, work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def finish(self, request, work):
        """Awaits the work on a request. Answers it even if a bug in here ends the work."""
        try:
            await work
        except Exception as error:
            log.exception("a request was not finished")
            self.answer(request, Failure("failed", type(error).__name__))

    # Running.

    async def run(self, request, function):
        """Runs a function; its result goes to the next stage, or to the client."""
        try:
            result = await self.result(request, function)
        except Failure as failure:
            self.answer(request, failure)
            return
        if request.goes_on():
            await self.pass_on(request, result, request.stage + 1)
        else:
            self.answer(request, result)

    async def probe(self, request):
        """Answers whether another server can be reached: the leader asks before it removes one that it cannot reach."""
        try:
            found = await asyncio.wait_for(self.relay.probe(request.payload.decode()), request.time_left())
            self.answer(request, json.dumps(found, separators=(",", ":")).encode())
        except Exception as error:
            self.answer(request, Failure("failed", f"{type(error).__name__}: {error}"))

    async def result(self, request, function):
        began = self.counters.began()
        self.held += len(request.payload)
        try:
            # A function that has begun cannot be stopped; one that still waits for a thread is cancelled.
            running = asyncio.wrap_future(self.pool.submit(function, request))
            result = await asyncio.wait_for(running, request.time_left())
            answer = result if isinstance(result, Answer) else Answer(result)
            result = bytes(answer.payload)
        except asyncio.TimeoutError:
            raise Failure("timed_out", "the function did not end before the deadline") from None
        except ApplicationError as error:
            raise Failure("failed", error.message, error.code, error.data) from error
        except Exception as error:
            raise Failure("failed", f"{type(error).__name__}: {error}") from error
        finally:
            self.counters.ended(began)
            self.held -= len(request.payload)
        if len(result) > MAX_PAYLOAD:
            raise Failure("too_large", f"the function answered {len(result)} bytes, {MAX_PAYLOAD} at most")
        request.set_meta(answer.meta)
        return result

    async def pass_on(self, request, payload, stage):
        """Forwards a message to its stage, on another server. Answers only if that fails."""
        avoid = {self.uuid} if self.leaving else set()
        try:
            await self.relay.pass_on(forward_header(request, stage), payload, request.deadline, avoid)
        except Failure as failure:
            self.answer(request, failure)

    # Sending.

    def answer(self, request, result):
        """Answers with a result, or with a Failure."""
        header, payload = answer_header(request, self.uuid), result
        if isinstance(result, Failure):
            self.counters.errors += 1
            header["error"] = result.fields()
            payload = b""
        elif request.answer_meta:
            header["meta"] = request.answer_meta
        if not request.relayed:
            self.send(request.to, header, payload)
            return
        # Another server passed it on: the answer goes to the client itself, over its most recent connection that is open.
        while connection := self.clients.latest(request.client):
            error = self.send([connection], header, payload)
            if error is None or error.errno != errno.EHOSTUNREACH:
                return
            self.clients.remove(connection)
        self.await_greeting(request, result, len(payload))

    def await_greeting(self, request, result, size):
        """Keeps an answer until its client greets: a client that has just found this server may not have greeted yet."""
        # Only the answer is kept, not what it answers.
        request.payload = b""
        number = self.clients.wait(request.client, (request, result), size)
        asyncio.get_running_loop().call_later(GREETS_WITHIN, self.clients.release, number)

    def send(self, to, header, payload):
        """Sends frames over a connection. Returns the error when it is gone or its queue is full."""
        frames = [*to, json.dumps(header, separators=(",", ":")).encode(), payload]
        # Never waits: one client that does not read must not delay the others.
        error = self.router.send_multipart(frames, zmq.DONTWAIT).exception()
        if error:
            log.debug("an answer was dropped because its connection is gone or full: %s", error)
        return error

    # Life cycle.

    async def live(self, options):
        """Joins, serves until a signal, and shuts down gracefully. Returns the exit status."""
        loop = asyncio.get_running_loop()
        stop = loop.create_future()
        end = lambda why: stop.done() or stop.set_result(why)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # It was started with nohup.
            # Not loop.add_signal_handler: that loses a signal while the threads have much to tell the loop.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end, 0))
        port = self.listen(options)
        user = options.user.split(":", 1) if options.user else None
        etcd = Etcd(options.etcd.split(","), user, options.cacert, options.cert, options.key)
        supervisor = Supervisor(lambda: loop.call_soon_threadsafe(end, 1))
        self.relay = Relay(self.context, etcd, options.prefix, self.uuid, supervisor)
        hearing = loop.create_task(supervisor.keep_task("serving", self.hear))
        awake = lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
        evicted = lambda: loop.call_soon_threadsafe(end, EVICTED)
        member = Member(etcd, options.prefix, self.record(options.ip, port), options.ttl, awake, evicted, supervisor)
        await asyncio.to_thread(member.join)
        log.info("%s joined as %s at tcp://%s:%d", self.name, self.uuid, options.ip, port)
        status = await stop
        await self.leave(member, evicted=status == EVICTED)
        hearing.cancel()
        return status

    def listen(self, options):
        self.router = self.context.socket(zmq.ROUTER)
        # Reports an error when a client is gone, instead of dropping its answers silently.
        self.router.router_mandatory = True
        self.router.maxmsgsize = 2 * MAX_PAYLOAD
        self.router.sndhwm = MAX_UNREAD
        self.router.linger = 2000
        keep_alive(self.router)
        self.router.ipv6 = ":" in options.ip
        host = f"[{options.ip}]" if ":" in options.ip else options.ip
        self.router.bind(f"tcp://{host}:{options.port or '*'}")
        return int(self.router.last_endpoint.decode().rsplit(":", 1)[1])

    def record(self, host, port):
        """Returns the record of this server, with the fields in the order of pylm (docs/pylm-compatibility.md)."""
        return {
            "host": host,
            "pid": os.getpid(),
            "when": None,
            "leader": None,
            "server": self.name,
            "ports": [port],
            "kind": "registered",
            "functions": [*self.functions, *self.built_in],
            "uuid": self.uuid,
            "configured": False,
        }

    async def leave(self, member, evicted):
        """Leaves the mesh, so that no new client comes; then finishes the requests that it has, and says goodbye."""
        log.info("leaving the mesh")
        if not evicted:
            await self.try_to(member.leave)
        self.leaving = True
        end = time.monotonic() + DRAIN
        await asyncio.sleep(LINGER)
        await self.drain(end)
        goodbye = {"palm": VERSION, "server": self.uuid, "bye": True}
        told = self.clients.want_goodbye()
        self.awaiting_ack = {connection for connection in told if self.send([connection], goodbye, b"") is None}
        # What was on its way then is passed on; the acknowledgements say when no more comes.
        await self.drain(end)
        if self.tasks or self.awaiting_ack:
            log.warning(
                "%d requests were not finished, and %d clients did not acknowledge the goodbye",
                len(self.tasks),
                len(self.awaiting_ack),
            )
        await self.try_to(member.finish)
        self.pool.shutdown(wait=False, cancel_futures=True)
        log.info("left the mesh")

    async def drain(self, end):
        """Waits until all requests are answered or passed on, and all goodbyes are acknowledged, at most until `end`."""
        while (self.tasks or self.awaiting_ack) and time.monotonic() < end:
            await asyncio.sleep(0.01)

    async def try_to(self, ask_etcd):
        try:
            await asyncio.to_thread(ask_etcd)
        except Exception as error:
            log.warning("leaving without deleting the record, the lease will expire: %s", error)

    def main(self):
        """Runs the server as a program, `run` and its flags, to its end."""
        options = flags(self.name)
        level = logging.DEBUG if options.debug else logging.INFO
        logging.basicConfig(level=level, format="%(levelname)s:%(name)s:%(message)s")
        logging.getLogger().addHandler(self.logbook)
        status = asyncio.run(self.live(options))
        # Functions that cannot be stopped must not keep the process.
        self.context.destroy(linger=2000)
        logging.shutdown()
        os._exit(status)


def required_parameters(function):
    """How many parameters a function needs; 1 where that is unknown, as of some that are written in C."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)


def flags(name):
    env = lambda name, default=None: os.environ.get(f"PALM_{name}") or default
    parser = argparse.ArgumentParser(description=f"the server {name} of a PALM mesh")
    run = parser.add_subparsers(required=True, metavar="run").add_parser("run", help="join the mesh and serve")
    run.add_argument("--etcd", default=env("ETCD", "http://127.0.0.1:2379"), help="etcd's URLs, separated by commas")
    run.add_argument("--user", default=env("USER"), help="name:password for etcd; better in PALM_USER")
    run.add_argument("--cacert", default=env("CACERT"), help="PEM file of etcd's authority")
    run.add_argument("--cert", default=env("CERT"), help="PEM file of the certificate to present to etcd")
    run.add_argument("--key", default=env("KEY"), help="PEM file of its key")
    run.add_argument("--prefix", default=env("PREFIX", ""), help="prefix of the mesh's keys in etcd")
    run.add_argument("--ip", default=env("IP", "127.0.0.1"), help="the address to listen on, which others connect to")
    run.add_argument("--port", type=int, default=int(env("PORT", 0)), help="the port to listen on; 0: any free one")
    run.add_argument("--ttl", type=int, default=int(env("TTL", 10)), help="seconds that the lease lasts without a renewal")
    run.add_argument("--debug", action="store_true", help="log at level DEBUG")
    return parser.parse_args()
