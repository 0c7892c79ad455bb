"""The runs of each section: one list per row of the table in docs/diloco.md."""

from __future__ import annotations

from tests.attackers import ATTACKS

from .cases import Case

# The best outer step of a scan; AdamW's is the default of `Case`.
MUON = {"optimizer": "muon", "lr": 10, "momentum": 5}
WIDE = {"up": "2bit:4096", "down": "int4:4096"}
NARROW = {"up": "2bit:4096", "down": "2bit:4096"}
GOSSIP = {"kind": "gossip", "up": "int4:1024"}
SHORT = {"steps_divisor": 2}

HEADLINE = [
    Case("quality", "data parallel, AdamW", "ddp"),
    Case("quality", "DiLoCo fp16 (OpenDiLoCo)", up="fp16", down="fp16"),
    Case("quality", "DiLoCo int8 (INTELLECT-1)", up="int8:4096", down="int8:4096"),
    Case(
        "quality",
        "DiLoCo int8, outer 0.7/0.9 as published",
        up="int8:4096",
        down="int8:4096",
        lr=7,
        momentum=9,
    ),
    Case("quality", "2-bit up, 4-bit down", **WIDE),
    Case("quality", "2-bit up, 4-bit down, Muon", **MUON, **WIDE),
    Case("quality", "2-bit both ways, Muon", **MUON, **NARROW),
    Case("quality", "expander, int4", topology="expander", **GOSSIP),
]

QUALITY = [
    *HEADLINE,
    Case("quality", "data parallel, Muon", "ddp", optimizer="muon"),
    Case("quality", "no exchange", "isolated"),
    Case("quality", "DiLoCo fp16, Muon", **MUON, up="fp16", down="fp16"),
    Case("quality", "2-bit both ways", **NARROW),
    Case(
        "quality", "top-k 64/4096, H/2", up="topk:64/4096", down="int4:4096", lr=10, momentum=0, decay=243,
        steps_divisor=2,
    ),
    Case("quality", "ring, int4", topology="ring", **GOSSIP),
    Case("quality", "small-world, int4", topology="small-world", **GOSSIP),
    Case("quality", "expander, int4, Muon", topology="expander", **MUON, **GOSSIP),
]  # fmt: skip

ASYNCHRONY = [
    Case("asynchrony", "lockstep", pace="lockstep"),
    Case("asynchrony", "deadline, token weights", pace="deadline", jitter=0.1),
    Case("asynchrony", "dynamic local steps", pace="dynamic", jitter=0.1),
    Case(
        "asynchrony",
        "dynamic local steps, expander int4",
        pace="dynamic",
        jitter=0.1,
        topology="expander",
        **GOSSIP,
    ),
    Case("asynchrony", "Nesterov per arrival (naive)", "arrivals", policy="naive", lr=7, momentum=9),
    Case("asynchrony", "delayed Nesterov, staleness weights", "arrivals", policy="delayed", lr=7, momentum=9),
    Case(
        "asynchrony",
        "quorum of 4, staleness weights",
        "arrivals",
        policy="buffered",
        quorum=4,
        lr=7,
        momentum=3,
    ),
]

STATE = [
    Case("state", "carried", **WIDE),
    Case("state", "fresh every round", carry=False, **WIDE),
    Case("state", "carried, one joiner without moments", joiner=True, **WIDE),
]

FAULTS = [
    Case("faults", "cohort, nobody lost", **MUON, **WIDE),
    Case("faults", "cohort, 2 of 8 lost each round", **MUON, drop=2, **WIDE),
    Case("faults", "expander, nobody lost", topology="expander", **GOSSIP),
    Case("faults", "expander, 2 of 8 lost each round", topology="expander", drop=2, **GOSSIP),
]

RULES = ("mean", "clip-cosine", "trimmed-mean", "median", "norm-clip")
BYZANTINE = [
    *[Case("byzantine", f"clean, {rule}", aggregator=rule, **SHORT, **WIDE) for rule in ("mean", "clip-cosine")],
    *[
        Case("byzantine", f"{attack}, {rule}", aggregator=rule, attack=attack, attackers=2, **SHORT, **WIDE)
        for rule in RULES
        for attack in ATTACKS
    ],
    # The default profile has Muon inside.
    *[
        Case("byzantine", f"Muon clean, {rule}", aggregator=rule, **MUON, **SHORT, **WIDE)
        for rule in ("mean", "clip-cosine")
    ],
    *[
        Case("byzantine", f"Muon {attack}, {rule}", aggregator=rule, attack=attack, attackers=2,
             **MUON, **SHORT, **WIDE)
        for attack in ("sign flip", "sign flip x2") for rule in ("mean", "clip-cosine")
    ],
    Case("byzantine", "expander clean, guard and clip", topology="expander", clip=True, **SHORT, **GOSSIP),
    *[
        Case(
            "byzantine", f"expander {attack}, {'guard and clip' if safe else 'no defence'}", topology="expander",
            attack=attack, attackers=1, guard=safe, clip=safe, **SHORT, **GOSSIP,
        )
        for attack, safe in (("sign flip", False), *((a, True) for a in ATTACKS))
    ],
]  # fmt: skip

SECTIONS = {
    "quality": QUALITY,
    "asynchrony": ASYNCHRONY,
    "state": STATE,
    "faults": FAULTS,
    "byzantine": BYZANTINE,
}
