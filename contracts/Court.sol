// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "./interfaces/ICourt.sol";
import {IAsker, IPanel} from "./interfaces/IPanel.sol";
import {ITasks} from "./interfaces/ITasks.sol";
import {Cast, Dispute, State, Votes} from "./libraries/Types.sol";

/// Decides one small question at a time: is this leaf of this work bad, is this merge wrong?
/// A guilty verdict needs a strict majority of ALL seats, so silence acquits (keeps I6).
/// Jurors stake and earn nothing here; a leaf without data can at most be SOFT, because that is a matter of opinion.
contract Court is ICourt, IAsker {
    IPanel public immutable panel;
    ITasks public immutable tasks;

    uint256 public disputes;
    mapping(uint256 id => Dispute) private _disputes;
    mapping(uint256 poll => uint256 dispute) public disputeOfPoll;
    /// One dispute per (task, round, slot, tree, leaf); key = keccak256(abi.encode of these).
    mapping(bytes32 key => uint256 dispute) public disputeOf;

    event Filed(
        uint256 indexed dispute,
        uint256 indexed task,
        uint256 indexed round,
        uint256 slot,
        uint8 tree,
        uint32 leaf,
        uint256 poll
    );
    event Ruled(uint256 indexed dispute, State outcome, uint256 guilty, uint256 innocent);

    error NotTasks(address caller);
    error NotPanel(address caller);
    error UnknownDispute(uint256 dispute);
    error AlreadyRuled(uint256 dispute, State outcome);
    error StillVoting(uint256 dispute, uint40 revealEnd);
    error NotRuled(uint256 dispute);

    constructor(IPanel panel_, ITasks tasks_) {
        panel = panel_;
        tasks = tasks_;
    }

    /// Tasks files the accusation that leaf `leaf` of tree `tree` is bad. A known accusation is not filed again.
    function file(uint256 task, uint256 round, uint256 slot, uint8 tree, uint32 leaf)
        external
        returns (uint256 id, bool fresh)
    {
        _onlyTasks();
        bytes32 key = keccak256(abi.encode(task, round, slot, tree, leaf));
        id = disputeOf[key];
        if (id != 0) return (id, false);
        id = _open(task, round, slot, tree, leaf, false);
        disputeOf[key] = id;
        return (id, true);
    }

    /// Tasks files the accusation that the round's proposal is not the merge of its mask.
    function fileMerge(uint256 task, uint256 round) external returns (uint256 id) {
        _onlyTasks();
        return _open(task, round, 0, 0, 0, true);
    }

    /// Anyone, once the jury's poll is over (and, for a work, the poll that accused it).
    function rule(uint256 id) external {
        Dispute storage d = _disputes[id];
        if (d.poll == 0) revert UnknownDispute(id);
        if (d.outcome != State.NONE) revert AlreadyRuled(id, d.outcome);
        (, uint40 revealEnd) = panel.ends(d.poll);
        if (block.timestamp < revealEnd) revert StillVoting(id, revealEnd);
        uint256 guilty = uint256(d.hard) + d.soft;
        State outcome_ = State.VALID;
        if (2 * guilty > panel.seatsAt(d.poll)) outcome_ = d.hard >= d.soft ? State.HARD : State.SOFT;
        if (outcome_ == State.HARD && !d.merge && d.leaf == Votes.WITHHELD) outcome_ = State.SOFT;
        d.outcome = outcome_;
        emit Ruled(id, outcome_, guilty, d.innocent);
        if (d.merge) tasks.resolveMerge(d.task, d.round, outcome_);
        else tasks.resolve(d.task, d.round, d.slot, outcome_);
    }

    /// Counts a juror's vote. Total (keeps I18).
    function onVote(uint256 poll, uint256 vote) external returns (bool counted) {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        Dispute storage d = _disputes[disputeOfPoll[poll]];
        uint32 v = Votes.verdict(vote);
        if (Votes.item(vote) != 0) return false;
        if (v == 0) d.innocent += 1;
        else if (v == 1) d.hard += 1;
        else if (v == Votes.WITHHELD) d.soft += 1;
        else return false;
        return true;
    }

    /// Jurors neither earn nor lose in this version.
    function settleVote(uint256 poll, uint256, address)
        external
        view
        returns (uint256 paid, address wronged)
    {
        uint256 id = disputeOfPoll[poll];
        if (_disputes[id].outcome == State.NONE) revert NotRuled(id);
        return (0, address(0));
    }

    function outcome(uint256 poll, uint256) external view returns (bool isFinal, State verdict) {
        verdict = _disputes[disputeOfPoll[poll]].outcome;
        return (verdict != State.NONE, verdict);
    }

    function dispute(uint256 id) external view returns (Dispute memory) {
        return _disputes[id];
    }

    function _open(uint256 task, uint256 round, uint256 slot, uint8 tree, uint32 leaf, bool merge)
        private
        returns (uint256 id)
    {
        (uint24 sealT, uint24 revealT) = tasks.windows(task);
        uint256 poll = panel.open(sealT, revealT, type(uint16).max, 0);
        id = ++disputes;
        disputeOfPoll[poll] = id;
        Dispute storage d = _disputes[id];
        d.task = Cast.u40(task);
        d.round = Cast.u16(round);
        d.slot = Cast.u16(slot);
        d.tree = tree;
        d.leaf = leaf;
        d.poll = Cast.u32(poll);
        d.merge = merge;
        emit Filed(id, task, round, slot, tree, leaf, poll);
    }

    function _onlyTasks() private view {
        if (msg.sender != address(tasks)) revert NotTasks(msg.sender);
    }
}
