// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// A seed is the hash of one block that did not exist when what it judges was fixed (keeps I11).
/// Nobody chooses the block: if its hash is not used within 256 blocks, the next caller fixes a new one.
library Beacon {
    using SafeCast for uint256;

    error SeedNotReady(uint256 beacon);
    error BeaconMissed(uint256 beacon);

    function next() internal view returns (uint40) {
        return (block.number + 1).toUint40();
    }

    /// The beacon's hash, or 0 when it can no longer be read.
    function read(uint256 beacon) internal view returns (bytes32) {
        if (block.number <= beacon) revert SeedNotReady(beacon);
        return blockhash(beacon);
    }
}
