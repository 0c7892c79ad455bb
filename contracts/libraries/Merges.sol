// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Tasks} from "../Tasks.sol";
import {Exact} from "./Exact.sol";
import {Rounds} from "./Rounds.sol";
import {MergeClaim, Round, Store, Task, Work} from "./Types.sol";

/// The merge of a round: a bonded proposal, refuted by arithmetic or not at all. Runs on the storage of Tasks.
library Merges {
    using SafeCast for uint256;

    uint256 private constant SKIP_AFTER = 4; // windows of aggT without a proposal
    uint256 private constant MERGE = type(uint16).max; // the slot of the pot that holds the bonds

    function propose(Store storage s, Rounds.Where memory here, bytes32 root) external {
        (Task storage t, Round storage rd) = _nextToSettle(s, here);
        _maskFinal(s, here);
        if (rd.merged == 0) revert Tasks.EmptyMask(here.task, here.round);
        if (rd.proposer != address(0)) revert Tasks.ProposalLive(rd.root);
        if (root == 0) revert Tasks.ZeroRoot();
        rd.proposer = msg.sender;
        rd.movedAt = block.timestamp.toUint40();
        rd.root = root;
        emit Tasks.Proposed(here.task, here.round, root, msg.sender);
        here.vault.lock(msg.sender, Rounds.potId(here.task, here.round, MERGE), t.params.aggBond);
    }

    /// Whoever cannot see one lane of the proposal, or of what it was made from, has it shown to the chain.
    function contest(Store storage s, Rounds.Where memory here, uint32 leaf, uint8 lane) external {
        (Task storage t, Round storage rd) = _live(s, here);
        if (rd.contest != 0) revert Tasks.UnderContest(rd.contest);
        Rounds.before(uint256(rd.movedAt) + t.params.aggT);
        if (leaf >= 2 * t.params.length / 1024) revert Tasks.NoSuchLeaf(leaf);
        rd.contest = (leaf << 8 | lane) + 1;
        rd.challenger = msg.sender;
        rd.movedAt = block.timestamp.toUint40();
        emit Tasks.Contested(here.task, here.round, msg.sender, leaf, lane, block.timestamp + t.params.aggT);
        here.vault.lock(msg.sender, Rounds.potId(here.task, here.round, MERGE), t.params.aggBond);
    }

    /// Shows one lane. A wrong one drops the proposal at once; a right one clears the contest that asked for it.
    function prove(Store storage s, Rounds.Where memory here, uint32 leaf, uint8 lane, bytes calldata proof)
        external
    {
        (Task storage t, Round storage rd) = _live(s, here);
        if (!Exact.right(_claim(s, here, t, rd, leaf, lane), proof)) {
            emit Tasks.Refuted(here.task, here.round, leaf, lane, msg.sender);
            return _drop(here, t, rd, rd.contest == 0 ? msg.sender : rd.challenger);
        }
        if (rd.contest != (leaf << 8 | lane) + 1) revert Tasks.NotWrong(leaf, lane);
        emit Tasks.Cleared(here.task, here.round, msg.sender);
        (rd.contest, rd.challenger) = (0, address(0));
        rd.movedAt = block.timestamp.toUint40(); // what was shown can be refuted for a whole window
        here.vault.halve(Rounds.potId(here.task, here.round, MERGE), rd.proposer, t.params.aggBond);
    }

    /// Settles the next round: with the proposal that stood for aggT (I15); or, when there is nothing to merge or nobody
    /// proposed for four times aggT, with the model unchanged (I16). A lane that was not shown in time drops the proposal.
    function advance(Store storage s, Rounds.Where memory here) external {
        (Task storage t, Round storage rd) = _nextToSettle(s, here);
        uint256 due = uint256(rd.movedAt) + t.params.aggT;
        if (rd.proposer == address(0)) {
            due = _maskFinal(s, here);
            if (rd.merged != 0) due = _skipAt(s, here, t, rd, due);
        }
        Rounds.notBefore(due);
        if (rd.contest != 0) return _drop(here, t, rd, rd.challenger);
        _settle(s, here, t, rd);
    }

    function _settle(Store storage s, Rounds.Where memory here, Task storage t, Round storage rd) private {
        address proposer = rd.proposer;
        if (proposer == address(0)) rd.root = Rounds.model(s, here.task);
        rd.movedAt = block.timestamp.toUint40();
        t.settled += 1;
        emit Tasks.Advanced(here.task, here.round, rd.root, Rounds.mask(rd), proposer == address(0));
        if (t.settled == t.params.rounds && !t.closed) {
            t.closed = true;
            emit Tasks.Closed(here.task);
        }
        if (proposer == address(0)) return;
        here.vault.pay(Rounds.potId(here.task, here.round, MERGE), proposer, t.params.aggBond);
        if (t.params.aggReward != 0) here.vault.pay(bytes32(here.task), proposer, t.params.aggReward);
    }

    /// Half of the proposer's bond goes to whoever found the fault, half is burnt (I9).
    function _drop(Rounds.Where memory here, Task storage t, Round storage rd, address finder) private {
        bytes32 pot = Rounds.potId(here.task, here.round, MERGE);
        bool contested = rd.contest != 0;
        (rd.contest, rd.challenger, rd.proposer) = (0, address(0), address(0));
        rd.root = 0;
        rd.movedAt = block.timestamp.toUint40();
        emit Tasks.ProposalDropped(here.task, here.round);
        if (contested) here.vault.pay(pot, finder, t.params.aggBond); // the challenger's own
        here.vault.halve(pot, finder, t.params.aggBond);
    }

    /// What a proof about this lane has to match: the accepted updates by slot, and whether they were late.
    function _claim(
        Store storage s,
        Rounds.Where memory here,
        Task storage t,
        Round storage rd,
        uint32 leaf,
        uint8 lane
    ) private view returns (MergeClaim memory c) {
        (c.terms, c.base, c.proposed) = (t.params, Rounds.model(s, here.task), rd.root);
        (c.leaf, c.lane, c.roots) = (leaf, lane, new bytes32[](rd.merged));
        mapping(uint256 slot => Work) storage works = s.works[here.task][here.round];
        (uint256 mask, uint256 n) = (Rounds.mask(rd), 0);
        for (uint256 slot = 0; n < c.roots.length; slot++) {
            if ((mask >> slot) & 1 == 0) continue;
            if (slot >= rd.claimed) c.late |= 1 << n;
            c.roots[n++] = works[slot].root;
        }
    }

    function _maskFinal(Store storage s, Rounds.Where memory here) private view returns (uint256 since) {
        since = Rounds.maskFinalAt(s, here);
        if (since == 0 || block.timestamp < since) revert Tasks.TooEarly(since);
    }

    function _nextToSettle(Store storage s, Rounds.Where memory here)
        private
        view
        returns (Task storage t, Round storage rd)
    {
        (t, rd) = Rounds.round(s, here);
        if (here.round != t.settled) revert Tasks.NotNext(here.round, t.settled);
    }

    function _live(Store storage s, Rounds.Where memory here)
        private
        view
        returns (Task storage t, Round storage rd)
    {
        (t, rd) = _nextToSettle(s, here);
        if (rd.proposer == address(0)) revert Tasks.NoProposal(here.task, here.round);
    }

    /// The clock of a skip starts when a proposal became possible: mask final, round before settled, last one dropped.
    function _skipAt(
        Store storage s,
        Rounds.Where memory here,
        Task storage t,
        Round storage rd,
        uint256 from
    ) private view returns (uint256) {
        if (rd.movedAt > from) from = rd.movedAt;
        if (here.round > 0) {
            uint40 before = s.rounds[here.task][here.round - 1].movedAt;
            if (before > from) from = before;
        }
        return from + SKIP_AFTER * t.params.aggT;
    }
}
