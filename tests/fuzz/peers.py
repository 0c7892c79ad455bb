"""More targets: what peers, relays, cell members, engines and chain nodes send. See `targets`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from commonweight.core import codec, merkle
from commonweight.core.errors import CommonweightError, EncodingError

COUNT = 300
CODECS = ("none", "fp16", "int8:64", "int4:128", "int4:1024", "2bit:1024", "topk:64/4096", "topk8:256/4096")


def same(got: bytes, data: bytes) -> None:
    """A decoder accepts one encoding of everything."""
    if got != data:
        raise AssertionError("what was decoded encodes to other bytes")


def mix_leaf(data: bytes) -> None:
    """`diloco.mixing.MixLeaf`, alone and in its Merkle leaf."""
    from commonweight.diloco.mixing import MixLeaf

    try:
        same(MixLeaf.of(data.ljust(1024, b"\x00")).leaf, data.ljust(1024, b"\x00"))
    except CommonweightError:
        same(MixLeaf.decode(data).encode(), data)


def anchor(data: bytes) -> None:
    """`diloco.peer.Anchor`: what a joiner recovers."""
    from commonweight.diloco.peer import Anchor

    same(Anchor.decode(data, 200).encode(), data)


def gram(data: bytes) -> None:
    """Gram matrices of a cohort."""
    from commonweight.diloco.cohort import pack_gram, unpack_gram

    same(pack_gram(unpack_gram(data, 3)), data)


def message(data: bytes) -> None:
    """What members of a session say."""
    from commonweight.collectives import messages

    same(messages.encode(messages.decode(data)), data)


def wire(data: bytes) -> None:
    """Every codec of updates and exchanges, in floats and in lanes; the first byte says which."""
    from commonweight.collectives.codecs import codec as named
    from commonweight.diloco.compress import Compressor

    through = named(CODECS[data[0] % len(CODECS)]) if data else named("none")
    payload = data[1:].ljust(through.size(COUNT), b"\x00")[: through.size(COUNT)]
    with suppress(EncodingError):
        if not np.isfinite(through.decode(payload, COUNT)).all():
            raise AssertionError("a value is not finite")
    if through.exact:
        lanes = through.decode_lanes(payload, COUNT)
        if (np.concatenate(list(through.lane_tiles(payload, COUNT))) != lanes).any():
            raise AssertionError("pieces of an update are not the whole")
    if Compressor.named(through.name).decode(payload, COUNT).shape != (COUNT,):
        raise AssertionError("a value is missing")


def feedback(data: bytes) -> None:
    """Error feedback that a trainer takes up again."""
    from commonweight.collectives.codecs import Feedback

    same(Feedback.decode(data, 20).encode(), data)


def version_record(data: bytes) -> None:
    """How a version came about, as a relay tells it."""
    from commonweight.shardcast.versions import Record

    same(Record.decode(data).encode(), data)


def rumours(data: bytes) -> None:
    """Gossip: a bundle of announcements. Nobody is registered, so that no signature is tried."""
    from commonweight.shardcast.gossip import Rumours
    from commonweight.shardcast.signing import Domain

    Rumours(Domain(1, bytes(20)), lambda sender: False, clock=lambda: 5.0).take_in(data)


def authorization(data: bytes) -> None:
    """The header that signs a request."""
    from commonweight.shardcast.signing import read_authorization

    header = data.decode("latin-1")
    same(b"Commonweight " + codec.encode(read_authorization(header)).hex().encode(), header.encode())


def place(data: bytes) -> None:
    """A node's address as it stands on the chain."""
    from commonweight.shardcast.address import Forbidden, _parse

    try:
        _parse(data.decode("utf-8", errors="replace"))
    except Forbidden:
        return


def bundle(data: bytes) -> None:
    """Environments of a reinforcement-learning task."""
    from commonweight.tasks.rl_bundle import Bundle

    same(Bundle.decode(data).encode(), data)


def trajectories(data: bytes) -> None:
    """Rollouts in columns."""
    from commonweight.rl.trajectories import Columns

    found = Columns.decode(data)
    if len(found.rows()) != len(found):
        raise AssertionError("a row is missing")
    same(found.encode(), data)


def completion(data: bytes) -> None:
    """The answer of an inference server."""
    from commonweight.rl.openai_engine import read_answer

    read_answer(data)


def share(data: bytes) -> None:
    """Orders and pieces between the machines of a cell."""
    from commonweight.tasks.sharing import ShareOrder, _split

    try:
        same(codec.encode(codec.decode(ShareOrder, data)), data)
    except CommonweightError:
        _split(data)


@lru_cache(maxsize=1)
def _contracts() -> tuple[list[Any], Any]:
    from commonweight.chain.interface import Errors, Interface, load_abi

    found = [Interface(name, load_abi(name)) for name in ("Tasks", "Panel", "Court", "Vault")]
    functions = [[e for e in one.abi if e["type"] == "function"] for one in found]
    return list(zip(found, functions, [list(one._topics) for one in found], strict=True)), Errors(found)


def chain(data: bytes) -> None:
    """What an untrusted chain node answers: results of calls, events and reverts of four contracts."""
    contracts, errors = _contracts()
    at, functions, events = contracts[data[0] % len(contracts) if data else 0]
    pick, body = data[1] if len(data) > 1 else 0, data[2:]
    entry = functions[pick % len(functions)]
    errors.decode(body)
    with suppress(ValueError):  # what callers turn into a refusal of the node
        at.decode_result(entry["name"], len(entry["inputs"]), body)
    with suppress(ValueError):
        at.decode_event([events[pick % len(events)], body[:32].ljust(32, b"\x00")], body[32:])


PEERS: tuple[Callable[[bytes], None], ...] = (
    mix_leaf,
    anchor,
    gram,
    message,
    wire,
    feedback,
    version_record,
    rumours,
    authorization,
    place,
    bundle,
    trajectories,
    completion,
    share,
    chain,
)


def peer_seeds() -> dict[str, list[bytes]]:
    """Inputs by target, as `seeds.seeds`."""
    from commonweight.collectives import messages
    from commonweight.collectives.codecs import Feedback
    from commonweight.core import fixed
    from commonweight.core.fixed import ModelVersion
    from commonweight.core.spec import MergeSpec
    from commonweight.core.works import StepLeaf, TrajectoryLeaf
    from commonweight.diloco.cohort import pack_gram
    from commonweight.diloco.compress import Compressor
    from commonweight.diloco.mixing import MixLeaf
    from commonweight.diloco.peer import Anchor, AnchorHead
    from commonweight.rl.trajectories import Columns, Trajectory
    from commonweight.shardcast.gossip import Bundle as Rumoured
    from commonweight.shardcast.signing import Announcement, Request, SignedAnnouncement, SignedRequest
    from commonweight.shardcast.versions import KIND, Record, Tensor, WirePart
    from commonweight.tasks.lease import Record as Noted
    from commonweight.tasks.rl_bundle import Bundle
    from commonweight.tasks.sharing import ShareOrder, _piece
    from commonweight.toploc.steps import SKETCH_BYTES

    b, a = bytes(range(32)), bytes(20)
    zeros = np.zeros(200, dtype=np.int32)
    member = messages.Member("a", "127.0.0.1", 9)
    view = messages.View(1, (member,))
    result = messages.Result(1, view, ("a",), b, True, (messages.Part("a", "00"),))
    said = [
        messages.Beat(1),
        messages.Join(member, b),
        messages.Ready(1, 2, "x", ""),
        messages.Fault(1, 2, "a", "b", 3),
        result,
        messages.Report(member, view, 1, (result,), (), 2, ("a",)),
    ]
    ones = np.full(COUNT, 1 << 20, dtype=np.int64)
    told = Record(
        KIND,
        b,
        8 * fixed.padded(200),
        200,
        bytes(32),
        1,
        1,
        MergeSpec(),
        0,
        (WirePart(b, b, "none", b, 0),),
        (Tensor("w", (10, 20)),),
    )
    signed = SignedRequest(Request(a, a, "PUT", "/v1/x", b, b, 9), bytes(65))
    said_here = Announcement(a, (b,), (b,), 1, 9)
    row = Trajectory(
        1,
        2,
        3,
        4,
        np.arange(3, dtype=np.int32),
        np.arange(2, dtype=np.int32),
        np.ones(2, dtype=np.uint8),
        -np.ones(2, dtype=np.float32),
        b"proof",
    )
    noted = Noted(
        StepLeaf(0, b, b, b, 1.5), TrajectoryLeaf(0, b, 9, merkle.root(b"pp")), b"pp", bytes(SKETCH_BYTES)
    )
    order = ShareOrder(1, a, 1, 2, 3, a, b, b, b, b, "profile", 0, 4)
    return {
        "mix_leaf": [MixLeaf(1, 0, b, b, 4, (1, 2), (1, 1), (b, b), b).encode()],
        "anchor": [Anchor(AnchorHead(1, 2, ("a", "b")), ModelVersion(zeros, zeros)).encode()],
        "gram": [pack_gram([[4, 2, 1], [2, 5, 3], [1, 3, 6]])],
        "message": [messages.encode(m) for m in said],
        "wire": [bytes([i]) + Compressor.named(name).encode(ones) for i, name in enumerate(CODECS)],
        "feedback": [Feedback(np.arange(20, dtype=np.int32), 256).encode()],
        "version_record": [told.encode()],
        "rumours": [codec.encode(Rumoured((SignedAnnouncement(said_here, bytes(65)),)))],
        "authorization": [b"Commonweight " + codec.encode(signed).hex().encode()],
        "place": [b"https://example.org:8443/", b"http://[::1]:9000"],
        "bundle": [Bundle("count").encode()],
        "trajectories": [Columns.of([row, row]).encode()],
        "completion": [b'{"choices":[{"text":"x","logprobs":{"tokens":["token_id:1"]}}]}'],
        "share": [codec.encode(order), _piece(bytes(8), noted)],
        "chain": [bytes([i, j]) + bytes(320) for i in range(4) for j in (0, 7)],
    }
