"""pylm, the original: its Server with its own function `echo`, and a job of its Client through it.

    original.py serve CACHE PULL PUBLISH               binds these three addresses, prints `ready`, and serves
    original.py ask CACHE IN_FLIGHT SIZE SECONDS       prints its figures as one line of JSON

Results are published, and what is beyond the publisher's 1000 messages is lost without a word. Holding the input back with
a window would cost it speed (two threads that wait for each other under one lock), so here nothing is held back, and the
queues have no bound: this is as fast as it gets. IN_FLIGHT is only how many payloads take turns.
"""

import json
import logging
import os
import sys
import threading
import time

import zmq
from pylm.clients import Client, zmq_context
from pylm.servers import Server

PROBE = b"probe"
MIB = 1024 * 1024


def unbound():
    zmq_context.setsockopt(zmq.SNDHWM, 0)
    zmq_context.setsockopt(zmq.RCVHWM, 0)


def serve(cache, pull, publish):
    unbound()
    server = Server("original", cache, pull, publish, log_level=logging.WARNING)
    print("ready", flush=True)
    server.start()


def job(client, payloads, wanted):
    """Sends so many messages through; gives that number, and the seconds that it took."""
    size, start = len(payloads[0]), 0.0
    subscribed = threading.Event()

    def messages():
        nonlocal start
        # What is published before the subscription has arrived is lost.
        while not subscribed.wait(0.02):
            yield PROBE
        start = time.perf_counter()
        for count in range(wanted):
            yield payloads[count % len(payloads)]

    count = 0
    for answer in client.job("original.echo", messages()):
        if answer == PROBE:
            subscribed.set()
            continue
        place = payloads[count % len(payloads)][:4]
        assert len(answer) == size and answer[:4] == place, "a result is missing"
        count += 1
        if count == wanted:
            break
    return count, time.perf_counter() - start


def ask(cache, in_flight, size, seconds):
    in_flight, size, seconds = int(in_flight), int(size), float(seconds)
    payloads = [place.to_bytes(4, "little") + b"\7" * (size - 4) for place in range(in_flight)]
    unbound()
    # A lost result must end the program, not stop it.
    zmq_context.setsockopt(zmq.RCVTIMEO, 10_000)
    client = Client("original", cache, logging_level=logging.WARNING)
    trial = min(200, 8 * MIB // size)
    count, took = job(client, payloads, trial)
    # All of it lies in memory for a while.
    wanted = min(int(seconds * count / took), 64 * MIB // size)
    cpu = time.process_time()
    count, took = job(client, payloads, max(wanted, trial))
    cpu = time.process_time() - cpu
    print(json.dumps({"per_second": count / took, "count": count, "cpu": cpu * 1e6}), flush=True)
    # pylm's sockets would keep the process from ending.
    os._exit(0)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
