"""Checks of the network proxy: what passes, what does not, and that nothing of it is left."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.network import GOOD, BadNetwork, Break, Flow, Link, NetworkProxy
from tests.faults.injection import injected

PATIENCE_S = 20.0
SSE = b"id: 1\ndata: one\n\nid: 2\ndata: two\n\n"

flows = st.builds(
    Flow,
    latency_s=st.sampled_from([0.0, 0.001]),
    jitter_s=st.sampled_from([0.0, 0.002]),
    bytes_per_s=st.sampled_from([0.0, 300_000.0]),
    piece_bytes=st.sampled_from([0, 64, 1024]),
)


class Peer:
    """A server that gives out its side of each connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_S)
        self.port: int = self.listener.getsockname()[1]

    def accept(self) -> socket.socket:
        server, _ = self.listener.accept()
        server.settimeout(PATIENCE_S)
        return server


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A server for all tests."""
    peer = Peer()
    yield peer
    peer.listener.close()


@contextmanager
def connected(
    peer: Peer, link: Link = GOOD
) -> Iterator[tuple[NetworkProxy, socket.socket, socket.socket]]:
    """A proxy with a link, and both ends of a connection through it."""
    with NetworkProxy(peer.port, random.Random(1)) as proxy:
        proxy.use(link)
        with (
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as client,
            peer.accept() as server,
        ):
            yield proxy, client, server


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def read_all(sock: socket.socket) -> bytes:
    """Everything until the end; a reset is the end of what came before it."""
    found = b""
    try:
        while data := sock.recv(1 << 16):
            found += data
    except ConnectionResetError:
        return found + b"<reset>"
    return found


@settings(max_examples=12, deadline=None)
@given(flows, flows, st.binary(max_size=4000), st.binary(max_size=4000))
def test_gentle_links_pass_bytes_unchanged(
    peer: Peer, request_flow: Flow, answer_flow: Flow, request_: bytes, answer: bytes
) -> None:
    """Late, slow or in pieces, but whole, in order, and with the end behind them."""
    with connected(peer, Link(request_flow, answer_flow)) as (_, client, server):
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == request_
        server.sendall(answer)
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == answer


def test_more_than_all_buffers_passes_unchanged(peer: Peer) -> None:
    """A reader that begins late gets it all."""
    answer = os.urandom(2 << 20)
    with connected(peer) as (_, client, server):

        def send() -> None:
            server.sendall(answer)
            server.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert read_all(client) == answer
        sender.join()


def test_small_pieces_arrive_apart(peer: Peer) -> None:
    link = Link(answer=Flow(piece_bytes=1, gap_s=0.001))
    with connected(peer, link) as (_, client, server):
        server.sendall(bytes(50))
        assert len(client.recv(50)) < 50


def test_reset_comes_behind_its_bytes(peer: Peer) -> None:
    """Both sides are reset; exactly these bytes came."""
    with connected(peer, Link(broken=Break.RESET, after=7)) as (proxy, client, server):
        server.sendall(SSE)
        assert read_all(client) == SSE[:7] + b"<reset>"
        assert read_all(server) == b"<reset>"
        assert proxy.struck == 1


def test_request_is_reset_too(peer: Peer) -> None:
    link = Link(broken=Break.RESET, after=3, in_request=True)
    with connected(peer, link) as (_, client, server):
        client.sendall(b"GET / HTTP/1.1")
        assert read_all(server) == b"GET<reset>"


@pytest.mark.parametrize("after", range(len(SSE)))
def test_close_never_falls_behind_a_line(peer: Peer, after: int) -> None:
    """So the last event, if any came, is cut."""
    with connected(peer, Link(broken=Break.CLOSE, after=after)) as (_, client, server):
        server.sendall(SSE)
        server.shutdown(socket.SHUT_WR)
        found = read_all(client).removesuffix(b"<reset>")
        assert SSE.startswith(found)
        assert len(found) >= after
        assert not found.endswith(b"\n") or found == SSE


def test_half_open_passes_no_end(peer: Peer) -> None:
    """The server learns nothing of a client that left, until the fault is healed."""
    with connected(peer) as (proxy, client, server):
        with injected(BadNetwork(proxy, "half-open", Link(broken=Break.HALF_OPEN))):
            server.sendall(SSE)
            assert proxy.wait_for(lambda: proxy.struck == 1, PATIENCE_S)
            client.sendall(b"still heard")
            assert server.recv(100) == b"still heard"
            client.close()
            server.sendall(SSE)
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.recv(1)
            server.settimeout(PATIENCE_S)
        assert read_all(server) == b"<reset>"


def test_stall_goes_on_when_healed(peer: Peer) -> None:
    """No byte is lost, in either direction."""
    with connected(peer) as (proxy, client, server):
        with injected(BadNetwork(proxy, "stall", Link(broken=Break.STALL, after=5))):
            server.sendall(SSE)
            assert proxy.wait_for(lambda: proxy.struck == 1, PATIENCE_S)
            client.sendall(b"more")
            assert client.recv(5) == SSE[:5]
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == SSE[5:]
        assert server.recv(4) == b"more"


def test_end_of_one_side_is_passed_on(peer: Peer) -> None:
    with connected(peer) as (_, client, server):
        server.close()
        assert read_all(client) == b""


def test_close_leaves_no_thread_or_socket(peer: Peer) -> None:
    """Connections that are open, or held back, end with the proxy."""
    before = threading.active_count(), descriptors()
    with connected(peer, Link(broken=Break.STALL)) as (_, client, server):
        server.sendall(SSE)
        client.sendall(SSE)
    assert (threading.active_count(), descriptors()) == before


def test_lost_server_resets_the_client() -> None:
    """Nothing listens at its port."""
    with (
        socket.socket() as reserved,
        NetworkProxy(_bound(reserved), random.Random(1)) as proxy,
        pytest.raises(ConnectionResetError),  # while it connects, or when it reads
        socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as client,
    ):
        client.recv(1)


def _bound(sock: socket.socket) -> int:
    """Take a port without listening at it."""
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    return port
