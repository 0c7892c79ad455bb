// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// The one Merkle tree: SHA-256, 1 KiB leaves, an odd last node is promoted, the root binds the byte length.
library Tree {
    uint256 internal constant LEAF = 1024;

    error BadLeafSize(uint256 size);

    function leafHash(bytes memory data) internal pure returns (bytes32) {
        if (data.length != LEAF) revert BadLeafSize(data.length);
        return sha256(bytes.concat(hex"00", data));
    }

    function nodeHash(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return sha256(bytes.concat(hex"01", left, right));
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

    /// True when `data` is leaf `index` of the artifact of `length` bytes named by `root`.
    function verify(bytes32 root, uint64 length, uint256 index, bytes memory data, bytes32[] memory proof)
        internal
        pure
        returns (bool)
    {
        uint256 width = (uint256(length) + LEAF - 1) / LEAF;
        if (index >= width || data.length != LEAF) return false;
        bytes32 top = leafHash(data);
        uint256 used = 0;
        for (; width > 1; width = (width + 1) >> 1) {
            if (index & 1 == 1 || index + 1 < width) {
                if (used == proof.length) return false;
                bytes32 sibling = proof[used++];
                top = index & 1 == 1 ? nodeHash(sibling, top) : nodeHash(top, sibling);
            }
            index >>= 1;
        }
        return used == proof.length && rootHash(length, top) == root;
    }
}
