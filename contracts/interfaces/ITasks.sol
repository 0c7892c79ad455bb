// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {State} from "../libraries/Types.sol";

/// What the Court uses of Tasks.
interface ITasks {
    function windows(uint256 task) external view returns (uint24 sealT, uint24 revealT);
    function resolve(uint256 task, uint256 round, uint256 slot, State outcome) external;
    function resolveMerge(uint256 task, uint256 round, State outcome) external;
}
