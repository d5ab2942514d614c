"""Passes messages on to the next stage of their pipeline, over connections to other servers."""

import asyncio
import json
import logging
import random
import time
import uuid

import zmq

from .member import read
from .message import VERSION, Failure
from .path import Path

log = logging.getLogger("relay")

# How many instances are tried before the message fails.
TRIES = 3
# How long a connection may take to open, greeting included, in seconds.
OPEN_WITHIN = 2.0
# How often a connection is checked, and how long it may acknowledge nothing, in seconds.
LOOK, UNACKNOWLEDGED = 0.25, 1.0
# How long a connection to a server that is no longer published is kept, if that server does not end it, in seconds.
KEPT_FOR = 30.0
# How many instances of a name a client keeps connections to, at most.
SUBSET = 32


class Relay:
    """A server's client side: what is published, and connections to other servers."""

    def __init__(self, context, etcd, prefix, me, supervisor):
        self.context, self.etcd, self.me = context, etcd, me
        self.folder = f"{prefix.rstrip('/')}/pipelines/"
        self.records = f"{prefix.rstrip('/')}/servers/"
        self.published = {}
        self.links = {}
        supervisor.thread("directory", self.follow)

    def follow(self):
        for state in self.etcd.follow(self.folder, folder=True):
            published = {}
            for key, kv in state.items():
                instance = read(kv)
                if key == f"{self.folder}{instance.get('server')}/{instance.get('uuid')}":
                    published.setdefault(instance["server"], []).append(instance)
            # Replaced as a whole, because another thread reads it.
            self.published = published

    async def pass_on(self, header, payload, deadline, avoid):
        """Sends a message to its stage: to the instance that the client chose, or to another one. `avoid`: uuids."""
        stage = header["stage"]
        target = header["pipeline"][stage]
        last = f"no instance for {target}"
        # The client cannot reach these instances, so they could not answer it.
        avoid = avoid | set(header.get("avoid", []))
        for _ in range(TRIES):
            instance = self.choose(target, header["route"][stage], header["client"], avoid)
            if instance is None:
                break
            header["route"][stage] = instance["uuid"]
            try:
                link = await self.link(instance)
                left = max(1, int((deadline - time.monotonic()) * 1000))
                link.send({**header, "timeout_ms": left}, payload)
                return
            except (zmq.ZMQError, asyncio.TimeoutError, OSError, ValueError) as error:
                last = f"{instance['endpoint']}: {error or type(error).__name__}"
                avoid = avoid | {instance["uuid"]}
        raise Failure("unreachable", last)

    def choose(self, target, meant, client, avoid):
        """Returns the instance in the route, if it is published; else another one of the name. None when there is none."""
        server, _, function = target.partition(".")
        pinned = server not in self.published
        every = [instance for instances in list(self.published.values()) for instance in instances]
        named = [i for i in every if i["uuid"] == server] if pinned else self.published.get(server, [])
        able = [instance for instance in named if function in instance["functions"]]
        for instance in able:
            if instance["uuid"] == meant and meant not in avoid:
                return instance
        # Besides those of its route, the client has connections to the instances that its uuid selects; others could not answer it.
        able.sort(key=lambda instance: rendezvous(client, instance["uuid"]), reverse=True)
        open_to = [instance for instance in able[:SUBSET] if instance["uuid"] not in avoid]
        return random.choice(open_to) if open_to and not pinned else None

    async def probe(self, target):
        """Whether a server proves to be where its record says, over a new connection."""
        kv = await asyncio.to_thread(self.etcd.get, self.records + target)
        record = read(kv) if kv else {}
        if record.get("uuid") != target:
            raise ValueError(f"no server {target} is registered")
        host = f"[{record['host']}]" if ":" in record["host"] else record["host"]
        instance = {"uuid": target, "endpoint": f"tcp://{host}:{record['ports'][0]}"}
        try:
            (await Link.open(self.context, instance, self.me)).close()
            return {"reached": True}
        except (zmq.ZMQError, asyncio.TimeoutError, OSError, ValueError) as error:
            return {"reached": False, "reason": str(error) or "no answer"}

    async def link(self, instance):
        """The open connection to an instance; of several tasks that want it, one opens it."""
        key = (instance["uuid"], instance["endpoint"])
        opening = self.links.get(key)
        if opening is None or (opening.done() and (opening.exception() or opening.result().closed)):
            opening = asyncio.ensure_future(Link.open(self.context, instance, self.me))
            self.links[key] = opening
            self.drop_unpublished()
        return await asyncio.shield(opening)

    def drop_unpublished(self):
        """Stops using connections to servers that are no longer published. A server that leaves still reads what was sent to it, and
        ends the connection with a goodbye: closed earlier, it would lose what ZeroMQ has not sent yet."""
        known = {i["uuid"] for instances in list(self.published.values()) for i in instances}
        for key, opening in list(self.links.items()):
            if key[0] not in known and opening.done():
                del self.links[key]
                if not opening.exception():
                    asyncio.get_running_loop().call_later(KEPT_FOR, opening.result().close)


class Link:
    """One connection to one server, whose uuid was verified. It is not opened again when it has ended."""

    @classmethod
    async def open(cls, context, instance, me):
        link = cls()
        link.me = me
        link.closed = False
        link.socket = context.socket(zmq.DEALER)
        link.socket.linger = 0
        # Nothing is queued while it is not connected, and it does not reconnect: another server could answer there.
        link.socket.immediate = True
        link.socket.reconnect_ivl = -1
        link.socket.ipv6 = "[" in instance["endpoint"]
        link.path = Path(link.socket)
        try:
            link.socket.connect(instance["endpoint"])
            await asyncio.wait_for(link.greet({"bye": True, "identify": True}), OPEN_WITHIN)
            frames = await asyncio.wait_for(link.socket.recv_multipart(), OPEN_WITHIN)
            if json.loads(frames[0]).get("server") != instance["uuid"]:
                raise ValueError(f"another server than {instance['uuid']} answers there")
            await asyncio.wait_for(link.path.found(), OPEN_WITHIN)
            await asyncio.wait_for(link.greet({"bye": True}), OPEN_WITHIN)
        except BaseException:
            link.close()
            raise
        link.listening = asyncio.ensure_future(link.attend(link.listen()))
        link.watching = asyncio.ensure_future(link.attend(link.watch(instance)))
        return link

    async def attend(self, work):
        """Runs a task of the connection, which is closed when the task fails: one that is not read or watched must not stay in use."""
        try:
            await work
        except Exception:
            if not self.closed:
                log.exception("a connection to another server failed; the next message opens a new one")
                self.close()

    def greet(self, fields):
        hello = json.dumps({"palm": VERSION, "hello": self.me, **fields}).encode()
        return self.socket.send_multipart([hello, b""])

    def send(self, header, payload):
        """Sends a message. Raises zmq.Again when the connection is gone or its queue is full."""
        frames = [json.dumps(header, separators=(",", ":")).encode(), payload]
        self.socket.send_multipart(frames, zmq.DONTWAIT).result()

    async def listen(self):
        """Waits for a goodbye. A stage gets no answers, because results go to the client; everything else is dropped."""
        while not self.closed:
            header, *_ = await self.socket.recv_multipart()
            try:
                self.closed = json.loads(header).get("bye") is True
            except (ValueError, AttributeError, RecursionError):
                self.closed = True
        # The acknowledgement: the server still reads what was sent before it, and can then end.
        acknowledgement = json.dumps({"palm": VERSION, "bye": self.me}).encode()
        self.socket.send_multipart([acknowledgement, b""], zmq.DONTWAIT).exception()
        self.path.close()
        self.socket.close(linger=2000)

    async def watch(self, instance):
        """Closes the connection when nothing that is sent over it is acknowledged: the next message opens a new one."""
        since = None
        while not self.closed:
            await asyncio.sleep(LOOK)
            if self.closed or not self.path.swallows():
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= UNACKNOWLEDGED:
                where = f"server {instance['uuid']} at {instance['endpoint']}"
                log.warning("the connection to %s is dead: what is sent is not acknowledged", where)
                self.close()

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.path.close()
        self.socket.close()


def rendezvous(client, instance):
    """The weight of an instance for a client: docs/protocol.md, "How a client finds servers"."""
    weight = 0xCBF29CE484222325
    for byte in uuid.UUID(client).bytes + uuid.UUID(instance).bytes:
        weight = (weight ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        weight = (weight ^ weight >> 33) * multiplier & 0xFFFFFFFFFFFFFFFF
    return weight ^ weight >> 33
