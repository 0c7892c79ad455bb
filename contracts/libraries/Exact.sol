// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tree} from "./Tree.sol";
import {DecoyProof, Header, MergeClaim, Opening, Params} from "./Types.sol";

/// Pure integer proofs: what one lane of a merge has to be, and whether a work is the decoy that its secret asked for.
/// Whatever can be shown to this library needs one honest watcher, and no vote.
library Exact {
    int256 internal constant UPDATE_LIMIT = 2 ** 15 - 1;
    uint256 internal constant P = 65_497; // the field of activation proofs
    uint256 private constant PROOF_AT = 40; // where a trajectory's leaf names its activation proof

    error BadOpening(uint256 index);
    error BadProof(uint256 read, uint256 length);

    /// True when lane `c.lane` of leaf `c.leaf` of `c.proposed` is what the rule makes of `c.base` and the updates.
    /// `proof` shows that leaf, the leaf of the same lane of the base's momentum, of its weights (unless the lane is one of
    /// the momentum), and the leaf of each accepted update. A leaf is packed (`Tree.unpack`), with its siblings behind it.
    /// Reverts unless each belongs to the committed artifact of its place.
    function right(MergeClaim memory c, bytes calldata proof) internal view returns (bool) {
        uint256 half = c.terms.length / Tree.LEAF;
        uint256 pos = c.leaf < half ? c.leaf : c.leaf - half;
        uint64 length = 2 * c.terms.length;
        (int256 shown_, uint256 at) = _read(c.proposed, length, c.leaf, c.lane, _start(proof), 0);
        (int256 momentum, int256 weight) = (0, 0);
        (momentum, at) = _read(c.base, length, half + pos, c.lane, at, 1);
        if (c.leaf < half) (weight, at) = _read(c.base, length, pos, c.lane, at, 2);
        int256 g = 0;
        (g, at) = _gradient(c, pos, at);
        if (at != _start(proof) + proof.length) revert BadProof(at - _start(proof), proof.length);
        (int256 next, int256 step) = outer(c.terms, momentum, g);
        return shown_ == saturate(c.leaf < half ? weight - step : next);
    }

    /// What the accepted updates make of the claim's lane.
    function _gradient(MergeClaim memory c, uint256 pos, uint256 at) private view returns (int256, uint256) {
        int256[] memory lanes = new int256[](c.roots.length);
        for (uint256 i = 0; i < lanes.length; i++) {
            int256 x = 0;
            (x, at) = _read(c.roots[i], c.terms.length, pos, c.lane, at, 3 + i);
            lanes[i] = clamped(x, (c.late >> i) & 1 == 1);
        }
        return (gradient(c.terms, lanes), at);
    }

    function _start(bytes calldata proof) private pure returns (uint256 at) {
        assembly ("memory-safe") {
            at := proof.offset
        }
    }

    /// One lane of the packed leaf at place `at` of the call data, which has to be leaf `index` of the named artifact.
    function _read(bytes32 root, uint64 length, uint256 index, uint256 lane_, uint256 at, uint256 place)
        private
        view
        returns (int256 value, uint256 end)
    {
        if (index >= Tree.leaves(length)) revert BadOpening(place);
        (bytes32 hash, bytes4 word, uint256 path) = Tree.unpack(at, lane_);
        bytes32 found = 0;
        (found, end) = Tree.climb(hash, length, index, path);
        if (found != root) revert BadOpening(place);
        value = lane(word);
    }

    function _open(bytes32 root, uint64 length, uint256 index, Opening calldata opening, uint256 place)
        private
        view
    {
        if (!Tree.verify(root, length, index, opening)) revert BadOpening(place);
    }

    /// An update's lane as it counts: 16 bits, and half of it (floor) when late.
    function clamped(int256 x, bool late) internal pure returns (int256) {
        x = x > UPDATE_LIMIT ? UPDATE_LIMIT : x < -UPDATE_LIMIT ? -UPDATE_LIMIT : x;
        return late ? x >> 1 : x;
    }

    /// The int32 in four little-endian bytes.
    function lane(bytes4 word) internal pure returns (int256) {
        uint256 x = uint32(word);
        x = (x >> 24) | ((x >> 8) & 0xff00) | ((x & 0xff00) << 8) | ((x & 0xff) << 24);
        return int32(uint32(x));
    }

    /// floor((sum of the lanes, without the k lowest and k highest) << shift / how many are left), k = n * trim / 100.
    function gradient(Params memory terms, int256[] memory lanes) internal pure returns (int256) {
        uint256 n = lanes.length;
        uint256 k = n * terms.trim / 100;
        if (k != 0) _sort(lanes);
        int256 sum = 0;
        for (uint256 i = k; i < n - k; i++) {
            sum += lanes[i];
        }
        // slither-disable-next-line divide-before-multiply
        return floorDiv(sum << terms.shift, n - 2 * k);
    }

    /// Nesterov momentum with rational coefficients and floor division: the new momentum and the step of the weight.
    function outer(Params memory terms, int256 momentum, int256 g)
        internal
        pure
        returns (int256 next, int256 step)
    {
        int256 num = int256(uint256(terms.momentumNum));
        next = floorDiv(num * momentum, terms.momentumDen) + g;
        int256 ahead = g + floorDiv(num * next, terms.momentumDen);
        step = floorDiv(int256(uint256(terms.lrNum)) * ahead, terms.lrDen);
    }

    /// Division that rounds down, as Python's `//`.
    function floorDiv(int256 a, uint256 b) internal pure returns (int256 q) {
        int256 d = int256(b);
        q = a / d;
        if (a % d < 0) q -= 1;
    }

    function saturate(int256 x) internal pure returns (int256) {
        if (x > type(int32).max) return type(int32).max;
        return x < type(int32).min ? int256(type(int32).min) : x;
    }

    function _sort(int256[] memory a) private pure {
        for (uint256 i = 1; i < a.length; i++) {
            int256 x = a[i];
            uint256 j = i;
            for (; j > 0 && a[j - 1] > x; j--) {
                a[j] = a[j - 1];
            }
            a[j] = x;
        }
    }

    /// The root of a work, which its header opens.
    function rootOf(Header calldata h) public view returns (bytes32) {
        return Tree.rootOf(h);
    }

    /// False when the work has no leaf `index` in tree `tree`; reverts when it has another one there than is shown.
    function shown(Header calldata h, uint8 tree, uint256 index, Opening calldata leaf)
        external
        view
        returns (bool)
    {
        if (tree == 0) return index == 0; // the header itself
        (bytes32 root, uint64 length) = tree == 1
            ? (h.updateRoot, h.updateLength)
            : tree == 2 ? (h.trajRoot, uint64(h.trajCount) * 1024) : (h.stepRoot, uint64(h.stepCount) * 1024);
        if (index >= Tree.leaves(length)) return false;
        _open(root, length, index, leaf, index);
        return true;
    }

    // --------------------------------------------------------------------------------------------- decoys

    /// The lottery: the secret is older than the seed, so its owner can neither choose nor know beforehand.
    function drawn(bytes32 secret, bytes32 seed, uint256 oneIn) internal pure returns (bool) {
        return oneIn != 0 && uint256(sha256(abi.encode(secret, seed))) % oneIn == 0;
    }

    /// The trajectory of item `item` that every seat of a poll has to check.
    function mandatory(bytes32 pollSeed, uint256 item, uint32 count) public pure returns (uint256) {
        return uint256(sha256(abi.encode("mandatory", pollSeed, item))) % count;
    }

    /// The first sixteen coefficients of a decoy's activation proof at trajectory `index`, 2 bytes each, big-endian.
    function noise(bytes32 secret, uint256 index) public pure returns (bytes32 out) {
        uint256 word = uint256(sha256(abi.encode("decoy", secret, index)));
        uint256 made = 0;
        for (uint256 i = 0; i < 256; i += 16) {
            made |= (((word >> i) & 0xffff) % P) << i;
        }
        return bytes32(made);
    }

    /// True when trajectory `index` of the work names an activation proof that begins with its secret's noise.
    function decoy(bytes32 secret, uint256 index, Header calldata h, DecoyProof calldata d)
        external
        view
        returns (bool)
    {
        uint64 length = uint64(h.trajCount) * uint64(Tree.LEAF);
        if (!Tree.verify(h.trajRoot, length, index, d.trajectory)) return false;
        bytes32 root = bytes32(d.trajectory.data[PROOF_AT:PROOF_AT + 32]);
        if (!Tree.verify(root, d.length, 0, d.proof)) return false;
        return bytes32(d.proof.data[2:34]) == noise(secret, index);
    }
}
