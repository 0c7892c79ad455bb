// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Opening} from "./Types.sol";

/// The one Merkle tree: SHA-256, 1 KiB leaves, an odd last node is promoted, the root binds the byte length.
library Tree {
    uint256 internal constant LEAF = 1024;

    error BadLeafSize(uint256 size);

    function leafHash(bytes memory data) internal pure returns (bytes32) {
        if (data.length != LEAF) revert BadLeafSize(data.length);
        return sha256(bytes.concat(hex"00", data));
    }

    function rootHash(uint64 length, bytes32 top) internal pure returns (bytes32) {
        return sha256(bytes.concat(hex"02", bytes8(length), top));
    }

    /// Root of an artifact that fits in one leaf.
    function single(bytes memory artifact) internal pure returns (bytes32) {
        uint256 length = artifact.length;
        if (length == 0 || length > LEAF) revert BadLeafSize(length);
        return rootHash(uint64(length), leafHash(bytes.concat(artifact, new bytes(LEAF - length))));
    }

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
        uint256 width = leaves(length);
        if (index >= width || data.length != LEAF) return false;
        bytes32 top = _leaf(data);
        uint256 used = 0;
        for (; width > 1; width = (width + 1) >> 1) {
            if (index & 1 == 1 || index + 1 < width) {
                if (used == path.length) return false;
                bytes32 sibling = path[used++];
                top = index & 1 == 1 ? _node(sibling, top) : _node(top, sibling);
            }
            index >>= 1;
        }
        return used == path.length && rootHash(length, top) == root;
    }

    /// The hash of a leaf in calldata. Uses memory behind the free pointer without keeping it.
    function _leaf(bytes calldata data) private view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 0)
            calldatacopy(add(spot, 1), data.offset, 1024)
            if iszero(staticcall(gas(), 2, spot, 1025, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }

    function _node(bytes32 left, bytes32 right) private view returns (bytes32 hash) {
        assembly ("memory-safe") {
            let spot := mload(0x40)
            mstore8(spot, 1)
            mstore(add(spot, 1), left)
            mstore(add(spot, 33), right)
            if iszero(staticcall(gas(), 2, spot, 65, 0, 32)) { revert(0, 0) }
            hash := mload(0)
        }
    }
}
