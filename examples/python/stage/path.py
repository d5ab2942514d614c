"""Notices connections whose other host is gone, or whose path swallows packets: libzmq alone would wait forever."""

import os
import socket

import zmq
import zmq.utils.monitor

# Heartbeats, in ms: libzmq sends a PING so often, from a thread of its own, whatever Python does. The timeout is
# long, because a busy server reads no PING for a while. `Path.swallows` distinguishes it from one that cannot be reached.
PING_EVERY = 1000
PONG_WITHIN = 30_000
# TCP keep-alive, in seconds, and how long sent data may stay unacknowledged, in ms.
IDLE, INTERVAL, PROBES, UNACKNOWLEDGED = 15, 5, 3, 45_000
# Where Linux's struct tcp_info has the number of retransmissions in a row; how many are tolerated.
RETRANSMITS, LOST = 2, 2


def keep_alive(zmq_socket):
    """Has the system end connections of hosts that vanished; to be called before bind or connect."""
    zmq_socket.tcp_keepalive = 1
    zmq_socket.tcp_keepalive_idle = IDLE
    zmq_socket.tcp_keepalive_intvl = INTERVAL
    zmq_socket.tcp_keepalive_cnt = PROBES
    zmq_socket.tcp_maxrt = UNACKNOWLEDGED


class Path:
    """The TCP connection below a socket that connects."""

    def __init__(self, zmq_socket):
        keep_alive(zmq_socket)
        zmq_socket.heartbeat_ivl = PING_EVERY
        zmq_socket.heartbeat_timeout = PONG_WITHIN
        self.monitored = zmq_socket
        self.monitor = zmq_socket.get_monitor_socket(zmq.EVENT_CONNECTED)
        self.tcp = None

    async def found(self):
        """Finds the connection, once something was received over it."""
        event = await zmq.utils.monitor.recv_monitor_message(self.monitor)
        # libzmq closes its own descriptor as it likes.
        self.tcp = socket.socket(fileno=os.dup(event["value"]))
        self.monitored.disable_monitor()

    def swallows(self):
        """Whether the other host acknowledges nothing despite retransmissions. Only Linux reports that."""
        if self.tcp is None or not hasattr(socket, "TCP_INFO"):
            return False
        return self.tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[RETRANSMITS] > LOST

    def close(self):
        # Before its socket is closed: a copy of the descriptor would keep the connection open.
        if self.tcp is None:
            self.monitored.disable_monitor()
        else:
            self.tcp.close()
