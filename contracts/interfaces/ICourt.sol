// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// What Tasks uses of the Court.
interface ICourt {
    function file(uint256 task, uint256 round, uint256 slot, uint8 tree, uint32 leaf)
        external
        returns (uint256 dispute, bool fresh);
}
