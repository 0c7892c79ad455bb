// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Tasks} from "../Tasks.sol";
import {Panel} from "../Panel.sol";
import {Rounds} from "./Rounds.sol";
import {Params, Store, Task} from "./Types.sol";

/// What a task may promise: the inequalities that make honesty the best answer, checked before anything is locked.
/// Twin of `commonweight.core.economics`.
library Terms {
    using SafeCast for uint256;

    uint256 internal constant MIN_WINDOW = 1 seconds;
    uint256 internal constant MAX_WINDOW = 7 days;
    uint256 internal constant VOTES_PER_SEAT = 16; // votes that one seat's stake backs at once
    uint256 internal constant LATE_SHARE = 8; // a lapse costs 1/8 of the bond
    uint256 internal constant MAX_LEAVES = 2 ** 24 - 2; // of a version, so that a contest fits into 32 bits

    /// Freezes a task and locks the most that all its rounds can cost; reverts with what is out of its range.
    function publish(
        Store storage s,
        Rounds.Where memory here,
        uint96 riskMin,
        Params calldata p,
        bytes32 specHash,
        bytes32 model,
        string calldata uri
    ) external {
        _amounts(p, riskMin, here.panel);
        _counts(p);
        _windows(p, here.panel);
        _merge(p);
        if (model == 0) revert Tasks.ZeroRoot();
        Task storage t = s.tasks[here.task];
        (t.publisher, t.model, t.params) = (msg.sender, model, p);
        emit Tasks.Published(here.task, msg.sender, specHash, model, p, uri);
        here.vault.lock(msg.sender, bytes32(here.task), budget(p));
    }

    function budget(Params calldata p) internal pure returns (uint256) {
        return p.rounds * (uint256(p.slots) * (p.reward + fee(p.reward, p.feeBps)) + p.aggReward);
    }

    function fee(uint256 reward, uint256 feeBps) internal pure returns (uint256) {
        return reward * feeBps / 10_000;
    }

    /// What a vote stakes: with decoys, being lazy costs twice the fee it saves; without, twice a full share of it.
    function risk(Params storage p, uint96 riskMin) internal view returns (uint96) {
        return _risk(fee(p.reward, p.feeBps), p.decoyOneIn, p.want, riskMin);
    }

    function _risk(uint256 fee_, uint256 oneIn, uint256 want, uint96 riskMin) private pure returns (uint96) {
        uint256 share = 2 * fee_ * (oneIn == 0 ? 1 : oneIn) / want;
        return share > riskMin ? share.toUint96() : riskMin;
    }

    function range(bytes32 what, uint256 value, uint256 min, uint256 max) internal pure {
        if (value < min || value > max) revert Tasks.OutOfRange(what, value, min, max);
    }

    function _amounts(Params calldata p, uint96 riskMin, Panel panel) private view {
        range("reward", p.reward, 1, type(uint96).max);
        range("want", p.want, 1, type(uint16).max);
        // A cheat with half of all seats hostile is seen with 1 - exp(-0.4 want); exp(x) - 1 >= x + x^2 / 2.
        uint256 odds = 10 * uint256(p.want) + 2 * uint256(p.want) * p.want;
        uint256 least = (25 * uint256(p.reward) + odds - 1) / odds;
        range("bond", p.bond, least > p.reward ? least : p.reward, type(uint96).max);
        range("aggReward", p.aggReward, 0, p.reward);
        range("aggBond", p.aggBond, 1, type(uint96).max);
        range("feeBps", p.feeBps, 100, 5000);
        // Who drops every lease that is no decoy must lose: bond / 8 * (D - 1) > reward, and bond >= reward.
        if (p.decoyOneIn != 0) range("decoyOneIn", p.decoyOneIn, 10, 4096);
        uint256 stake = _risk(fee(p.reward, p.feeBps), p.decoyOneIn, p.want, riskMin);
        range("risk", stake, 1, panel.seatStake() / VOTES_PER_SEAT);
    }

    function _counts(Params calldata p) private pure {
        range("slots", p.slots, 1, 256);
        range("rounds", p.rounds, 1, type(uint16).max);
        range("quorum", p.quorum, 1, p.want);
        range("lag", p.lag, 1, 4);
    }

    /// A stake outlives twice the votes it backs and the four juries that may follow.
    function _windows(Params calldata p, Panel panel) private view {
        range("claimT", p.claimT, MIN_WINDOW, MAX_WINDOW);
        range("trainT", p.trainT, MIN_WINDOW, MAX_WINDOW);
        range("sealT", p.sealT, MIN_WINDOW, MAX_WINDOW);
        range("revealT", p.revealT, MIN_WINDOW, MAX_WINDOW);
        range("openT", p.openT, MIN_WINDOW, MAX_WINDOW);
        range("aggT", p.aggT, MIN_WINDOW, MAX_WINDOW);
        range("exitDelay", panel.exitDelay(), 10 * (uint256(p.sealT) + p.revealT + p.openT), type(uint40).max);
    }

    function _merge(Params calldata p) private pure {
        range("length", p.length % 1024, 0, 0);
        range("length", p.length / 1024, 1, MAX_LEAVES / 2);
        range("shift", p.shift, 0, 24);
        range("trim", p.trim, 0, 49);
        range("lrDen", p.lrDen, 1, type(uint16).max);
        range("momentumDen", p.momentumDen, 1, type(uint16).max);
        range("momentumNum", p.momentumNum, 0, p.momentumDen);
    }
}
