// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Beacon} from "../../contracts/libraries/Beacon.sol";
import {Tree} from "../../contracts/libraries/Tree.sol";
import {Opening, Votes} from "../../contracts/libraries/Types.sol";
import {Base, Trees} from "./Base.sol";

contract Libraries {
    function verify(bytes32 root, uint64 length, uint256 index, Opening calldata opening)
        external
        view
        returns (bool)
    {
        return Tree.verify(root, length, index, opening);
    }

    function read(uint256 beacon) external view returns (bytes32) {
        return Beacon.read(beacon);
    }
}

/// Tree against vectors written by Python and against a slow recursive reference; the other libraries' edges.
contract TreeTest is Base {
    Libraries private libraries = new Libraries();

    function test_python_vectors() external view {
        string memory json = vm.readFile("tests/vectors/tree.json");
        uint256 n = 0;
        for (; vm.keyExistsJson(json, _key(n, "")); n++) {
            bytes32 root = bytes32(vm.parseBytes(vm.parseJsonString(json, _key(n, ".root"))));
            uint64 length = uint64(vm.parseJsonUint(json, _key(n, ".length")));
            uint256 index = vm.parseJsonUint(json, _key(n, ".index"));
            bytes memory leaf = vm.parseBytes(vm.parseJsonString(json, _key(n, ".leaf")));
            string[] memory texts = vm.parseJsonStringArray(json, _key(n, ".proof"));
            bytes32[] memory proof = new bytes32[](texts.length);
            for (uint256 i = 0; i < texts.length; i++) {
                proof[i] = bytes32(vm.parseBytes(texts[i]));
            }
            ok(_verify(root, length, index, leaf, proof), "a Python proof holds");
            ok(!_verify(root, length + 1, index, leaf, proof), "the root binds the length");
            leaf[0] ^= 0x01;
            ok(!_verify(root, length, index, leaf, proof), "another leaf does not");
        }
        ok(n >= 5, "vectors were read");
    }

    function test_every_leaf_of_every_small_tree() external view {
        for (uint256 n = 1; n <= 19; n++) {
            bytes[] memory leaves = _leaves(n);
            bytes32 root = Trees.rootHash(uint64(n * 1024), _top(leaves, 0, n));
            for (uint256 i = 0; i < n; i++) {
                bytes32[] memory proof = _proof(leaves, i);
                ok(_verify(root, uint64(n * 1024), i, leaves[i], proof), "opens");
                ok(!_verify(root, uint64(n * 1024), n, leaves[i], proof), "index beyond the end");
                ok(!_verify(root, uint64(n * 1024), i, leaves[i], _longer(proof)), "proof too long");
                if (proof.length != 0) {
                    ok(!_verify(root, uint64(n * 1024), i, leaves[i], _shorter(proof)), "proof too short");
                }
                if (i > 0) {
                    ok(!_verify(root, uint64(n * 1024), i - 1, leaves[i], proof), "another place");
                }
            }
        }
    }

    function test_single_is_the_tree_of_one_padded_leaf() external view {
        bytes memory artifact = new bytes(224);
        artifact[5] = 0x77;
        bytes memory padded = new bytes(1024);
        padded[5] = 0x77;
        ok(_verify(Trees.single(artifact), 224, 0, padded, new bytes32[](0)), "single");
        ok(!_verify(Trees.single(artifact), 224, 0, artifact, new bytes32[](0)), "a leaf is 1024 bytes");
        ok(!_verify(Trees.single(artifact), 0, 0, padded, new bytes32[](0)), "no empty artifact");
    }

    function test_vote_word() external pure {
        uint256 vote = word(300, 2, 7);
        eq(Votes.item(vote), 300, "item");
        eq(Votes.tree(vote), 2, "tree");
        eq(Votes.verdict(vote), 7, "verdict");
    }

    function test_beacon_edges() external {
        vm.expectRevert(err(Beacon.SeedNotReady.selector, block.number));
        libraries.read(block.number);
        ok(libraries.read(block.number - 1) != 0, "the last block");
        ok(libraries.read(block.number - 256) != 0, "256 blocks back");
        eq(libraries.read(block.number - 257), 0, "too old");
    }

    function _verify(bytes32 root, uint64 length, uint256 i, bytes memory data, bytes32[] memory path)
        private
        view
        returns (bool)
    {
        return libraries.verify(root, length, i, Opening(data, path));
    }

    function _key(uint256 n, string memory field) private pure returns (string memory) {
        return string.concat("$[", vm.toString(n), "]", field);
    }

    function _leaves(uint256 n) private pure returns (bytes[] memory leaves) {
        leaves = new bytes[](n);
        for (uint256 i = 0; i < n; i++) {
            leaves[i] = new bytes(1024);
            leaves[i][i] = 0x11;
        }
    }

    /// RFC 6962 shape, said differently: split at the largest power of two below n.
    function _top(bytes[] memory leaves, uint256 from, uint256 to) private pure returns (bytes32) {
        if (to - from == 1) return sha256(abi.encodePacked(hex"00", leaves[from]));
        uint256 half = _split(to - from);
        return
            sha256(abi.encodePacked(hex"01", _top(leaves, from, from + half), _top(leaves, from + half, to)));
    }

    function _split(uint256 n) private pure returns (uint256 half) {
        half = 1;
        while (half * 2 < n) half *= 2;
    }

    function _proof(bytes[] memory leaves, uint256 index) private pure returns (bytes32[] memory proof) {
        bytes32[] memory down = new bytes32[](8);
        uint256 n = 0;
        (uint256 from, uint256 to) = (0, leaves.length);
        while (to - from > 1) {
            uint256 middle = from + _split(to - from);
            if (index < middle) (down[n++], to) = (_top(leaves, middle, to), middle);
            else (down[n++], from) = (_top(leaves, from, middle), middle);
        }
        proof = new bytes32[](n);
        for (uint256 i = 0; i < n; i++) {
            proof[i] = down[n - 1 - i];
        }
    }

    function _longer(bytes32[] memory proof) private pure returns (bytes32[] memory more) {
        more = new bytes32[](proof.length + 1);
        for (uint256 i = 0; i < proof.length; i++) {
            more[i] = proof[i];
        }
    }

    function _shorter(bytes32[] memory proof) private pure returns (bytes32[] memory less) {
        less = new bytes32[](proof.length - 1);
        for (uint256 i = 0; i < less.length; i++) {
            less[i] = proof[i];
        }
    }
}
