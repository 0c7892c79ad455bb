// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "./interfaces/ICourt.sol";
import {IAsker, IPanel} from "./interfaces/IPanel.sol";
import {ITasks} from "./interfaces/ITasks.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Beacon} from "./libraries/Beacon.sol";
import {Tree} from "./libraries/Tree.sol";
import {BURN, Cast, Header, Params, Round, State, Task, Votes, Work} from "./libraries/Types.sol";

/// Publishes tasks, leases work, takes submissions, pays, and advances the model.
/// Pots: bytes32(task) holds the publisher's escrow; potId(task, round, slot) holds one lease's bond and, once the work
/// is decided, what its voters earned; potId(task, round, MERGE) holds the bonds around the round's proposal.
/// So a bond never mixes with the escrow (I4, I5) and `reclaim` needs no account of what is still owed to others.
contract Tasks is ITasks, IAsker {
    uint256 public constant MIN_WINDOW = 1 seconds;
    uint256 public constant MAX_WINDOW = 7 days;
    uint256 public constant MERGE = type(uint16).max;
    uint256 private constant MAX_URI = 200;
    uint256 private constant LATE_SHARE = 8; // a lapse costs 1/8 of the bond
    uint256 private constant SKIP_AFTER = 4; // windows of aggT without a proposal

    IVault public immutable vault;
    IPanel public immutable panel;
    ICourt public immutable court;
    uint96 public immutable riskMin;

    uint256 public tasks;
    mapping(uint256 id => Task) private _tasks;
    mapping(uint256 task => mapping(uint256 round => Round)) private _rounds;
    mapping(uint256 task => mapping(uint256 round => mapping(uint256 slot => Work))) private _works;
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
    event Expired(uint256 indexed task, uint256 indexed round, uint256 indexed slot, uint256 lost);
    event Disputed(
        uint256 indexed task,
        uint256 indexed round,
        uint256 indexed slot,
        uint8 tree,
        uint32 leaf,
        uint256 dispute
    );
    event Resolved(
        uint256 indexed task,
        uint256 indexed round,
        uint256 indexed slot,
        State state,
        uint256 paid,
        uint256 lost
    );
    event Proposed(uint256 indexed task, uint256 indexed round, bytes32 root, address by);
    event Contested(uint256 indexed task, uint256 indexed round, address by, uint256 dispute);
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
    error UnderContest(uint256 dispute);
    error NotFinal(uint256 poll, uint256 item);
    error StillRunning(uint256 task, uint256 pending, uint256 settled, uint256 begun);
    error NothingLeft(uint256 task);
    error UriTooLong(uint256 length, uint256 max);

    constructor(IVault vault_, IPanel panel_, ICourt court_, uint96 riskMin_) {
        _range("riskMin", riskMin_, 1, type(uint96).max); // a vote must stake something, else its seat could leave
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
        _checkEconomy(p);
        if (model_ == 0) revert ZeroRoot();
        id = ++tasks;
        Task storage t = _tasks[id];
        t.publisher = msg.sender;
        t.specHash = specHash;
        t.model = model_;
        t.params = p;
        emit Published(id, msg.sender, specHash, model_, p, uri);
        uint256 perRound = uint256(p.slots) * (p.reward + _fee(p.reward, p.feeBps)) + p.aggReward;
        vault.lock(msg.sender, bytes32(id), p.rounds * perRound);
    }

    /// The publisher stops new rounds; rounds that began run to their end.
    function close(uint256 taskId) external {
        Task storage t = _task(taskId);
        if (msg.sender != t.publisher) revert NotPublisher(msg.sender, t.publisher);
        if (t.closed) revert TaskClosed(taskId);
        t.closed = true;
        emit Closed(taskId);
    }

    /// Anyone returns the unused escrow to the publisher once nothing can be paid from it any more (I4, I5).
    function reclaim(uint256 taskId) external {
        Task storage t = _task(taskId);
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
        Task storage t = _task(taskId);
        Round storage rd = _rounds[taskId][r];
        if (r >= t.begun) _begin(taskId, r, t, rd);
        if (rd.trainEnd != 0 || block.timestamp >= rd.claimEnd) revert ClaimOver(taskId, r);
        slot = rd.claimed;
        rd.claimed += 1;
        t.pending += 1;
        Work storage w = _works[taskId][r][slot];
        w.trainer = msg.sender;
        w.state = State.CLAIMED;
        w.seal = seal;
        emit Claimed(taskId, r, slot, msg.sender, seal);
        if (slot + 1 == t.params.slots) _closeClaims(taskId, r, t, rd);
        vault.lock(msg.sender, potId(taskId, r, slot), t.params.bond);
    }

    /// Commits to a work. Its data seed exists by now, its checkers are not drawn yet (I11).
    function submit(uint256 taskId, uint256 r, uint256 slot, bytes32 workRoot) external {
        (Task storage t, Round storage rd, Work storage w) = _at(taskId, r, slot);
        if (msg.sender != w.trainer) revert NotTrainer(msg.sender, w.trainer);
        if (w.state != State.CLAIMED) revert WrongState(w.state);
        if (rd.trainEnd == 0) revert TooEarly(rd.claimEnd);
        if (block.timestamp >= rd.trainEnd) revert TooLate(rd.trainEnd);
        if (workRoot == 0) revert ZeroRoot();
        if (!_draw(taskId, r, rd)) revert Beacon.BeaconMissed(rd.beacon);
        w.state = State.SUBMITTED;
        w.root = workRoot;
        rd.submitted += 1;
        rd.undecided += 1;
        emit Submitted(taskId, r, slot, msg.sender, workRoot);
        if (rd.submitted == rd.claimed) _openPoll(taskId, r, t, rd);
    }

    /// Anyone with the secret opens a work's seal after the votes. A work nobody rejected is paid at once and enters the
    /// mask when enough drawn seats accepted it (I14); a disputed one is only kept from expiring.
    function openSeal(uint256 taskId, uint256 r, uint256 slot, bytes32 secret, Header calldata h) external {
        (Task storage t, Round storage rd, Work storage w) = _at(taskId, r, slot);
        State state = w.state;
        if (w.opened || (state != State.SUBMITTED && state != State.DISPUTED)) revert WrongState(state);
        uint256 openEnd = _revealEnd(rd) + t.params.openT;
        if (block.timestamp >= openEnd) revert TooLate(openEnd);
        _checkOpening(w, secret, h);
        w.opened = true;
        if (state == State.DISPUTED) {
            emit Opened(taskId, r, slot, false, 0);
            return;
        }
        bool included = w.no == 0 && w.yes >= t.params.quorum;
        if (included) rd.mask |= 1 << slot;
        if (w.no == 0) _decide(rd);
        emit Opened(taskId, r, slot, included, t.params.reward);
        _accept(taskId, t, w, potId(taskId, r, slot));
    }

    /// Anyone: a lease that was not submitted, or whose seal was not opened in time, loses 1/8 of its bond (I6).
    function expire(uint256 taskId, uint256 r, uint256 slot) external {
        (Task storage t, Round storage rd, Work storage w) = _at(taskId, r, slot);
        uint256 due;
        if (w.state == State.SUBMITTED) due = _revealEnd(rd) + t.params.openT;
        else if (w.state == State.CLAIMED) due = rd.trainEnd == 0 ? type(uint40).max : rd.trainEnd;
        else revert WrongState(w.state);
        if (block.timestamp < due) revert TooEarly(due);
        _end(t, w, State.EXPIRED);
        uint256 lost = t.params.bond / LATE_SHARE;
        emit Expired(taskId, r, slot, lost);
        bytes32 pot = potId(taskId, r, slot);
        vault.pay(pot, BURN, lost);
        vault.pay(pot, w.trainer, t.params.bond - lost);
    }

    // --------------------------------------------------------------------------------------------- anyone

    /// Turns the crank of a round: closes the claim window, stores the data seed (or fixes a new beacon when the old one
    /// was missed), opens the poll after the training window, or ends a round in which nobody submitted (I16).
    function touch(uint256 taskId, uint256 r) external {
        (Task storage t, Round storage rd) = _roundAt(taskId, r);
        if (rd.poll != 0 || rd.decidedAt != 0) revert NothingDue(taskId, r);
        if (rd.trainEnd == 0) {
            if (block.timestamp < rd.claimEnd) revert TooEarly(rd.claimEnd);
            return _closeClaims(taskId, r, t, rd);
        }
        if (block.timestamp >= rd.trainEnd) {
            if (rd.submitted != 0) return _openPoll(taskId, r, t, rd);
            rd.decidedAt = Cast.u40(block.timestamp);
            emit Checking(taskId, r, 0);
            return;
        }
        if (rd.seed != 0) revert NothingDue(taskId, r);
        if (_draw(taskId, r, rd)) return;
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
        (Task storage t, Round storage rd) = _nextToSettle(taskId, r);
        _requireMaskFinal(t, rd);
        if (rd.mask == 0) revert EmptyMask(taskId, r);
        if (rd.proposer != address(0)) revert ProposalLive(rd.root);
        if (root == 0) revert ZeroRoot();
        rd.proposer = msg.sender;
        rd.movedAt = Cast.u40(block.timestamp);
        rd.root = root;
        emit Proposed(taskId, r, root, msg.sender);
        vault.lock(msg.sender, potId(taskId, r, MERGE), t.params.aggBond);
    }

    /// Anyone, bonded, asks all seats whether the live proposal is wrong.
    function contestMerge(uint256 taskId, uint256 r) external {
        (Task storage t, Round storage rd) = _nextToSettle(taskId, r);
        if (rd.proposer == address(0)) revert NoProposal(taskId, r);
        if (rd.contest != 0) revert UnderContest(rd.contest);
        uint256 until = uint256(rd.movedAt) + t.params.aggT;
        if (block.timestamp >= until) revert TooLate(until);
        vault.lock(msg.sender, potId(taskId, r, MERGE), t.params.aggBond);
        uint256 dispute = court.fileMerge(taskId, r);
        rd.contest = Cast.u32(dispute);
        rd.challenger = msg.sender;
        emit Contested(taskId, r, msg.sender, dispute);
    }

    /// Anyone settles the next round: with the proposal that stood uncontested for aggT (I15), or, when there is nothing
    /// to merge or nobody proposed for four times aggT, with the model unchanged (I16).
    function advance(uint256 taskId, uint256 r) external {
        (Task storage t, Round storage rd) = _nextToSettle(taskId, r);
        address proposer = rd.proposer;
        if (rd.contest != 0) revert UnderContest(rd.contest);
        uint256 due;
        if (proposer != address(0)) {
            due = uint256(rd.movedAt) + t.params.aggT;
        } else {
            due = _requireMaskFinal(t, rd);
            if (rd.mask != 0) due = _skipAt(taskId, r, t, rd, due);
            rd.root = model(taskId);
        }
        if (block.timestamp < due) revert TooEarly(due);
        rd.movedAt = Cast.u40(block.timestamp);
        t.settled += 1;
        emit Advanced(taskId, r, rd.root, rd.mask, proposer == address(0));
        if (t.settled == t.params.rounds && !t.closed) {
            t.closed = true;
            emit Closed(taskId);
        }
        if (proposer == address(0)) return;
        vault.pay(potId(taskId, r, MERGE), proposer, t.params.aggBond);
        _pay(bytes32(taskId), proposer, t.params.aggReward);
    }

    // ----------------------------------------------------------------------------------- siblings: Panel

    /// Counts a vote on a work. Total: it takes every word and never reverts (keeps I18).
    function onVote(uint256 pollId, uint256 vote) external returns (bool counted) {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        (uint256 taskId, uint256 r, Work storage w) = _item(pollId, Votes.item(vote));
        if (w.root == 0) return false;
        uint32 v = Votes.verdict(vote);
        if (v == 0) {
            w.yes += 1;
            return true;
        }
        if (Votes.tree(vote) > Votes.LAST_TREE) return false;
        _reject(taskId, r, w, vote);
        return true;
    }

    /// Pays a right vote from the work's own pot; a wrong reject names the trainer to compensate (keeps I7, I12).
    function settleVote(uint256 pollId, uint256 vote, address owner)
        external
        returns (uint256 paid, address wronged)
    {
        if (msg.sender != address(panel)) revert NotPanel(msg.sender);
        (uint256 taskId, uint256 r, Work storage w) = _item(pollId, Votes.item(vote));
        if (w.root == 0) return (0, address(0));
        State state = w.state;
        if (state < State.VALID) revert NotFinal(pollId, Votes.item(vote));
        Params storage p = _tasks[taskId].params;
        if (Votes.verdict(vote) == 0) {
            if (state == State.VALID) paid = _fee(p.reward, p.feeBps) / w.yes;
        } else if (Votes.tree(vote) <= Votes.LAST_TREE) {
            if (state == State.VALID || state == State.EXPIRED) return (0, w.trainer);
            paid = _fee(p.reward, p.feeBps) / w.no;
            if (state == State.HARD) paid += p.bond / 2 / w.no;
        }
        _pay(potId(taskId, r, Votes.item(vote)), owner, paid);
    }

    function outcome(uint256 pollId, uint256 item) external view returns (bool isFinal, State verdict) {
        (,, Work storage w) = _item(pollId, item);
        return (w.root == 0 || w.state >= State.VALID, w.state);
    }

    // ----------------------------------------------------------------------------------- siblings: Court

    /// One dispute over a work was ruled. Any HARD convicts; else any SOFT; acquitted only when all are ruled.
    function resolve(uint256 taskId, uint256 r, uint256 slot, State outcome_) external {
        if (msg.sender != address(court)) revert NotCourt(msg.sender);
        (Task storage t, Round storage rd, Work storage w) = _at(taskId, r, slot);
        _revealEnd(rd); // no further reject can come
        w.disputes -= 1;
        if (w.state != State.DISPUTED) return; // an earlier HARD ended it
        if (outcome_ == State.SOFT) w.soft = true;
        if (outcome_ != State.HARD && w.disputes != 0) return;
        bytes32 pot = potId(taskId, r, slot);
        if (outcome_ == State.HARD) {
            emit Resolved(taskId, r, slot, State.HARD, 0, t.params.bond);
            _convict(taskId, t, w, pot);
        } else if (w.soft) {
            emit Resolved(taskId, r, slot, State.SOFT, 0, 0);
            _refuse(taskId, t, w, pot);
        } else if (w.opened) {
            emit Resolved(taskId, r, slot, State.VALID, t.params.reward, 0);
            _accept(taskId, t, w, pot);
        } else {
            w.state = State.SUBMITTED; // acquitted, but its seal is still to be opened
            emit Resolved(taskId, r, slot, State.SUBMITTED, 0, 0);
        }
    }

    /// The jury ruled on a contested proposal; the loser's bond goes half to the other side, half is burnt (I9).
    function resolveMerge(uint256 taskId, uint256 r, State outcome_) external {
        if (msg.sender != address(court)) revert NotCourt(msg.sender);
        (Task storage t, Round storage rd) = _roundAt(taskId, r);
        uint256 bond = t.params.aggBond;
        bool dropped = outcome_ != State.VALID;
        address winner = dropped ? rd.challenger : rd.proposer;
        rd.contest = 0;
        rd.challenger = address(0);
        if (dropped) {
            rd.proposer = address(0);
            rd.root = 0;
            rd.movedAt = Cast.u40(block.timestamp);
            emit ProposalDropped(taskId, r);
        }
        bytes32 pot = potId(taskId, r, MERGE);
        vault.pay(pot, BURN, bond - bond / 2);
        vault.pay(pot, winner, dropped ? bond + bond / 2 : bond / 2); // a proposer's own bond waits for `advance`
    }

    // ---------------------------------------------------------------------------------------------- views

    function task(uint256 id) external view returns (Task memory) {
        return _tasks[id];
    }

    function round(uint256 taskId, uint256 r) external view returns (Round memory) {
        return _rounds[taskId][r];
    }

    function work(uint256 taskId, uint256 r, uint256 slot) external view returns (Work memory) {
        return _works[taskId][r][slot];
    }

    /// Works that are not terminal.
    function pending(uint256 taskId) external view returns (uint256) {
        return _tasks[taskId].pending;
    }

    /// The model that the last settled round left.
    function model(uint256 taskId) public view returns (bytes32) {
        Task storage t = _tasks[taskId];
        return t.settled == 0 ? t.model : _rounds[taskId][t.settled - 1].root;
    }

    /// The model that round `r` trains from.
    function base(uint256 taskId, uint256 r) public view returns (bytes32) {
        Task storage t = _task(taskId);
        uint256 lag = t.params.lag;
        if (r < lag) return t.model;
        if (r - lag >= t.settled) revert RoundNotReady(taskId, r);
        return _rounds[taskId][r - lag].root;
    }

    /// When the mask of a round that is being checked is final; 0 while that is not known.
    function maskFinalAt(uint256 taskId, uint256 r) external view returns (uint256) {
        return _maskFinalAt(_tasks[taskId], _rounds[taskId][r]);
    }

    function fee(uint256 taskId) external view returns (uint256) {
        Params storage p = _tasks[taskId].params;
        return _fee(p.reward, p.feeBps);
    }

    /// What each vote on a work of this task stakes.
    function risk(uint256 taskId) external view returns (uint96) {
        Params storage p = _tasks[taskId].params;
        return _risk(p.reward, p.feeBps, p.want);
    }

    function windows(uint256 taskId) external view returns (uint24 sealT, uint24 revealT) {
        Params storage p = _tasks[taskId].params;
        return (p.sealT, p.revealT);
    }

    function potId(uint256 taskId, uint256 r, uint256 slot) public pure returns (bytes32) {
        return keccak256(abi.encode(taskId, r, slot));
    }

    // ------------------------------------------------------------------------------------ internal: rules

    function _range(bytes32 what, uint256 value, uint256 min, uint256 max) private pure {
        if (value < min || value > max) revert OutOfRange(what, value, min, max);
    }

    function _checkEconomy(Params calldata p) private view {
        _range("reward", p.reward, 1, type(uint96).max);
        _range("bond", p.bond, p.reward, type(uint96).max);
        _range("aggReward", p.aggReward, 0, p.reward);
        _range("aggBond", p.aggBond, 1, type(uint96).max);
        _range("slots", p.slots, 1, 256);
        _range("rounds", p.rounds, 1, type(uint16).max);
        _range("feeBps", p.feeBps, 100, 5000);
        _range("want", p.want, 1, type(uint16).max);
        _range("quorum", p.quorum, 1, p.want);
        _range("lag", p.lag, 1, 4);
        _range("decoyOneIn", p.decoyOneIn, 0, 0);
        _range("claimT", p.claimT, MIN_WINDOW, MAX_WINDOW);
        _range("trainT", p.trainT, MIN_WINDOW, MAX_WINDOW);
        _range("sealT", p.sealT, MIN_WINDOW, MAX_WINDOW);
        _range("revealT", p.revealT, MIN_WINDOW, MAX_WINDOW);
        _range("openT", p.openT, MIN_WINDOW, MAX_WINDOW);
        _range("aggT", p.aggT, MIN_WINDOW, MAX_WINDOW);
        _range("risk", _risk(p.reward, p.feeBps, p.want), 1, panel.seatStake() / 16);
    }

    function _fee(uint256 reward, uint256 feeBps) private pure returns (uint256) {
        return reward * feeBps / 10_000;
    }

    function _risk(uint256 reward, uint256 feeBps, uint256 want) private view returns (uint96) {
        uint256 share = 2 * _fee(reward, feeBps) / want;
        return share > riskMin ? Cast.u96(share) : riskMin;
    }

    // ------------------------------------------------------------------------------------ internal: round

    function _task(uint256 id) private view returns (Task storage t) {
        t = _tasks[id];
        if (t.publisher == address(0)) revert UnknownTask(id);
    }

    function _roundAt(uint256 taskId, uint256 r) private view returns (Task storage t, Round storage rd) {
        t = _task(taskId);
        if (r >= t.begun) revert UnknownRound(taskId, r);
        rd = _rounds[taskId][r];
    }

    function _at(uint256 taskId, uint256 r, uint256 slot)
        private
        view
        returns (Task storage t, Round storage rd, Work storage w)
    {
        t = _tasks[taskId];
        rd = _rounds[taskId][r];
        w = _works[taskId][r][slot];
        if (w.state == State.NONE) revert WrongState(State.NONE);
    }

    function _item(uint256 pollId, uint256 item)
        private
        view
        returns (uint256 taskId, uint256 r, Work storage w)
    {
        uint256 ref = _roundOf[pollId];
        (taskId, r) = (ref >> 16, ref & 0xffff);
        w = _works[taskId][r][item];
    }

    function _nextToSettle(uint256 taskId, uint256 r)
        private
        view
        returns (Task storage t, Round storage rd)
    {
        (t, rd) = _roundAt(taskId, r);
        if (r != t.settled) revert NotNext(r, t.settled);
    }

    function _begin(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        if (t.closed) revert TaskClosed(taskId);
        bool ready = r == t.begun && r < t.params.rounds && r < uint256(t.settled) + t.params.lag;
        if (ready && r > 0) {
            Round storage before = _rounds[taskId][r - 1];
            ready = before.poll != 0 || before.decidedAt != 0;
        }
        if (!ready) revert RoundNotReady(taskId, r);
        t.begun += 1;
        rd.claimEnd = Cast.u40(block.timestamp + t.params.claimT);
        emit RoundBegun(taskId, r, base(taskId, r), rd.claimEnd);
    }

    function _closeClaims(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        rd.beacon = Beacon.next();
        rd.trainEnd = Cast.u40(block.timestamp + t.params.trainT);
        emit Drawn(taskId, r, rd.beacon, rd.trainEnd);
    }

    /// Stores the data seed; false when its beacon can no longer be read.
    function _draw(uint256 taskId, uint256 r, Round storage rd) private returns (bool) {
        if (rd.seed != 0) return true;
        bytes32 hash = Beacon.read(rd.beacon);
        if (hash == 0) return false;
        rd.seed = sha256(abi.encode(hash, taskId, r));
        emit Seeded(taskId, r, rd.seed);
        return true;
    }

    function _openPoll(uint256 taskId, uint256 r, Task storage t, Round storage rd) private {
        Params storage p = t.params;
        uint96 stake = _risk(p.reward, p.feeBps, p.want);
        uint256 pollId = panel.open(p.sealT, p.revealT, p.want, stake);
        rd.poll = Cast.u32(pollId);
        _roundOf[pollId] = (taskId << 16) | r;
        emit Checking(taskId, r, pollId);
    }

    /// When the votes on a round's works ended; reverts while they have not.
    function _revealEnd(Round storage rd) private view returns (uint256) {
        if (rd.poll == 0) revert TooEarly(rd.trainEnd);
        (, uint40 revealEnd) = panel.ends(rd.poll);
        if (block.timestamp < revealEnd) revert TooEarly(revealEnd);
        return revealEnd;
    }

    /// One more submitted work has its mask bit fixed.
    function _decide(Round storage rd) private {
        rd.undecided -= 1;
        if (rd.undecided == 0) rd.decidedAt = Cast.u40(block.timestamp);
    }

    function _maskFinalAt(Task storage t, Round storage rd) private view returns (uint256) {
        if (rd.poll == 0) return rd.decidedAt;
        (, uint40 revealEnd) = panel.ends(rd.poll);
        if (rd.undecided != 0) return uint256(revealEnd) + t.params.openT;
        return rd.decidedAt > revealEnd ? rd.decidedAt : revealEnd;
    }

    function _requireMaskFinal(Task storage t, Round storage rd) private view returns (uint256 since) {
        since = _maskFinalAt(t, rd);
        if (since == 0 || block.timestamp < since) revert TooEarly(since);
    }

    /// The clock of a skip starts when a proposal became possible: mask final, round before settled, last one dropped.
    function _skipAt(uint256 taskId, uint256 r, Task storage t, Round storage rd, uint256 from)
        private
        view
        returns (uint256)
    {
        if (rd.movedAt > from) from = rd.movedAt;
        if (r > 0 && _rounds[taskId][r - 1].movedAt > from) from = _rounds[taskId][r - 1].movedAt;
        return from + SKIP_AFTER * t.params.aggT;
    }

    // ------------------------------------------------------------------------------------- internal: work

    function _checkOpening(Work storage w, bytes32 secret, Header calldata h) private view {
        bytes32 seal = sha256(abi.encode(secret, w.trainer));
        if (seal != w.seal) revert WrongSecret(w.seal, seal);
        bytes32 root = Tree.single(abi.encode(h));
        if (root != w.root) revert WrongHeader(w.root, root);
    }

    /// Only reached while the poll's reveal lasts, so the work is SUBMITTED or already DISPUTED.
    function _reject(uint256 taskId, uint256 r, Work storage w, uint256 vote) private {
        uint32 v = Votes.verdict(vote);
        uint256 slot = Votes.item(vote);
        if (w.no == 0) _decide(_rounds[taskId][r]);
        w.no += 1;
        w.state = State.DISPUTED;
        (uint8 tree, uint32 leaf) = v == Votes.WITHHELD ? (0, v) : (Votes.tree(vote), v - 1);
        (uint256 dispute, bool fresh) = court.file(taskId, r, slot, tree, leaf);
        if (!fresh) return;
        w.disputes += 1;
        emit Disputed(taskId, r, slot, tree, leaf, dispute);
    }

    /// Terminal states are terminal, and `pending` counts the others (keeps I13).
    function _end(Task storage t, Work storage w, State state) private {
        w.state = state;
        t.pending -= 1;
    }

    function _accept(uint256 taskId, Task storage t, Work storage w, bytes32 pot) private {
        _end(t, w, State.VALID);
        vault.pay(pot, w.trainer, t.params.bond);
        vault.pay(bytes32(taskId), w.trainer, t.params.reward);
        _fundVotes(taskId, t, pot, w.yes);
    }

    function _refuse(uint256 taskId, Task storage t, Work storage w, bytes32 pot) private {
        _end(t, w, State.SOFT);
        vault.pay(pot, w.trainer, t.params.bond);
        _fundVotes(taskId, t, pot, w.no);
    }

    /// Half of the bond is for the finders, in equal shares; the other half and the dust are burnt (keeps I9).
    function _convict(uint256 taskId, Task storage t, Work storage w, bytes32 pot) private {
        _end(t, w, State.HARD);
        uint256 bond = t.params.bond;
        uint256 finders = w.no;
        vault.pay(pot, BURN, bond - bond / 2 / finders * finders);
        _fundVotes(taskId, t, pot, finders);
    }

    /// Moves the fee of a decided work to the work's pot, in equal shares; the dust stays with the publisher.
    function _fundVotes(uint256 taskId, Task storage t, bytes32 pot, uint256 right) private {
        if (right == 0) return;
        uint256 share = _fee(t.params.reward, t.params.feeBps) / right;
        if (share != 0) vault.shift(bytes32(taskId), address(this), pot, share * right);
    }

    function _pay(bytes32 pot, address to, uint256 amount) private {
        if (amount != 0) vault.pay(pot, to, amount);
    }
}
