"""RPC trouble: busy and dead endpoints are retried a bounded number of times, and addresses keep their
secrets.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from commonweight.chain import rpc as module
from commonweight.chain.history import History
from commonweight.chain.interface import Interface
from commonweight.chain.rpc import RETRIES, Rpc, RpcError
from commonweight.core.errors import CommonweightError


class Endpoint:
    """Answers with scripted (status, body) pairs; the last one repeats. ``{id}`` in a body is the request's
    id.
    """

    def __init__(self) -> None:
        self.script: list[tuple[int, str]] = [(200, '{"jsonrpc":"2.0","id":{id},"result":"0x7"}')]
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, text = outer.script[min(outer.asked, len(outer.script) - 1)]
                outer.asked += 1
                one = body if isinstance(body, dict) else body[0]
                answer = text.replace("{id}", str(one["id"])).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://user:hunter2@127.0.0.1:{self.server.server_port}/v2/token123?key=s3cr3t"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.mark.parametrize(
    "trouble", [(429, ""), (503, "down"), (502, "<html>"), (200, "not json"), (200, "[]x")]
)
def test_passing_trouble_is_retried(endpoint: Endpoint, trouble: tuple[int, str]) -> None:
    endpoint.script[:0] = [trouble, trouble]
    assert Rpc(endpoint.url).call("eth_blockNumber") == "0x7"
    assert endpoint.asked == 3


@pytest.mark.parametrize(("trouble", "asked"), [((429, ""), RETRIES), ((200, "no"), RETRIES), ((401, ""), 1)])
def test_lasting_trouble_ends_with_an_error_that_keeps_secrets(
    endpoint: Endpoint, trouble: tuple[int, str], asked: int
) -> None:
    endpoint.script = [trouble]
    with pytest.raises(CommonweightError) as caught:
        Rpc(endpoint.url).call("eth_blockNumber")
    assert caught.value.code == "E1203"
    assert endpoint.asked == asked
    assert not [s for s in ("hunter2", "token123", "s3cr3t") if s in str(caught.value)]


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(CommonweightError) as caught:
            Rpc(url).call("eth_blockNumber")
    assert caught.value.code == "E1203"


@pytest.mark.parametrize(
    ("error", "reverted", "data"),
    [
        ({"code": 3, "message": "execution reverted", "data": "0x01020304"}, True, b"\x01\x02\x03\x04"),
        ({"code": -32000, "message": "execution reverted"}, True, b""),
        ({"code": -32015, "message": "VM error", "data": "Reverted 0x0102"}, True, b"\x01\x02"),
        ({"code": -32000, "message": "VM", "data": {"data": "0x0a"}}, True, b"\x0a"),
        ({"code": -32000, "message": "out of gas"}, True, b""),
        ({"code": -32005, "message": "limit exceeded"}, False, b""),
        ({"code": -32000, "message": "odd", "data": "0xzz"}, False, b""),
        ("just words", False, b""),
    ],
)
def test_answers_that_are_errors(endpoint: Endpoint, error: Any, reverted: bool, data: bytes) -> None:
    endpoint.script = [(200, '{"jsonrpc":"2.0","id":{id},"error":' + json.dumps(error) + "}")]
    with pytest.raises(RpcError) as caught:
        Rpc(endpoint.url).call("eth_call")
    assert (caught.value.reverted, caught.value.data) == (reverted, data)
    assert endpoint.asked == 1


@pytest.mark.parametrize(
    "body", ["{}", "[]", '"x"', "null", '[{"jsonrpc":"2.0","id":1,"error":{"message":"no"}}]']
)
def test_batches_take_no_half_answers(endpoint: Endpoint, body: str) -> None:
    endpoint.script = [(200, body)]
    with pytest.raises((RpcError, CommonweightError)):
        Rpc(endpoint.url).batch([("eth_blockNumber", []), ("eth_chainId", [])])


class FakeRpc:
    """Log queries over more than ``limit`` blocks are refused; blocks above ``top`` are missing."""

    place = "fake"

    def __init__(self, limit: int, top: int) -> None:
        self.limit, self.top, self.asked = limit, top, []

    def batch(self, calls: Any) -> list[Any]:
        if not calls or calls[0][0] != "eth_getLogs":
            return []
        query = calls[0][1][0]
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        self.asked.append((first, last))
        if last - first + 1 > self.limit:
            raise RpcError("eth_getLogs", {"code": -32005, "message": "range too large"})
        return [[], {"number": hex(last)} if last <= self.top else None]


def test_log_ranges_shrink_to_what_the_endpoint_allows() -> None:
    rpc = FakeRpc(limit=300, top=10_000)
    history = History(rpc, {b"\x01" * 20: Interface("Vault", [])})  # type: ignore[arg-type]
    assert history.events(0, 2_999) == []
    served = [r for r in rpc.asked if r[1] - r[0] < 300]
    assert [n for first, last in served for n in range(first, last + 1)] == list(range(3_000))
    assert len(rpc.asked) - len(served) <= 4


def test_a_refusal_of_one_block_ends_the_query() -> None:
    history = History(FakeRpc(limit=0, top=10), {b"\x01" * 20: Interface("Vault", [])})  # type: ignore[arg-type]
    with pytest.raises(CommonweightError) as caught:
        history.events(0, 9)
    assert caught.value.code == "E1206"


def test_logs_of_a_node_that_lacks_the_last_block_are_not_believed() -> None:
    history = History(FakeRpc(limit=100, top=8), {b"\x01" * 20: Interface("Vault", [])})  # type: ignore[arg-type]
    with pytest.raises(CommonweightError) as caught:
        history.events(0, 9)
    assert caught.value.code == "E1203"


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def drip() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                while not done.wait(0.02):
                    try:
                        peer.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        rpc = Rpc(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.3, attempts=1)
        with pytest.raises(CommonweightError, match="Timeout") as caught:
            rpc.call("eth_blockNumber")
        done.set()
        thread.join()
        assert caught.value.code == "E1203"
