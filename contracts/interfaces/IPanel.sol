// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {State} from "../libraries/Types.sol";

/// What the modules use of the Panel.
interface IPanel {
    function seatStake() external view returns (uint96);
    function exitDelay() external view returns (uint40);
    function open(uint24 sealT, uint24 revealT, uint16 want, uint96 risk) external returns (uint256 poll);
    function ends(uint256 poll) external view returns (uint40 sealEnd, uint40 revealEnd);
    function seatsAt(uint256 poll) external view returns (uint24);
    function seedOf(uint256 poll) external view returns (bytes32);
}

/// Who asks the Panel: Tasks about works, Court about disputes.
interface IAsker {
    /// Total function: it takes every vote and never reverts. False: the vote means nothing here.
    function onVote(uint256 poll, uint256 vote) external returns (bool counted);

    /// Pays `owner` for a right vote. For a wrong one it names who gets half of the vote's risk; the rest is burnt.
    function settleVote(uint256 poll, uint256 vote, address owner)
        external
        returns (uint256 paid, address wronged);

    function outcome(uint256 poll, uint256 item) external view returns (bool isFinal, State verdict);
}
