// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Header, Opening} from "./Types.sol";

/// The one Merkle tree: SHA-256, 1 KiB leaves, an odd last node is promoted, the root binds the byte length.
library Tree {
    uint256 internal constant LEAF = 1024;

    error BadLeafBits(uint256 bits);

    function leaves(uint64 length) internal pure returns (uint256) {
        return (uint256(length) + LEAF - 1) / LEAF;
    }

    /// True when `opening` is leaf `index` of the artifact of `length` bytes named by `root`.
    function verify(bytes32 root, uint64 length, uint256 index, Opening calldata opening)
        internal
        view
        returns (bool)
    {
        bytes calldata data = opening.data;
        bytes32[] calldata path = opening.path;
        if (index >= leaves(length) || data.length != LEAF) return false;
        (uint256 at, uint256 start) = (0, 0);
        assembly {
            at := data.offset
            start := path.offset
        }
        (bytes32 found, uint256 end) = climb(_leaf(at), length, index, start);
        return end == start + 32 * path.length && found == root;
    }

    /// The root of the artifact of `length` bytes whose leaf `index` has the hash `top`, by the siblings that stand from
    /// place `at` of the call data on, and where they end.
    function climb(bytes32 top, uint64 length, uint256 index, uint256 at)
        internal
        view
        returns (bytes32, uint256)
    {
        uint256 width = leaves(length);
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 1)
            let first := add(spot, 1)
            for {} gt(width, 1) { width := shr(1, add(width, 1)) } {
                let side := shl(5, and(index, 1))
                if or(side, lt(add(index, 1), width)) {
                    mstore(add(first, side), top)
                    mstore(add(first, sub(32, side)), calldataload(at))
                    at := add(at, 32)
                    if iszero(staticcall(gas(), 2, spot, 65, 0, 32)) { revert(0, 0) }
                    top := mload(0)
                }
                index := shr(1, index)
            }
        }
        return (_bound(length, top), at);
    }

    /// The hash of the leaf of 256 int32 lanes that stands packed at place `at` of the call data, the four bytes of its lane
    /// `lane`, and where it ends. The first byte is how many bits a lane has. Eight lanes are as many bytes, most
    /// significant first, each lane plus half of its range; lanes of 32 bits are the leaf as it is.
    function unpack(uint256 at, uint256 lane) internal view returns (bytes32 hash, bytes4 word, uint256 end) {
        uint256 bits = 0;
        uint256 spot = 0;
        assembly ("memory-safe") {
            spot := mload(0x40)
            bits := byte(0, calldataload(at))
            at := add(at, 1)
            mstore8(spot, 0)
        }
        if (bits > 32) revert BadLeafBits(bits);
        if (bits == 32) return _lane(_leaf(at), spot, lane, at + LEAF);
        _spread(bits, at, spot + 1);
        assembly ("memory-safe") {
            if iszero(staticcall(gas(), 2, spot, 1025, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
        return _lane(hash, spot, lane, at + 32 * bits);
    }

    function _lane(bytes32 hash, uint256 spot, uint256 lane, uint256 end)
        private
        pure
        returns (bytes32, bytes4 word, uint256)
    {
        assembly ("memory-safe") {
            word := shl(224, shr(224, mload(add(add(spot, 1), shl(2, lane)))))
        }
        return (hash, word, end);
    }

    /// Writes 256 lanes of `bits` < 32 bits from `out` on as little-endian int32: eight at once in the cells of a word.
    function _spread(uint256 bits, uint256 at, uint256 out) private pure {
        assembly ("memory-safe") {
            let end := add(out, 1024)
            let unread := sub(256, shl(3, bits))
            let all := not(0)
            let mask := not(shl(bits, all)) // a lane; the lower four lanes of eight, then two of four, then one of two:
            let four := not(shl(shl(2, bits), all))
            let two := mul(not(shl(shl(1, bits), all)), 0x100000000000000000000000000000001)
            let upperTwo := shl(shl(1, bits), two)
            let one := mul(mask, 0x1000000000000000100000000000000010000000000000001)
            let upperOne := shl(bits, one)
            let bias :=
                mul(sub(mask, shr(1, mask)), 0x100000001000000010000000100000001000000010000000100000001)
            for {} lt(out, end) {} {
                let x := shr(unread, calldataload(at))
                at := add(at, bits)
                x := or(shl(128, shr(shl(2, bits), x)), and(x, four))
                x := or(shl(sub(64, shl(1, bits)), and(x, upperTwo)), and(x, two))
                x := or(shl(sub(32, bits), and(x, upperOne)), and(x, one))
                x := xor(
                    sub(or(x, 0x8000000080000000800000008000000080000000800000008000000080000000), bias),
                    0x8000000080000000800000008000000080000000800000008000000080000000
                )
                x := or(
                    shl(8, and(x, 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff)),
                    and(shr(8, x), 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff)
                )
                x := or(
                    shl(16, and(x, 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff)),
                    and(shr(16, x), 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff)
                )
                mstore(out, x)
                out := add(out, 32)
            }
        }
    }

    /// A work's root: that of the artifact abi.encode(h), without moving memory.
    function rootOf(Header calldata h) internal view returns (bytes32) {
        bytes32 top;
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 0)
            calldatacopy(add(spot, 1), h, 224)
            calldatacopy(add(spot, 225), calldatasize(), 800) // zeros
            if iszero(staticcall(gas(), 2, spot, 1025, 0, 32)) { revert(0, 0) }
            top := mload(0)
        }
        return _bound(224, top);
    }

    /// The root of an artifact: its length and the top of its tree.
    function _bound(uint64 length, bytes32 top) private view returns (bytes32 root) {
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 2)
            mstore(add(spot, 1), shl(192, length))
            mstore(add(spot, 9), top)
            if iszero(staticcall(gas(), 2, spot, 41, 0, 32)) { revert(0, 0) }
            root := mload(0)
        }
    }

    /// The hash of the leaf at place `at` of the call data, which it leaves behind the free pointer.
    function _leaf(uint256 at) private view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 0)
            calldatacopy(add(spot, 1), at, 1024)
            if iszero(staticcall(gas(), 2, spot, 1025, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }
}
