"""The update of a work as a checker makes it again, from where training ended.

With a codec in the spec, the lanes are what the wire bytes decode to, and what the codec dropped is added to the same
trainer's later work. A checker needs no trust for that: the earlier work is one that the chain accepted, and it named
its residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import codec, fixed, merkle
from ..core.errors import EncodingError
from ..core.fixed import Lanes
from ..core.works import META_BYTES, NONE, TREE_HEADER, TREE_UPDATE, Header, Meta
from ..shardcast.packing import Packed, pack_update
from .lease import update_lanes
from .opening import Case, Fault, require

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Update:
    """A committed update beside the right one, which was made from the committed end state."""

    case: Case
    header: Header
    meta: Meta
    right: Packed
    count: int
    ends: str = "the end state"

    @staticmethod
    def of(case: Case, header: Header, meta: Meta, trained: Floats) -> Update:
        """Make it again. A `Fault` when the residual that it claims to carry is none, or nothing can be made."""
        spec, count = case.spec, trained.shape[-1]
        try:
            carried = _carried(case, meta, count)
            lanes = update_lanes(spec, case.base, trained)
            right = pack_update(spec.merge.codec, lanes, carried)
        except EncodingError as error:
            raise Fault(TREE_UPDATE, 0, f"malformed update: {error.message}") from error
        machines = trained.size // count
        ends = "the end state" if machines == 1 else f"the {machines} machines' end states"
        return Update(case, header, meta, right, count, ends)

    def check_lanes(self, only: int | None = None) -> None:
        """The lanes are exactly the right ones (in leaf ``only``, if given), and can be had by who merges them."""
        case, root, size = self.case, self.header.update_root, 4 * fixed.padded(self.count)
        if self.right.wire and only is None and root == merkle.root(self.right.lanes):
            self._require_served()
        else:
            try:
                update = fixed.decode_update(case.read(root, size, TREE_UPDATE, 0), self.count)
            except EncodingError as error:
                raise Fault(TREE_UPDATE, 0, f"malformed update: {error.message}") from error
            wrong = (update != self._lanes()).nonzero()[0] // fixed.LANES_PER_LEAF
            if wrong.size and (only is None or only in wrong):
                leaf = int(wrong[0]) if only is None else only
                raise Fault(TREE_UPDATE, leaf, f"the update is not the one of {self.ends}")
        case.evidence["update_lanes"] += self.count

    def check_names(self) -> None:
        """The meta record names the right wire form and residual."""
        for named, right, what in (
            (self.meta.wire, self.right.wire, "wire form"),
            (self.meta.residual, self.right.residual, "residual"),
        ):
            require(named == (merkle.root(right) if right else NONE), f"the work names another {what}")

    def _lanes(self) -> Lanes:
        return fixed.decode_update(self.right.lanes, self.count)

    def _require_served(self) -> None:
        """Whoever merges fetches the wire form. Another one under its name is the fault of `check_names`."""
        if self.meta.wire == merkle.root(self.right.wire):
            self.case.read(self.meta.wire, len(self.right.wire), TREE_HEADER, 0)


def _carried(case: Case, meta: Meta, count: int) -> Lanes | None:
    """The residual of the earlier work that this one names."""
    if meta.previous == NONE:
        return None
    try:
        header = Header.decode(case.read(meta.previous, merkle.LEAF, TREE_HEADER, 0))
        before = codec.decode(Meta, case.read(header.meta_root, META_BYTES, TREE_HEADER, 0))
        require(before.residual != NONE, "the earlier work left no residual")
        return fixed.from_bytes(case.read(before.residual, 4 * fixed.padded(count), TREE_HEADER, 0), count)
    except EncodingError as error:
        raise Fault(TREE_HEADER, 0, f"malformed residual: {error.message}") from error
