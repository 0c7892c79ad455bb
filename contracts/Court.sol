// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Panel} from "./Panel.sol";
import {Tasks} from "./Tasks.sol";
import {Vault} from "./Vault.sol";
import {IAsker} from "./interfaces/IAsker.sol";
import {Exact} from "./libraries/Exact.sol";
import {
    Appeal,
    BURN,
    Dispute,
    Header,
    Params,
    Opening,
    Phase,
    Poll,
    State,
    Votes
} from "./libraries/Types.sol";

/// Decides one small question at a time: is this leaf of this work bad?
/// The accused, or anybody for him, shows the leaf; silence concedes. Then juries of 7, 15, 31 and all seats vote, each drawn
/// afresh and each called by a bond twice as high. A majority decides the pay, two thirds of at least five votes decide the
/// slash, and a jury that says nothing acquits (keeps I6, I8). Leaves without data are SOFT at most: a matter of opinion.
contract Court is IAsker {
    using SafeCast for uint256;

    uint256 public constant MIN_JURY = 5;
    uint8 private constant LAST = 3;

    Vault public immutable vault;
    Panel public immutable panel;
    Tasks public immutable tasks;

    uint256 public disputes;
    mapping(uint256 id => Dispute) private _disputes;
    mapping(uint256 poll => uint256 dispute) public disputeOfPoll;
    /// One dispute per (task, round, slot, tree, leaf); key = keccak256(abi.encode of these).
    mapping(bytes32 key => uint256 dispute) public disputeOf;
    mapping(uint256 id => mapping(uint256 level => Appeal)) private _appeals;

    event Filed(
        uint256 indexed dispute,
        uint256 indexed task,
        uint256 indexed round,
        uint256 slot,
        uint8 tree,
        uint32 leaf
    );
    event Answered(uint256 indexed dispute, address by);
    event Convened(uint256 indexed dispute, uint8 level, uint256 poll);
    event Verdict(
        uint256 indexed dispute, uint8 level, State outcome, uint256 hard, uint256 soft, uint256 innocent
    );
    event Appealed(uint256 indexed dispute, uint8 level, address by, uint256 bond);
    event Ruled(uint256 indexed dispute, State outcome, uint256 guilty, uint256 innocent);

    error NotTasks(address caller);
    error NotPanel(address caller);
    error UnknownDispute(uint256 dispute);
    error WrongPhase(uint256 dispute, Phase phase);
    error StillVoting(uint256 dispute, uint256 until);
    error AnswerOver(uint256 dispute, uint256 until);
    error AppealOver(uint256 dispute, uint256 until);
    error WrongHeader(bytes32 root, bytes32 given);
    error NotRuled(uint256 dispute);

    constructor(Vault vault_, Panel panel_, Tasks tasks_) {
        vault = vault_;
        panel = panel_;
        tasks = tasks_;
    }

    /// Tasks files the accusation that leaf `leaf` of tree `tree` is bad. False: it is known.
    function file(uint256 task, uint256 round, uint256 slot, uint8 tree, uint32 leaf)
        external
        returns (bool)
    {
        if (msg.sender != address(tasks)) revert NotTasks(msg.sender);
        bytes32 key = keccak256(abi.encode(task, round, slot, tree, leaf));
        if (disputeOf[key] != 0) return false;
        uint256 id = ++disputes;
        disputeOf[key] = id;
        Dispute storage d = _disputes[id];
        (d.task, d.round, d.slot) = (task.toUint40(), round.toUint16(), slot.toUint16());
        (d.tree, d.leaf) = (tree, leaf);
        emit Filed(id, task, round, slot, tree, leaf);
        return true;
    }

    /// Anyone answers for the accused by showing the header and the leaf; that calls the first jury. It costs no bond.
    /// An accusation of a leaf that the work does not have is void.
    function answer(uint256 id, Header calldata h, Opening calldata leaf) external {
        Dispute storage d = _in(id, Phase.FILED);
        (bytes32 root, uint256 until) = tasks.accused(d.task, d.round, d.slot);
        if (block.timestamp >= until) revert AnswerOver(id, until);
        bytes32 given = Exact.rootOf(h);
        if (given != root) revert WrongHeader(root, given);
        emit Answered(id, msg.sender);
        if (d.leaf != Votes.WITHHELD && !Exact.shown(h, d.tree, d.leaf, leaf)) {
            (d.phase, d.outcome) = (Phase.RULED, State.VALID);
            return;
        }
        _convene(id, d);
    }

    /// Anyone turns the crank: an accusation that nobody answered is conceded, a jury whose poll is over has ruled, and a
    /// ruling that nobody appealed in time is final.
    function rule(uint256 id) external {
        if (id == 0 || id > disputes) revert UnknownDispute(id);
        Dispute storage d = _disputes[id];
        if (d.phase == Phase.FILED) {
            _concede(id, d);
        } else if (d.phase == Phase.JURY) {
            if (_ruled(id, d)) return;
        } else if (d.phase == Phase.RULED) {
            _due(id, _appealEnd(d));
        } else {
            revert WrongPhase(id, d.phase);
        }
        _end(id, d);
    }

    /// Anyone, bonded, has a ruling judged again by a larger jury. The bond comes back when the outcome changes.
    function appeal(uint256 id) external {
        Dispute storage d = _in(id, Phase.RULED);
        uint256 until = _appealEnd(d);
        if (block.timestamp >= until) revert AppealOver(id, until);
        d.level += 1;
        d.ruledAt = 0;
        _appeals[id][d.level] = Appeal(msg.sender, d.outcome);
        d.outcome = State.NONE;
        uint256 bond = appealBond(id, d.level);
        emit Appealed(id, d.level, msg.sender, bond);
        vault.lock(msg.sender, bytes32(id), bond);
        _convene(id, d);
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

    /// Pays the jurors of the last jury who voted as the dispute ended, from the appeal bonds that were lost.
    function settleVote(uint256 poll, uint256 vote, address owner)
        external
        returns (uint256 paid, address wronged)
    {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        uint256 id = disputeOfPoll[poll];
        Dispute storage d = _disputes[id];
        if (d.phase != Phase.FINAL) revert NotRuled(id);
        uint32 v = Votes.verdict(vote);
        bool counted = Votes.item(vote) == 0 && (v <= 1 || v == Votes.WITHHELD);
        if (!counted || poll != d.poll || (v == 0) != (d.outcome == State.VALID)) return (0, address(0));
        paid = d.share;
        if (paid != 0) vault.pay(bytes32(id), owner, paid);
    }

    function dispute(uint256 id) external view returns (Dispute memory) {
        return _disputes[id];
    }

    function appealOf(uint256 id, uint256 level) external view returns (Appeal memory) {
        return _appeals[id][level];
    }

    /// Expected jurors of a level.
    function want(uint256 level) public pure returns (uint16) {
        return level == LAST ? type(uint16).max : uint16((8 << level) - 1);
    }

    /// What calling the jury of a level costs whoever turns out to be wrong: half a work's bond, doubling.
    function appealBond(uint256 id, uint256 level) public view returns (uint256) {
        return (uint256(_terms(_disputes[id]).bond) << level) / 4;
    }

    function _in(uint256 id, Phase phase) private view returns (Dispute storage d) {
        if (id == 0 || id > disputes) revert UnknownDispute(id);
        d = _disputes[id];
        if (d.phase != phase) revert WrongPhase(id, d.phase);
    }

    function _terms(Dispute storage d) private view returns (Params memory) {
        return tasks.terms(d.task);
    }

    function _convene(uint256 id, Dispute storage d) private {
        Params memory p = _terms(d);
        uint96 risk = d.level == 0 ? 0 : tasks.riskMin();
        uint256 poll = panel.open(p.sealT, p.revealT, want(d.level), risk);
        disputeOfPoll[poll] = id;
        d.poll = poll.toUint32();
        (d.hard, d.soft, d.innocent) = (0, 0, 0);
        d.phase = Phase.JURY;
        emit Convened(id, d.level, poll);
    }

    function _due(uint256 id, uint256 until) private view {
        if (block.timestamp < until) revert StillVoting(id, until);
    }

    function _concede(uint256 id, Dispute storage d) private {
        // slither-disable-next-line unused-return
        (, uint256 until) = tasks.accused(d.task, d.round, d.slot);
        _due(id, until);
        d.outcome = d.leaf == Votes.WITHHELD ? State.SOFT : State.HARD;
    }

    /// Counts the jury. True: its ruling can be appealed.
    function _ruled(uint256 id, Dispute storage d) private returns (bool open) {
        Poll memory p = panel.poll(d.poll);
        _due(id, p.revealEnd);
        (d.phase, d.outcome) = (Phase.RULED, _counted(d));
        emit Verdict(id, d.level, d.outcome, d.hard, d.soft, d.innocent);
        open = d.level < LAST && p.seats > want(d.level);
        if (open) d.ruledAt = block.timestamp.toUint40();
    }

    /// I8: a majority takes the pay, two thirds of at least MIN_JURY votes take the bond, no votes take nothing.
    function _counted(Dispute storage d) private view returns (State) {
        (uint256 hard, uint256 guilty) = (d.hard, uint256(d.hard) + d.soft);
        uint256 all = guilty + d.innocent;
        if (guilty <= d.innocent) return State.VALID;
        bool slash = all >= MIN_JURY && 3 * hard >= 2 * all && d.leaf != Votes.WITHHELD;
        return slash ? State.HARD : State.SOFT;
    }

    function _appealEnd(Dispute storage d) private view returns (uint256) {
        return d.ruledAt == 0 ? 0 : uint256(d.ruledAt) + _terms(d).openT;
    }

    function _end(uint256 id, Dispute storage d) private {
        d.phase = Phase.FINAL;
        uint256 guilty = uint256(d.hard) + d.soft;
        emit Ruled(id, d.outcome, guilty, d.innocent);
        uint256 lost = 0;
        for (uint256 level = 1; level <= d.level; level++) {
            Appeal storage a = _appeals[id][level];
            uint256 bond = appealBond(id, level);
            if (a.against == d.outcome) lost += bond;
            else vault.pay(bytes32(id), a.by, bond); // it changed the outcome
        }
        uint256 jurors = d.outcome == State.VALID ? d.innocent : guilty;
        uint256 share = jurors == 0 ? 0 : lost / 2 / jurors;
        d.share = share.toUint96();
        // Half of the lost appeal bonds is for the jurors who voted as it ended, the rest is burnt (keeps I9).
        // slither-disable-next-line divide-before-multiply
        if (lost != 0) vault.pay(bytes32(id), BURN, lost - share * jurors);
        tasks.resolve(d.task, d.round, d.slot, d.outcome);
    }
}
