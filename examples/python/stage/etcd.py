"""etcd's API v3 over its JSON gateway: as much of it as a server of a mesh needs, with the standard library alone.

Every method that sends a request raises EtcdError when etcd rejects it, and OSError when no endpoint answers.
"""

import base64
import http.client
import json
import logging
import random
import ssl
import threading
import time
import urllib.error
import urllib.request

log = logging.getLogger("etcd")

# How long one request may take.
PATIENCE = 5.0
# A watch that was silent for so long is opened again: the machine behind it may be gone.
SILENCE = 60.0
# Another cluster is accepted as the successor once the known one has not answered for so long.
ANOTHER_AFTER = 10.0
# How etcd says that a token has expired, or was never there.
NEEDS_LOGIN = ("invalid auth token", "user name is empty", "revision of auth store is old")


class EtcdError(Exception):
    """etcd answered with an error."""


class KeyValue:
    """A key as etcd holds it."""

    def __init__(self, kv):
        self.key = decode(kv["key"]).decode()
        self.value = decode(kv.get("value", ""))
        self.modified = int(kv.get("mod_revision", 0))
        self.created = int(kv.get("create_revision", 0))


def encode(data):
    """The gateway takes keys and values in base64."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def decode(text):
    return base64.b64decode(text)


def put(key, value, lease):
    """An operation of a transaction: puts a value that goes away with a lease."""
    return {"requestPut": {"key": encode(key), "value": encode(value), "lease": str(lease)}}


def delete(key):
    """An operation of a transaction."""
    return {"requestDeleteRange": {"key": encode(key)}}


def unmodified(key, revision):
    """A comparison of a transaction: nobody has written the key since. Revision 0: there is none."""
    return {"key": encode(key), "target": "MOD", "result": "EQUAL", "modRevision": str(revision)}


def stands_since(key, revision):
    """A comparison of a transaction: the key was created at this revision, and not deleted since."""
    return {"key": encode(key), "target": "CREATE", "result": "EQUAL", "createRevision": str(revision)}


class History:
    """Whether etcd is still the one that was known. `epoch` counts the times that it was not: when it was restored from a
    backup, or lost its data. Revisions of different epochs cannot be compared."""

    def __init__(self):
        self.epoch, self.seen, self.cluster = 0, 0, None
        self.answered = time.monotonic()
        self.lock = threading.Lock()

    def sent(self):
        """What is known as a request is sent: an answer that a quorum agreed on is at least as new."""
        with self.lock:
            return self.epoch, self.seen

    def take(self, header, sent=None):
        """Looks at the header of an answer; with `sent`, at its revision as well. OSError when another cluster answered."""
        cluster, revision = header.get("cluster_id"), int(header.get("revision", 0))
        with self.lock:
            if self.cluster not in (None, cluster):
                if time.monotonic() - self.answered < ANOTHER_AFTER:
                    raise OSError(f"cluster {cluster} answers, and not cluster {self.cluster} as before")
                self.turn(f"cluster {self.cluster} of etcd did not answer any more, and cluster {cluster} takes its place", revision)
            elif sent and sent[0] == self.epoch and revision < sent[1]:
                self.turn(f"etcd's history went back from revision {self.seen} to {revision}", revision)
            self.cluster, self.answered = cluster, time.monotonic()
            if sent and sent[0] <= self.epoch:
                self.seen = max(self.seen, revision)

    def turn(self, why, revision):
        log.warning("%s, as when a backup is restored: known revisions are no longer valid", why)
        self.epoch += 1
        self.seen = revision


class Etcd:
    """A client of one etcd, at one or more URLs. May be used from several threads."""

    def __init__(self, urls, user=None, cacert=None, cert=None, key=None):
        self.urls = [url.rstrip("/") for url in urls]
        self.user = user
        self.token = None
        self.history = History()
        tls = ssl.create_default_context(cafile=cacert)
        if cert:
            tls.load_cert_chain(cert, key)
        # Straight to etcd, whatever proxy the environment names for the web.
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )

    def get(self, key):
        """The key, or None."""
        found, _ = self.range(key)
        return found[0] if found else None

    def range(self, key, folder=False):
        """The key, or all keys that start with it; and the revision at which that was so."""
        answer = self.agreed("/v3/kv/range", the_keys(key, folder))
        return [KeyValue(kv) for kv in answer.get("kvs", [])], int(answer["header"]["revision"])

    def transact(self, compare, operations):
        """Does all of it if all comparisons hold. The revision of its writes, or None."""
        answer = self.agreed("/v3/kv/txn", {"compare": compare, "success": operations})
        return int(answer["header"]["revision"]) if answer.get("succeeded") else None

    def grant(self, ttl):
        """A new lease of so many seconds."""
        return int(self.ask("/v3/lease/grant", {"TTL": str(ttl)})["ID"])

    def renew(self, lease):
        """Renews a lease. Returns its TTL in seconds; 0 when it is gone."""
        answer = self.ask("/v3/lease/keepalive", {"ID": str(lease)})
        # A stream of one answer: an error comes within it.
        if "result" not in answer:
            raise EtcdError(f"lease {lease:x} could not be renewed: {answer}")
        self.history.take(answer["result"]["header"])
        return int(answer["result"].get("TTL", 0))

    def revoke(self, lease):
        """Ends the lease, and deletes the keys on it."""
        self.ask("/v3/lease/revoke", {"ID": str(lease)})

    def follow(self, key, folder=False, deleted=lambda revision: None):
        """Yields what is there, by key, now and after each change, forever. It lists again when the watch breaks.

        `deleted` is called with the revision of each deletion that the watch reports, and not for a key that is missing in a listing.
        """
        there = True
        while True:
            try:
                listed, revision = self.range(key, folder)
                there = True
                state = {kv.key: kv for kv in listed}
                yield dict(state)
                for event in self.events(key, folder, revision + 1):
                    kv = KeyValue(event["kv"])
                    if event.get("type") == "DELETE":
                        state.pop(kv.key, None)
                        deleted(kv.modified)
                    else:
                        state[kv.key] = kv
                    yield dict(state)
            except (EtcdError, OSError) as error:
                # An outage repeats itself; once is enough.
                if there:
                    log.debug("the watch on %s was interrupted: %s", key, error)
                there = False
            time.sleep(random.uniform(0.2, 1.0))

    def events(self, key, folder, start):
        """Yields the changes from a revision on, until the watch breaks."""
        body = {"create_request": {**the_keys(key, folder), "start_revision": str(start)}}
        with self.open("/v3/watch", body, SILENCE) as stream:
            for line in whole(stream):
                answer = json.loads(line)
                result = answer.get("result", {})
                # Compacted, or the token of this watch has expired.
                if "error" in answer or result.get("canceled"):
                    self.token = None
                    raise EtcdError(f"the watch was cancelled: {answer}")
                self.history.take(result.get("header", {}))
                yield from result.get("events", [])

    def agreed(self, path, body):
        """Sends a request that a quorum answers, which shows whether etcd's history is the known one."""
        sent = self.history.sent()
        answer = self.ask(path, body)
        self.history.take(answer["header"], sent)
        return answer

    def ask(self, path, body):
        with self.open(path, body, PATIENCE) as answer:
            return json.loads(b"".join(whole(answer)))

    def open(self, path, body, patience):
        """Sends a request to the first endpoint that accepts it; logs in if needed."""
        if self.user and self.token is None:
            self.log_in()
        try:
            return self.open_somewhere(path, body, patience)
        except EtcdError as error:
            if not self.user or not any(words in str(error) for words in NEEDS_LOGIN):
                raise
        self.log_in()
        return self.open_somewhere(path, body, patience)

    def log_in(self):
        name, password = self.user
        try:
            with self.open_somewhere("/v3/auth/authenticate", {"name": name, "password": password}, PATIENCE) as answer:
                self.token = json.loads(b"".join(whole(answer)))["token"]
        except EtcdError as error:
            # A user may be set before etcd requires one.
            if "authentication is not enabled" not in str(error):
                raise
            self.token = ""

    def open_somewhere(self, path, body, patience):
        last = OSError("no etcd URL is given: set PALM_ETCD or --etcd")
        for url in self.urls:
            headers = {"Content-Type": "application/json"}
            # Not with the login itself: etcd would check the old token.
            if self.token and not path.endswith("/authenticate"):
                headers["Authorization"] = self.token
            request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
            try:
                return self.opener.open(request, timeout=patience)
            except urllib.error.HTTPError as error:
                words = error.read().decode(errors="replace")
                # 503: this member has no leader, or is shutting down. Another one may work.
                if error.code != 503:
                    raise EtcdError(f"etcd rejected {path}: {words}") from None
                last = OSError(f"{url}: {words}")
            except (OSError, http.client.HTTPException) as error:
                last = OSError(f"{url}: {error}")
        raise last


def whole(stream):
    """Yields the complete lines of a response. Raises OSError when it is cut off, whatever the library raises."""
    try:
        for line in stream:
            if not line.endswith((b"\n", b"}")):
                raise OSError("a response of etcd was cut off")
            yield line
    except http.client.HTTPException as error:
        raise OSError(f"a response of etcd was cut off: {error!r}") from None


def the_keys(key, folder):
    """A key; or all keys that start so: up to the same text with the last byte one higher."""
    if not folder:
        return {"key": encode(key)}
    first = key.encode()
    return {"key": encode(first), "range_end": encode(first[:-1] + bytes([first[-1] + 1]))}
