"""Keeps a server in a PALM mesh: its record in etcd, on a lease that this renews.

It is not a candidate for leader. A mesh of only such servers has no leader, and none of them is published.
"""

import datetime
import json
import logging
import threading
import time

from .etcd import EtcdError, delete, put, stands_since, unmodified

log = logging.getLogger("peer")

# How long a tombstone is kept, in seconds.
TOMBSTONE_TTL = 3600


class Evicted(Exception):
    """An administrator removed the server. It must not rejoin by itself."""


def now():
    """UTC as PALM writes it: microseconds, no zone."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")


def read(kv):
    """Returns the JSON object that a key holds; an empty one when it holds something else."""
    try:
        fields = json.loads(kv.value)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


class Member:
    """One server's place in the mesh.

    `awake()` returns once the serving loop has run; `evicted()` is called when an administrator has removed the server.
    """

    def __init__(self, etcd, prefix, record, ttl, awake, evicted, supervisor):
        self.etcd, self.record, self.ttl, self.supervisor = etcd, record, ttl, supervisor
        self.awake, self.evicted = awake, evicted
        prefix = prefix.rstrip("/")
        self.key = f"{prefix}/servers/{record['uuid']}"
        # What clients see: a leader puts it on this server's lease when it configures the record.
        self.published = f"{prefix}/pipelines/{record['server']}/{record['uuid']}"
        self.departed = f"{prefix}/departed/{record['uuid']}"
        self.reset = f"{prefix}/reset"
        self.servers = f"{prefix}/servers/"
        self.lease = None
        # The last known revision of the record, and etcd's history in which that was. Older tombstones and resets belong to an earlier
        # registration.
        self.written, self.epoch = 0, 0
        # When the server registered, by the wall clock: in another history, revisions cannot be compared.
        self.registered = ""
        # The revision at which a live watch saw the record deleted.
        self.deleted = None
        self.look = threading.Event()
        self.leaving = False
        # Held while the server's keys are written.
        self.writing = threading.Lock()

    def join(self, within=10.0):
        """Registers, and stays registered from now on. Fails when etcd cannot be reached in time."""
        deadline = time.monotonic() + within
        while True:
            try:
                self.register()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.supervisor.thread("lease-keeper", self.keep)
        self.supervisor.thread("own-record", self.watch)

    def register(self):
        """Puts the record on the lease, or on a new one if it is lost, and deletes an old tombstone."""
        if not self.lease:
            self.lease = self.etcd.grant(self.ttl)
        when = now()
        value = json.dumps({**self.record, "when": when, "leader": None, "configured": False})
        while True:
            note = self.etcd.get(self.departed)
            if self.written and self.newer_tombstone(note).get("why") == "admin":
                raise Evicted
            epoch = self.etcd.history.epoch
            # No eviction may happen in between.
            guard = [unmodified(self.departed, note.modified if note else 0)]
            own = [put(self.key, value, self.lease), delete(self.published), delete(self.departed)]
            written = self.etcd.transact(guard, own)
            if written:
                self.written, self.epoch, self.registered, self.deleted = written, epoch, when, None
                return

    def watch(self):
        """Watches the record: notices at once when it is configured, or gone."""
        configured = False
        for state in self.etcd.follow(self.key, deleted=self.saw_deletion):
            kv = state.get(self.key)
            if kv is None or self.is_new_history():
                self.look.set()
                configured = False
                continue
            self.written = max(self.written, kv.modified)
            if read(kv).get("configured") and not configured:
                configured = True
                log.info("server %s was configured by the leader", self.record["uuid"])

    def saw_deletion(self, revision):
        self.deleted = revision

    def is_new_history(self):
        """Whether etcd's history changed since the record was put: then revisions from before prove nothing."""
        return self.epoch != self.etcd.history.epoch

    def keep(self):
        """Renews the lease every third of its TTL, and registers again when the record is gone."""
        doubt = False
        while not self.leaving:
            self.look.wait(0.5 if doubt else self.ttl / 3)
            try:
                with self.writing:
                    if not self.leaving:
                        self.renew(doubt or self.look.is_set())
                if doubt:
                    log.info("etcd is back: the lease lives")
                doubt = False
            except Evicted:
                log.warning("server %s was removed from the mesh and stays out until it is restarted", self.record["uuid"])
                self.evicted()
                return
            except (EtcdError, OSError) as error:
                if not doubt:
                    log.warning("etcd is in doubt; the server continues to serve: %s", error)
                doubt = True

    def renew(self, looking):
        """Renews the lease, and registers again if it is lost, or if, when `looking`, the record is missing."""
        self.look.clear()
        alive = self.etcd.renew(self.lease) > 0
        if alive and not (looking and (self.etcd.get(self.key) is None or self.is_new_history())):
            return
        # It may have been removed because it did not answer: then it rejoins once it can answer.
        why = self.why_gone(alive)
        log.warning("registering again: %s", why)
        self.awake()
        if not alive:
            self.lease = None
        self.register()
        log.info("rejoined as %s", self.record["uuid"])

    def why_gone(self, alive):
        """Returns why the record is gone. Raises Evicted when an administrator removed it.

        An eviction ends the server, so it needs proof: a tombstone by an administrator that is newer than the record. An absent key
        proves nothing: etcd may have been restored from a backup, or more than this record was cleared.
        """
        reset, note = self.etcd.get(self.reset), self.etcd.get(self.departed)
        if reset and not self.is_new_history() and reset.modified > self.written:
            return "the mesh was reset"
        newer = self.newer_tombstone(note)
        if newer.get("why") == "admin":
            raise Evicted
        if "why" in newer:
            return newer.get("reason")
        if not alive:
            return "the lease was lost"
        if self.is_new_history():
            return "etcd's history changed, as when a backup is restored"
        deleted = self.deleted
        if deleted and deleted > self.written and self.write_tombstone(deleted, note, reset):
            raise Evicted
        return "the record is gone from etcd, and nothing proves that an administrator deleted it"

    def newer_tombstone(self, note):
        """Returns the fields of the server's tombstone, if it is newer than the record."""
        fields = read(note) if note else {}
        if self.is_new_history():
            return fields if str(fields.get("when", "")) > self.registered else {}
        return fields if note and note.modified > self.written else {}

    def write_tombstone(self, deleted, note, reset):
        """Writes the tombstone that is missing after a deletion by hand. Returns whether that worked: if not, nothing is proven.

        Another server's record, older than the deletion, must still exist: otherwise the whole mesh may have been cleared.
        """
        others = [kv for kv in self.etcd.range(self.servers, folder=True)[0] if kv.created < deleted]
        if not others:
            return False
        guard = [
            unmodified(self.key, 0),
            unmodified(self.departed, note.modified if note else 0),
            unmodified(self.reset, reset.modified if reset else 0),
            stands_since(others[0].key, others[0].created),
        ]
        text = json.dumps({"why": "admin", "reason": "an administrator removed it", "when": now()}, separators=(",", ":"))
        try:
            noting = [put(self.departed, text, self.etcd.grant(TOMBSTONE_TTL)), delete(self.published)]
            return self.etcd.transact(guard, noting) is not None
        except EtcdError as error:
            log.warning("writing the tombstone %s failed: %s", self.departed, error)
            return False

    def leave(self):
        """Removes the server from the mesh, and leaves a tombstone. Messages that still arrive are answered."""
        with self.writing:
            self.leaving = True
            self.look.set()
            note = json.dumps({"why": "itself", "reason": "it killed itself", "when": now()}, separators=(",", ":"))
            note_lease = self.etcd.grant(TOMBSTONE_TTL)
            self.etcd.transact([], [delete(self.key), delete(self.published), put(self.departed, note, note_lease)])

    def finish(self):
        """Revokes the lease."""
        self.etcd.revoke(self.lease)
