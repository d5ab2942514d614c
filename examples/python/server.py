#!/usr/bin/env python3
"""A server of a PALM mesh in Python: `pytext.reverse`, and `pytext.double`, which only takes numbers.

    server.py run --etcd http://127.0.0.1:2379

It needs pyzmq. What makes it a server is in the folder `stage`; a server in Rust must be in the mesh to lead it.
"""

from stage import Stage

stage = Stage("pytext")


@stage.function
def reverse(payload):
    return payload.decode()[::-1].encode()


@stage.function
def double(payload):
    return str(2 * int(payload)).encode()


if __name__ == "__main__":
    stage.main()
