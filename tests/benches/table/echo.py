"""pyzmq alone: a ROUTER that sends back what it gets, and a DEALER that loads it.

    echo.py serve                                  prints where it listens, and echoes until it is killed
    echo.py ask ENDPOINT IN_FLIGHT SIZE SECONDS    prints its figures as one line of JSON
"""

import json
import sys
import time

import zmq


def socket_of(kind):
    socket = zmq.Context.instance().socket(kind)
    # Those in flight are few enough; with its default of 1000 messages a ROUTER drops what is beyond.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def serve():
    socket = socket_of(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", flush=True)
    while True:
        socket.send_multipart(socket.recv_multipart())


def ask(endpoint, in_flight, size, seconds):
    socket = socket_of(zmq.DEALER)
    socket.connect(endpoint)
    socket.send(b"open")
    assert socket.recv() == b"open"
    in_flight, size, seconds = int(in_flight), int(size), float(seconds)
    payloads = [place.to_bytes(4, "little") + b"\7" * (size - 4) for place in range(in_flight)]
    clock = time.perf_counter
    start, cpu = clock(), time.process_time()
    sent = []
    for payload in payloads:
        sent.append(clock())
        socket.send(payload)
    trips = []
    left = in_flight
    while left:
        answer = socket.recv()
        now = clock()
        place = len(trips) % in_flight
        assert len(answer) == size and answer[:4] == payloads[place][:4], "the answer is another one's"
        trips.append(now - sent[place])
        if now - start < seconds:
            sent[place] = now
            socket.send(payloads[place])
        else:
            left -= 1
    took, cpu = clock() - start, time.process_time() - cpu
    trips.sort()

    def quantile(percent):
        return trips[min(len(trips) * percent // 100, len(trips) - 1)] * 1e6

    count = len(trips)
    figures = {"p50": quantile(50), "p99": quantile(99), "per_second": count / took, "count": count, "cpu": cpu * 1e6}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
