"""The connections over which each client greeted, and the answers that wait for a greeting."""

import collections

# How many connections are remembered; those that greeted first are forgotten first. libzmq does not say when one ends.
MAX_CONNECTIONS = 10_000
# How many answers may wait for their clients to greet, and the bytes that they may have.
MAX_WAITING = 4096
MAX_WAITING_BYTES = 64 * 1024 * 1024


class Clients:
    """The connections of each client, and what waits for it. Bounded, whatever clients send."""

    def __init__(self):
        # By connection, in the order of their latest greetings: the client, and whether it wants a goodbye.
        self.greetings = collections.OrderedDict()
        # By client: its connections in the same order (the values mean nothing).
        self.connections = {}
        # Answers that wait, oldest first: number, client, answer, bytes.
        self.waiting = collections.OrderedDict()
        self.waiting_of = {}
        self.waiting_bytes = 0
        self.numbers = 0

    def greet(self, client, connection, bye):
        """A client greeted over a connection. Returns the answers that wait for it."""
        self.remove(connection)
        self.greetings[connection] = (client, bye)
        self.connections.setdefault(client, {})[connection] = None
        if len(self.greetings) > MAX_CONNECTIONS:
            self.remove(next(iter(self.greetings)))
        return [self.release(number) for number in list(self.waiting_of.get(client, ()))]

    def remove(self, connection):
        """Forgets a connection that ended."""
        if connection not in self.greetings:
            return
        client, _ = self.greetings.pop(connection)
        del self.connections[client][connection]
        if not self.connections[client]:
            del self.connections[client]

    def latest(self, client):
        """The most recent connection of a client, or None."""
        return next(reversed(self.connections[client]), None) if client in self.connections else None

    def want_goodbye(self):
        return [connection for connection, (_, bye) in self.greetings.items() if bye]

    def wait(self, client, answer, size):
        """Keeps an answer until its client greets; of too many the oldest go. Returns its number, for `release`."""
        self.numbers += 1
        self.waiting[self.numbers] = (client, answer, size)
        self.waiting_of.setdefault(client, {})[self.numbers] = None
        self.waiting_bytes += size
        while len(self.waiting) > MAX_WAITING or self.waiting_bytes > MAX_WAITING_BYTES:
            self.release(next(iter(self.waiting)))
        return self.numbers

    def release(self, number):
        """Takes out a waiting answer, if it still waits."""
        if number not in self.waiting:
            return None
        client, answer, size = self.waiting.pop(number)
        self.waiting_bytes -= size
        self.waiting_of[client].pop(number)
        if not self.waiting_of[client]:
            del self.waiting_of[client]
        return answer
