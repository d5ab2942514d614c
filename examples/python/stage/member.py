"""Keeps a server in a PALM mesh: its record in etcd, on a lease that this renews.

It does not stand for election: it can be led, but it cannot lead. A mesh of such servers alone has no leader, and is
published to nobody.
"""

import datetime
import json
import logging
import threading
import time

from .etcd import EtcdError, delete, put, unmodified

log = logging.getLogger("peer")

# How long a note about a departure stays, in seconds.
NOTE_STAYS = 3600


class Evicted(Exception):
    """A person removed the server. It must not come back by itself."""


def now():
    """UTC as PALM writes it: microseconds, no zone."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")


def read(kv):
    """The JSON object that a key holds; an empty one when it holds something else."""
    try:
        fields = json.loads(kv.value)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


class Member:
    """One server's place in the mesh.

    `awake()` returns once the serving loop has turned; `evicted()` is called when a person has removed the server.
    """

    def __init__(self, etcd, prefix, record, ttl, awake, evicted):
        self.etcd, self.record, self.ttl = etcd, record, ttl
        self.awake, self.evicted = awake, evicted
        prefix = prefix.rstrip("/")
        self.key = f"{prefix}/servers/{record['uuid']}"
        self.departed = f"{prefix}/departed/{record['uuid']}"
        self.reset = f"{prefix}/reset"
        self.lease = None
        # The last revision of the record that is known. Notes and resets that are older speak of an earlier life.
        self.written = 0
        self.look = threading.Event()
        self.leaving = False
        # Who holds it writes the server's keys.
        self.writing = threading.Lock()

    def join(self, within=10.0):
        """Registers, and from now on keeps it so. Fails when etcd cannot be reached in time."""
        deadline = time.monotonic() + within
        while True:
            try:
                self.register()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        for task in (self.keep, self.watch):
            threading.Thread(target=task, daemon=True).start()

    def register(self):
        """Puts the record on a new lease, or on the one that still lives, and forgets that the server ever departed."""
        if not self.lease:
            self.lease = self.etcd.grant(self.ttl)
        value = json.dumps({**self.record, "when": now(), "leader": None, "configured": False})
        while True:
            note = self.etcd.get(self.departed)
            if self.written and note and note.modified > self.written and read(note).get("why") == "admin":
                raise Evicted
            # Nobody may slip an eviction in between.
            guard = [unmodified(self.departed, note.modified if note else 0)]
            written = self.etcd.transact(guard, [put(self.key, value, self.lease), delete(self.departed)])
            if written:
                self.written = written
                return

    def watch(self):
        """Notices at once when the record is configured, or gone."""
        configured = False
        for state in self.etcd.follow(self.key):
            kv = state.get(self.key)
            if kv is None:
                self.look.set()
                configured = False
                continue
            self.written = max(self.written, kv.modified)
            if read(kv).get("configured") and not configured:
                configured = True
                log.info("configured")

    def keep(self):
        """Renews the lease three times in its life, and comes back whenever the record is gone."""
        doubt = False
        while not self.leaving:
            self.look.wait(0.5 if doubt else self.ttl / 3)
            try:
                with self.writing:
                    if not self.leaving:
                        self.renew(doubt or self.look.is_set())
                if doubt:
                    log.info("etcd is back")
                doubt = False
            except Evicted:
                log.warning("removed from the mesh by an administrator")
                self.evicted()
                return
            except (EtcdError, OSError) as error:
                if not doubt:
                    log.warning("etcd is in doubt; the server goes on serving: %s", error)
                doubt = True

    def renew(self, looking):
        """Renews the lease, and registers anew if it is lost, or if somebody `looking` finds no record."""
        self.look.clear()
        alive = self.etcd.renew(self.lease) > 0
        if alive and not (looking and self.etcd.get(self.key) is None):
            return
        # It may have been removed for not answering; then it comes back when it can answer.
        why = self.why_gone(alive)
        log.warning("the record is gone (%s); registering anew", why)
        self.awake()
        if not alive:
            self.lease = None
        self.register()
        log.info("rejoined as %s", self.record["uuid"])

    def why_gone(self, alive):
        """What a record that is gone means. Raises Evicted when a person removed it."""
        reset = self.etcd.get(self.reset)
        if reset and reset.modified > self.written:
            return "the mesh was reset"
        note = self.etcd.get(self.departed)
        note = read(note) if note and note.modified > self.written else {}
        if note.get("why") == "admin":
            raise Evicted
        if "why" in note:
            return note.get("reason")
        if alive:
            # Neither note nor reset, and not the lease: somebody deleted the key by hand.
            raise Evicted
        return "the lease was lost"

    def leave(self):
        """Takes the server out of the mesh, with a note. It goes on answering what still arrives."""
        with self.writing:
            self.leaving = True
            self.look.set()
            note = json.dumps({"why": "itself", "reason": "it killed itself", "when": now()}, separators=(",", ":"))
            note_lease = self.etcd.grant(NOTE_STAYS)
            self.etcd.transact([], [delete(self.key), put(self.departed, note, note_lease)])

    def finish(self):
        """Gives the lease back."""
        self.etcd.revoke(self.lease)
