// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// Who asks the Panel: Tasks about works, Court about disputes.
interface IAsker {
    /// Total function: it takes every vote and never reverts. False: the vote means nothing here.
    function onVote(uint256 poll, uint256 vote) external returns (bool counted);

    /// Pays `owner` for a right vote. For a wrong one it names who gets half of the vote's risk; the rest is burnt.
    function settleVote(uint256 poll, uint256 vote, address owner)
        external
        returns (uint256 paid, address wronged);
}
