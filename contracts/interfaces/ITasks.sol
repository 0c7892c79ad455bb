// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JuryTerms, State} from "../libraries/Types.sol";

/// What the Court uses of Tasks.
interface ITasks {
    function juryTerms(uint256 task) external view returns (JuryTerms memory);
    function accused(uint256 task, uint256 round, uint256 slot)
        external
        view
        returns (bytes32 root, uint256 until);
    function resolve(uint256 task, uint256 round, uint256 slot, State outcome) external;
}
