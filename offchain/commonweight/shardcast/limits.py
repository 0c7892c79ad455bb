"""Every bound of this room in one place, on disk and on both sides of a connection."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, seconds, bytes per second and counts."""

    # Store
    store_bytes: int = 64 * GIB
    """Quota of all artifacts and partial downloads together, in bytes."""
    free_bytes: int = 64 * MIB
    """Bytes that must stay free on the disk; below this nothing is written."""
    manifests: int = 64
    """Manifests kept in memory."""
    corrupt_files: int = 4
    """Damaged files kept for a person to look at."""

    record_bytes: int = 256 * KIB
    """Largest record of a version, in bytes."""
    parts: int = 1024
    """Updates merged into one version."""
    tensors: int = 4096
    """Tensors of one model."""

    # Serving
    header_bytes: int = 8 * KIB
    """Largest request line and headers, in bytes."""
    header_seconds: float = 5.0
    """From the first byte of a request (or the connection) to the end of its headers."""
    idle_seconds: float = 5.0
    """A kept-alive connection may wait this long for its next request."""
    stall_seconds: float = 20.0
    """A reader that takes nothing for this long is cut off."""
    response_seconds: float = 80.0
    """Whole answer, however it drips: a 4 MiB shard at 64 KiB/s, and some."""
    connections: int = 512
    """Open connections of all clients."""
    connections_per_ip: int = 64
    """Open connections of one address; many nodes may share one behind a home router."""
    hashing_threads: int = 2
    """Shards read and hashed at the same time for answers."""
    chunk_bytes: int = MIB
    """What one answer hands to the system at a time, in bytes."""
    unsent_bytes: int = MIB
    """What the kernel may take from us before it has sent it, in bytes."""
    upload_slots: int = 1
    """Shards sent at full speed at the same time, so that each arrives soon and can be passed on."""
    slot_seconds: float = 3.0
    """A slow reader keeps its slot no longer than this."""
    queue_seconds: float = 0.05
    """A request waits for a slot no longer than this; then its reader is sent to others."""
    hold_seconds: float = 4.0
    """Before every shard was given once, none is given again within this time."""
    settle_seconds: float = 0.02
    """News within this time go into one answer."""
    trust_seconds: float = 600.0
    """A shard hashed since then, in a file unchanged since then, is sent without hashing it again."""

    body_rate: int = 64 * KIB
    """Bytes per second below which a request's body is cut off."""

    # Signed requests and gossip
    reads_per_second: float = 2000.0
    """Requests of one address of the network that need no signature, per second; many nodes may share it."""
    reads_burst: float = 8000.0
    """The same, at once."""
    checks_per_second: float = 20.0
    """Signatures checked for one address of the network, per second."""
    checks_burst: float = 200.0
    """The same, at once."""
    requests_per_second: float = 20.0
    """Signed requests of one identity, per second."""
    requests_burst: float = 400.0
    """The same, at once."""
    push_rate: float = 8.0 * MIB
    """Bytes that one identity may push, per second."""
    push_burst: float = 512.0 * MIB
    """The same, at once."""
    pushes: int = 8
    """Artifacts being pushed here at the same time."""
    push_seconds: float = 60.0
    """A push that brings nothing for this long is set aside."""
    nonces: int = 65_536
    """Signed requests remembered, so that none is used twice."""
    gossip_bytes: int = 128 * KIB
    """Largest bundle of announcements, in bytes."""
    gossip_seconds: float = 10.0
    """One exchange of announcements."""
    bundle: int = 32
    """Announcements in one bundle."""
    told_versions: int = 8
    """Newest versions in one announcement."""
    told_holds: int = 256
    """Artifacts in one announcement."""

    # Fetching
    artifact_bytes: int = 4 * GIB
    """Largest artifact fetched when the caller names no smaller limit, in bytes."""
    resolve_seconds: float = 5.0
    """One name look-up."""
    connect_seconds: float = 5.0
    """One TCP or TLS handshake."""
    manifest_bytes: int = MIB
    """Largest manifest, in bytes; enough for artifacts of 128 GiB."""
    read_seconds: float = 10.0
    """Silence of a source before it is left."""
    manifest_seconds: float = 20.0
    """A whole manifest, connection included."""
    shard_seconds: float = 300.0
    """A whole shard, connection included: 4 MiB at about `min_rate`."""
    grace_seconds: float = 5.0
    """A source may be slower than `min_rate` for this long."""
    min_rate: int = 16 * KIB
    """Bytes per second below which a source is left."""
    hedge_seconds: float = 2.0
    """A request older than this is also made to another source."""
    fetch_seconds: float = 900.0
    """One call of fetch; what was verified stays for the next call."""
    sources: int = 32
    """Sources asked in one fetch, each with a thread and a connection."""
    in_flight: int = 4
    """Shards requested at the same time, each from a source of its own; also the shards held in memory."""
    choices: int = 16
    """Shards that one request names as acceptable; the source picks one."""
    poll_seconds: float = 2.0
    """A source that has nothing new answers after this long."""
    poll_pause: float = 0.1
    """Pause between two questions to one source about what it has."""
    considered: int = 1024
    """Missing shards, in an order of the node's own, among which the rarest are chosen."""
    absent_seconds: float = 0.5
    """Pause before a source that did not have the artifact is asked again."""
    refusals: int = 256
    """Times that a source may not give what it said it has, between two shards that it gave."""
    direct_after: int = 40
    """Refusals by all sources in a row after which a reader insists on one shard, which needs no slot."""
    refusal_pause: float = 0.05
    """Pause after a source gave nothing of what it was asked for."""
    retries: int = 1
    """Fresh connections tried after a source dropped one."""
    strikes: int = 3
    """Lies after which a library no longer asks a source."""

    def at_most(self, length: int) -> Limits:
        """The same, for an artifact of at most ``length`` bytes."""
        return replace(self, artifact_bytes=min(length, self.artifact_bytes))


LIMITS = Limits()
