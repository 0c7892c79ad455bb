// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Court} from "./Court.sol";
import {Panel} from "./Panel.sol";
import {Vault} from "./Vault.sol";
import {IAsker} from "./interfaces/IAsker.sol";
import {Beacon} from "./libraries/Beacon.sol";
import {Leases} from "./libraries/Leases.sol";
import {Merges} from "./libraries/Merges.sol";
import {Rounds} from "./libraries/Rounds.sol";
import {Terms} from "./libraries/Terms.sol";
import {
    BURN,
    DecoyProof,
    Header,
    Params,
    Round,
    State,
    Store,
    Task,
    Votes,
    Work
} from "./libraries/Types.sol";

/// Publishes tasks, leases work, takes submissions, pays, and advances the model.
/// Pots: bytes32(task) holds the publisher's escrow; potId(task, round, slot) holds one lease's bond and, once the work
/// is decided, what its voters earned; potId(task, round, MERGE) holds the bonds around the round's proposal.
/// So a bond never mixes with the escrow (I4, I5) and `reclaim` needs no account of what is still owed to others.
contract Tasks is IAsker {
    using SafeCast for uint256;

    uint256 public constant MERGE = type(uint16).max;
    uint256 public constant MAX_MERGE = 64; // works of a mask, so that one transaction can refute a merge
    uint256 private constant MAX_URI = 200;

    Vault public immutable vault;
    Panel public immutable panel;
    Court public immutable court;
    uint96 public immutable riskMin;

    uint256 public tasks;
    Store private _s;
    mapping(uint256 poll => uint256 ref) private _roundOf; // task << 16 | round

    event Published(
        uint256 indexed task,
        address indexed publisher,
        bytes32 specHash,
        bytes32 model,
        Params params,
        string uri
    );
    event RoundBegun(uint256 indexed task, uint256 indexed round, bytes32 base, uint40 claimEnd);
    event Claimed(
        uint256 indexed task, uint256 indexed round, uint256 indexed slot, address trainer, bytes32 seal
    );
    event Drawn(uint256 indexed task, uint256 indexed round, uint40 beacon, uint40 trainEnd);
    event Seeded(uint256 indexed task, uint256 indexed round, bytes32 seed);
    event Submitted(
        uint256 indexed task, uint256 indexed round, uint256 indexed slot, address trainer, bytes32 root
    );
    event Checking(uint256 indexed task, uint256 indexed round, uint256 poll);
    event Opened(
        uint256 indexed task, uint256 indexed round, uint256 indexed slot, bool included, uint256 paid
    );
    event Decoyed(uint256 indexed task, uint256 indexed round, uint256 indexed slot, uint256 index);
    event Relinquished(uint256 indexed task, uint256 indexed round, uint256 indexed slot);
    event Deferred(uint256 indexed task, uint256 indexed round, uint256 indexed slot, uint256 until);
    event Late(uint256 indexed task, uint256 indexed round, uint256 indexed slot, uint256 place);
    event Expired(uint256 indexed task, uint256 indexed round, uint256 indexed slot, uint256 lost);
    event Resolved(
        uint256 indexed task,
        uint256 indexed round,
        uint256 indexed slot,
        State state,
        uint256 paid,
        uint256 lost
    );
    event Proposed(uint256 indexed task, uint256 indexed round, bytes32 root, address by);
    event Contested(
        uint256 indexed task, uint256 indexed round, address by, uint32 leaf, uint8 lane, uint256 until
    );
    event Cleared(uint256 indexed task, uint256 indexed round, address by);
    event Refuted(uint256 indexed task, uint256 indexed round, uint32 leaf, uint8 lane, address by);
    event ProposalDropped(uint256 indexed task, uint256 indexed round);
    event Advanced(uint256 indexed task, uint256 indexed round, bytes32 model, uint256 mask, bool skipped);
    event Closed(uint256 indexed task);
    event Reclaimed(uint256 indexed task, uint256 amount);
    event Endpoint(address indexed who, string uri);

    error OutOfRange(bytes32 what, uint256 value, uint256 min, uint256 max);
    error UnknownTask(uint256 task);
    error UnknownRound(uint256 task, uint256 round);
    error NotPublisher(address caller, address publisher);
    error NotTrainer(address caller, address trainer);
    error NotPanel(address caller);
    error NotCourt(address caller);
    error TaskClosed(uint256 task);
    error RoundNotReady(uint256 task, uint256 round);
    error ClaimOver(uint256 task, uint256 round);
    error WrongState(State state);
    error TooEarly(uint256 until);
    error TooLate(uint256 since);
    error NothingDue(uint256 task, uint256 round);
    error ZeroRoot();
    error WrongSecret(bytes32 seal, bytes32 given);
    error WrongHeader(bytes32 root, bytes32 given);
    error NotNext(uint256 round, uint256 settled);
    error EmptyMask(uint256 task, uint256 round);
    error ProposalLive(bytes32 root);
    error NoProposal(uint256 task, uint256 round);
    error UnderContest(uint256 contest);
    error NoSuchLeaf(uint256 leaf);
    error NotWrong(uint256 leaf, uint256 lane);
    error DecoyDue(uint256 task, uint256 round, uint256 slot);
    error WrongDecoy(uint256 index);
    error NoRoom(uint256 task, uint256 round);
    error NotFinal(uint256 poll, uint256 item);
    error StillRunning(uint256 task, uint256 pending, uint256 settled, uint256 begun);
    error NothingLeft(uint256 task);
    error UriTooLong(uint256 length, uint256 max);

    constructor(Vault vault_, Panel panel_, Court court_, uint96 riskMin_) {
        Terms.range("riskMin", riskMin_, 1, type(uint96).max); // a vote must stake something, else its seat could leave
        vault = vault_;
        panel = panel_;
        court = court_;
        riskMin = riskMin_;
    }

    // ------------------------------------------------------------------------------------------ publisher

    /// Freezes a task and locks its whole budget (I4, I20).
    function publish(Params calldata p, bytes32 specHash, bytes32 model_, string calldata uri)
        external
        returns (uint256 id)
    {
        id = ++tasks;
        Terms.publish(_s, _at(id, 0), riskMin, p, specHash, model_, uri);
    }

    /// The publisher stops new rounds; rounds that began run to their end.
    function close(uint256 taskId) external {
        Task storage t = Rounds.task(_s, taskId);
        if (msg.sender != t.publisher) revert NotPublisher(msg.sender, t.publisher);
        if (t.closed) revert TaskClosed(taskId);
        t.closed = true;
        emit Closed(taskId);
    }

    /// Anyone returns the unused escrow to the publisher once nothing can be paid from it any more (I4, I5).
    function reclaim(uint256 taskId) external {
        Task storage t = Rounds.task(_s, taskId);
        if (!t.closed || t.pending != 0 || t.settled != t.begun) {
            revert StillRunning(taskId, t.pending, t.settled, t.begun);
        }
        uint256 rest = vault.pot(address(this), bytes32(taskId));
        if (rest == 0) revert NothingLeft(taskId);
        emit Reclaimed(taskId, rest);
        vault.pay(bytes32(taskId), t.publisher, rest);
    }

    // -------------------------------------------------------------------------------------------- trainer

    /// Takes the next lease of round `r`, bonded; the first claim begins the round.
    /// seal = sha256(abi.encode(secret, trainer))
    function claim(uint256 taskId, uint256 r, bytes32 seal) external returns (uint256 slot) {
        Task storage t = Rounds.task(_s, taskId);
        Round storage rd = _s.rounds[taskId][r];
        if (r >= t.begun) _begin(taskId, r, t, rd);
        if (rd.trainEnd != 0 || block.timestamp >= rd.claimEnd) revert ClaimOver(taskId, r);
        slot = rd.claimed;
        rd.claimed += 1;
        t.pending += 1;
        Work storage w = _s.works[taskId][r][slot];
        w.trainer = msg.sender;
        w.state = State.CLAIMED;
        w.seal = seal;
        emit Claimed(taskId, r, slot, msg.sender, seal);
        if (rd.claimed - rd.gone == t.params.slots) _closeClaims(taskId, r, t, rd);
        vault.lock(msg.sender, Rounds.potId(taskId, r, slot), t.params.bond);
    }

    /// The trainer gives a lease back at no cost, in the first half of the claim window, so that others can take its place.
    function relinquish(uint256 taskId, uint256 r, uint256 slot) external {
        Leases.relinquish(_s, _at(taskId, r), slot);
    }

    /// Commits to a work. Its data seed exists by now, its checkers are not drawn yet (I11).
    function submit(uint256 taskId, uint256 r, uint256 slot, bytes32 workRoot) external {
        Rounds.Where memory here = _at(taskId, r);
        (Task storage t, Round storage rd, Work storage w) = Rounds.leased(_s, here, slot);
        if (rd.trainEnd == 0) revert TooEarly(rd.claimEnd);
        Rounds.before(rd.trainEnd);
        if (workRoot == 0) revert ZeroRoot();
        if (!Rounds.draw(here, rd)) revert Beacon.BeaconMissed(rd.beacon);
        Rounds.submit(here, slot, rd, w, workRoot);
        rd.submitted += 1;
        if (uint256(rd.submitted) + rd.gone == rd.claimed) _openPoll(taskId, r, t, rd);
    }

    /// A trainer who will be late says so while the round trains: his lease expires one claim and one training window
    /// later, and until then his work can enter the next round.
    function defer(uint256 taskId, uint256 r, uint256 slot) external {
        Leases.defer(_s, _at(taskId, r), slot);
    }

    /// A late work enters the next round while that one trains, bond and all: its update counts half (a right shift), and
    /// so does its reward. It is still judged by the terms of the round that leased it. Returns its new slot.
    function submitLate(uint256 taskId, uint256 r, uint256 slot, bytes32 workRoot)
        external
        returns (uint256)
    {
        return Leases.submitLate(_s, _at(taskId, r), slot, workRoot);
    }

    /// Anyone with the secret opens a work's seal after the votes. A work nobody rejected is paid at once and enters the
    /// mask when enough drawn seats accepted it (I14); a disputed one is only kept from expiring.
    function openSeal(uint256 taskId, uint256 r, uint256 slot, bytes32 secret, Header calldata h) external {
        Rounds.Where memory here = _at(taskId, r);
        (Task storage t, Round storage rd, Work storage w) = Rounds.opened(_s, here, slot, secret, h);
        if (Leases.isDecoy(_s, here, slot, secret)) revert DecoyDue(taskId, r, slot);
        if (w.state == State.DISPUTED) {
            emit Opened(taskId, r, slot, false, 0);
            return;
        }
        bool included = w.no == 0 && w.yes >= t.params.quorum && rd.merged < MAX_MERGE
            && h.updateLength == t.params.length;
        if (included) {
            (rd.unmerged, rd.merged) = (rd.unmerged & ~(1 << slot), rd.merged + 1);
            w.root = h.updateRoot;
        }
        if (w.no == 0) Rounds.decide(rd);
        uint256 reward = Rounds.reward(t, rd, slot);
        emit Opened(taskId, r, slot, included, reward);
        Rounds.finish(t, w, State.VALID);
        Rounds.accept(here, t, w, slot, reward, w.yes);
    }

    /// Opens the seal of a work that its secret made a decoy: it is paid like any other, never merged, and shows that
    /// whoever accepted it did not look (I10). It needs no jury, whatever the votes were.
    function openDecoy(
        uint256 taskId,
        uint256 r,
        uint256 slot,
        bytes32 secret,
        Header calldata h,
        DecoyProof calldata proof
    ) external {
        Leases.openDecoy(_s, _at(taskId, r), slot, secret, h, proof);
    }

    /// Anyone: a lease that was not submitted, or whose seal was not opened in time, loses 1/8 of its bond (I6).
    function expire(uint256 taskId, uint256 r, uint256 slot) external {
        Leases.expire(_s, _at(taskId, r), slot);
    }

    // --------------------------------------------------------------------------------------------- anyone

    /// Turns the crank of a round: closes the claim window, stores the data seed (or fixes a new beacon when the old one
    /// was missed), opens the poll after the training window, or ends a round in which nobody submitted (I16).
    function touch(uint256 taskId, uint256 r) external {
        Rounds.Where memory here = _at(taskId, r);
        (Task storage t, Round storage rd) = Rounds.round(_s, here);
        if (rd.poll != 0 || rd.decidedAt != 0) revert NothingDue(taskId, r);
        if (rd.trainEnd == 0) {
            Rounds.notBefore(rd.claimEnd);
            return _closeClaims(taskId, r, t, rd);
        }
        if (block.timestamp >= rd.trainEnd) {
            if (rd.submitted + rd.late != 0) return _openPoll(taskId, r, t, rd);
            rd.decidedAt = block.timestamp.toUint40();
            emit Checking(taskId, r, 0);
            return;
        }
        if (rd.seed != 0) revert NothingDue(taskId, r);
        if (Rounds.draw(here, rd)) return;
        rd.beacon = Beacon.next();
        emit Drawn(taskId, r, rd.beacon, rd.trainEnd);
    }

    /// Publishes the caller's HTTP endpoint; the event is all there is.
    function announce(string calldata uri) external {
        if (bytes(uri).length > MAX_URI) revert UriTooLong(bytes(uri).length, MAX_URI);
        emit Endpoint(msg.sender, uri);
    }

    // ---------------------------------------------------------------------------------------------- merge

    /// Anyone proposes the merge of a round's mask, bonded.
    function propose(uint256 taskId, uint256 r, bytes32 root) external {
        Merges.propose(_s, _at(taskId, r), root);
    }

    /// Anyone, bonded, demands that lane `lane` of leaf `leaf` of the live proposal be shown, which `proveMerge` does.
    function contestMerge(uint256 taskId, uint256 r, uint32 leaf, uint8 lane) external {
        Merges.contest(_s, _at(taskId, r), leaf, lane);
    }

    /// Anyone shows one lane of the live proposal and what it was made from. A wrong one drops the proposal, and half of its
    /// bond goes to the finder; a right one answers a contest.
    function proveMerge(uint256 taskId, uint256 r, uint32 leaf, uint8 lane, bytes calldata proof) external {
        Merges.prove(_s, _at(taskId, r), leaf, lane, proof);
    }

    /// Anyone settles the next round, or drops a proposal whose contested lane nobody showed in time (I15, I16).
    function advance(uint256 taskId, uint256 r) external {
        Merges.advance(_s, _at(taskId, r));
    }

    // ----------------------------------------------------------------------------------- siblings: Panel

    /// Counts a vote on a work. Total: it takes every word and never reverts (keeps I18).
    function onVote(uint256 pollId, uint256 vote) external returns (bool counted) {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        (uint256 taskId, uint256 r, Work storage w) = _item(pollId, Votes.item(vote));
        if (w.root == 0) return false;
        if (Votes.verdict(vote) == 0) {
            w.yes += 1;
            return true;
        }
        if (Votes.tree(vote) > Votes.LAST_TREE) return false;
        _reject(taskId, r, w, vote);
        return true;
    }

    /// Pays a right vote from the work's own pot (keeps I12).
    function settleVote(uint256 pollId, uint256 vote, address owner)
        external
        returns (uint256 paid, address wronged)
    {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        (uint256 taskId, uint256 r, Work storage w) = _item(pollId, Votes.item(vote));
        if (w.root == 0) return (0, address(0));
        if (w.state < State.VALID) revert NotFinal(pollId, Votes.item(vote));
        (paid, wronged) = _earned(_s.tasks[taskId].params, w, vote);
        if (paid != 0) vault.pay(Rounds.potId(taskId, r, Votes.item(vote)), owner, paid);
    }

    // ----------------------------------------------------------------------------------- siblings: Court

    /// One dispute over a work was ruled.
    function resolve(uint256 taskId, uint256 r, uint256 slot, State outcome_) external {
        if (msg.sender != address(court)) revert NotCourt(msg.sender);
        Leases.resolve(_s, _at(taskId, r), slot, outcome_);
    }

    // ---------------------------------------------------------------------------------------------- views

    function task(uint256 id) external view returns (Task memory) {
        return _s.tasks[id];
    }

    function round(uint256 taskId, uint256 r) external view returns (Round memory) {
        return _s.rounds[taskId][r];
    }

    function work(uint256 taskId, uint256 r, uint256 slot) external view returns (Work memory) {
        return _s.works[taskId][r][slot];
    }

    function lateness(bytes32 pot) external view returns (uint256) {
        return _s.lateness[pot];
    }

    /// The model that the last settled round left.
    function model(uint256 taskId) external view returns (bytes32) {
        return Rounds.model(_s, taskId);
    }

    /// The model that round `r` trains from.
    function base(uint256 taskId, uint256 r) public view returns (bytes32) {
        Task storage t = Rounds.task(_s, taskId);
        uint256 lag = t.params.lag;
        if (r < lag) return t.model;
        if (r - lag >= t.settled) revert RoundNotReady(taskId, r);
        return _s.rounds[taskId][r - lag].root;
    }

    /// When the mask of a round that is being checked is final; 0 while that is not known.
    function maskFinalAt(uint256 taskId, uint256 r) external view returns (uint256) {
        return Rounds.maskFinalAt(_s, _at(taskId, r));
    }

    /// What each vote on a work of this task stakes.
    function risk(uint256 taskId) external view returns (uint96) {
        return Terms.risk(_s.tasks[taskId].params, riskMin);
    }

    function terms(uint256 taskId) external view returns (Params memory) {
        return _s.tasks[taskId].params;
    }

    /// The root of an accused work, and when its time to answer is over.
    function accused(uint256 taskId, uint256 r, uint256 slot) external view returns (bytes32, uint256) {
        // slither-disable-next-line unused-return
        (, uint40 revealEnd) = panel.ends(_s.rounds[taskId][r].poll);
        uint256 until = uint256(revealEnd) + _s.tasks[taskId].params.openT;
        return (_s.works[taskId][r][slot].root, until);
    }

    // ------------------------------------------------------------------------------------------ internals

    function _at(uint256 taskId, uint256 r) private view returns (Rounds.Where memory) {
        return Rounds.Where(vault, panel, taskId, r);
    }

    function _item(uint256 pollId, uint256 item)
        private
        view
        returns (uint256 taskId, uint256 r, Work storage w)
    {
        uint256 ref = _roundOf[pollId];
        (taskId, r) = (ref >> 16, ref & 0xffff);
        w = _s.works[taskId][r][item];
    }

    /// What a vote on a decided work is paid. A wrong reject compensates the trainer, and whoever accepted a decoy loses
    /// his risk to nobody (keeps I7).
    function _earned(Params storage p, Work storage w, uint256 vote)
        private
        view
        returns (uint256 paid, address wronged)
    {
        uint256 fee = Terms.fee(p.reward, p.feeBps);
        State state = w.state;
        if (Votes.verdict(vote) == 0) {
            if (state == State.DECOY) return (0, BURN);
            return (state == State.VALID ? fee / w.yes : 0, address(0));
        }
        if (Votes.tree(vote) > Votes.LAST_TREE) return (0, address(0));
        if (state == State.VALID || state == State.EXPIRED) return (0, w.trainer);
        return ((state == State.HARD ? fee / w.no + p.bond / 2 / w.no : fee / w.no), address(0));
    }

    function _begin(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        if (t.closed) revert TaskClosed(taskId);
        bool ready = r == t.begun && r < t.params.rounds && r < uint256(t.settled) + t.params.lag;
        if (ready && r > 0) {
            Round storage before = _s.rounds[taskId][r - 1];
            ready = before.poll != 0 || before.decidedAt != 0;
        }
        if (!ready) revert RoundNotReady(taskId, r);
        t.begun += 1;
        rd.claimEnd = (block.timestamp + t.params.claimT).toUint40();
        emit RoundBegun(taskId, r, base(taskId, r), rd.claimEnd);
    }

    function _closeClaims(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        rd.beacon = Beacon.next();
        rd.trainEnd = (block.timestamp + t.params.trainT).toUint40();
        emit Drawn(taskId, r, rd.beacon, rd.trainEnd);
    }

    function _openPoll(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        Params storage p = t.params;
        uint256 pollId = panel.open(p.sealT, p.revealT, p.want, Terms.risk(p, riskMin));
        (rd.poll, rd.unmerged) = (pollId.toUint32(), type(uint256).max);
        _roundOf[pollId] = (taskId << 16) | r;
        emit Checking(taskId, r, pollId);
    }

    /// Only reached while the poll's reveal lasts, so the work is SUBMITTED or already DISPUTED.
    function _reject(uint256 taskId, uint256 r, Work storage w, uint256 vote) private {
        uint32 v = Votes.verdict(vote);
        uint256 slot = Votes.item(vote);
        if (w.no == 0) Rounds.decide(_s.rounds[taskId][r]);
        w.no += 1;
        w.state = State.DISPUTED;
        (uint8 tree, uint32 leaf) = v == Votes.WITHHELD ? (0, v) : (Votes.tree(vote), v - 1);
        if (court.file(taskId, r, slot, tree, leaf)) w.disputes += 1;
    }
}
