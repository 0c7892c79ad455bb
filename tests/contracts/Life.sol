// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Protocol} from "../../contracts/Protocol.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {TestToken} from "../../contracts/TestToken.sol";
import {Vault} from "../../contracts/Vault.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {
    BURN,
    DecoyProof,
    Dispute,
    Header,
    Opening,
    Params,
    Phase,
    Poll,
    Round,
    Seat,
    State,
    Task,
    Votes,
    Work
} from "../../contracts/libraries/Types.sol";
import {Base, MergeProof, MergeRule, Packed, Trees} from "./Base.sol";

/// A guided life of the whole protocol: at each step it lists every move that the rules permit now, by its own reading
/// of the rules, and makes one of them, drawn from a random number; sometimes nothing is done and time passes.
/// No move may revert: a revert means that this reading and the contracts disagree. `finish` plays strangers only.
contract Life is Base {
    enum Kind {
        PUBLISH,
        CLOSE,
        RECLAIM,
        CLAIM,
        SUBMIT,
        OPEN,
        DECOY,
        RELINQUISH,
        DEFER,
        LATE,
        EXPIRE,
        TOUCH,
        PROPOSE,
        CONTEST,
        PROVE,
        ADVANCE,
        SIT,
        EXIT,
        LEAVE,
        TOP_UP,
        SEED,
        SEAL,
        LEAK,
        REVEAL,
        SETTLE,
        FORFEIT,
        ANSWER,
        APPEAL,
        RULE,
        DEPOSIT,
        WITHDRAW,
        ANNOUNCE,
        WAIT,
        MINE
    }

    /// What was reached; `reached` is asserted to be complete by the tests.
    enum Mark {
        WORK_CLAIMED,
        WORK_SUBMITTED,
        WORK_DISPUTED,
        WORK_VALID,
        WORK_SOFT,
        WORK_HARD,
        WORK_EXPIRED,
        WORK_DECOY,
        DECOY_ACCUSED,
        RELINQUISHED,
        DEFERRED,
        ENTERED_LATE,
        LATE_PAID,
        LATE_MERGED,
        EXPIRED_UNSUBMITTED,
        EXPIRED_UNOPENED,
        ACQUITTED_OPENED,
        ACQUITTED_UNOPENED,
        DISPUTE_VALID,
        DISPUTE_SOFT,
        DISPUTE_HARD,
        DISPUTE_CONCEDED,
        DISPUTE_VOID,
        JURY_HARD,
        APPEAL_WON,
        APPEAL_LOST,
        JUROR_PAID,
        MERGE_CLEARED,
        MERGE_REFUTED,
        MERGE_REFUTED_CONTESTED,
        MERGE_NOT_SHOWN,
        ROUND_MERGED,
        ROUND_SKIPPED,
        ROUND_EMPTY_MASK,
        ROUND_WITHOUT_WORK,
        ROUND_OVERLAPPED,
        TASK_CLOSED_EARLY,
        TASK_RAN_OUT,
        TASK_RECLAIMED,
        POLL_ALL_SEALED,
        POLL_ALL_REVEALED,
        POLL_TIMED_OUT,
        POLL_WITHOUT_SEATS,
        POLL_BEACON_MISSED,
        DATA_BEACON_MISSED,
        VOTE_PAID,
        VOTE_LOST,
        VOTE_LOST_TO_DECOY,
        BATCH_LEAKED,
        BATCH_EMPTY,
        BATCH_FORFEITED,
        SEAT_LEFT,
        SEAT_LEFT_POORER
    }

    /// One slot: what to do to which task, round and slot, or poll and seat.
    struct Move {
        Kind kind;
        uint64 a;
        uint64 b;
        uint64 c;
    }

    uint256 private constant TRAINERS = 3;
    uint256 private constant OWNERS = 4;
    uint40 private constant DELAY = 1200;

    uint256 public moves;
    mapping(Kind => uint256) public done;
    mapping(Mark => uint256) public reached;
    mapping(uint256 poll => mapping(uint256 seat => uint256[])) private _votes;
    uint256 private _rnd;
    uint256 private _firstPoll; // every earlier poll is over
    mapping(uint256 poll => bool) private _over; // voting has ended and every batch is settled
    uint256 private _patience; // how much rather than waiting this life makes a move
    uint256 private _firstTask;
    uint256 private _firstDispute;
    uint256 private _permitted; // how many moves the last listing found
    Move private _chosen; // one of them, each as likely as the others
    bool private _strangersOnly;
    mapping(uint256 task => bytes32) private _published; // its terms
    uint256 private _burntAtLeast; // by I9
    mapping(uint256 poll => uint256) private _checking; // task << 16 | round
    mapping(uint256 poll => uint256) private _lateItems; // works at slots 255, 254, ..
    mapping(bytes32 work => bool) private _isLate;
    mapping(bytes32 model => int256[2]) private _version; // lane 0 of weights and momentum; every other lane is 0
    mapping(bytes32 model => bool) private _wrongLane;

    function setUp() public override {
        if (address(protocol) != address(0)) return;
        super.setUp();
        token = new TestToken();
        protocol = new Protocol(token, SEAT, DELAY, RISK_MIN);
        (vault, panel, tasks, court) =
        (protocol.vault(), protocol.panel(), protocol.tasks(), protocol.court());
        delete people;
        people.push(BURN);
        _rich(publisher, 1_000_000 * UNIT);
        _rich(aggregator, 100_000 * UNIT);
        _rich(challenger, 100_000 * UNIT);
        _rich(stranger, 100_000 * UNIT);
        _trainers(TRAINERS);
        for (uint256 i = 1; i <= OWNERS; i++) {
            _rich(owner(i), 100_000 * UNIT);
        }
        (_firstPoll, _firstTask, _firstDispute) = (1, 1, 1);
    }

    // ---------------------------------------------------------------------------------------- the player

    /// One move.
    function step(uint256 random) public {
        _rnd = uint256(keccak256(abi.encode(random, _rnd)));
        if (moves == 0) {
            _patience = [uint256(1), 4, 24][_draw(3)];
            bool manned = _chance(8, 9); // one life in nine begins without validators
            uint256 many = _chance(1, 3) ? 9 : OWNERS; // more seats than the first jury wants
            for (uint256 i = 0; manned && i < many; i++) {
                _play(Move(Kind.SIT, 0, 0, 0));
            }
        }
        _list();
        uint256 n = _permitted;
        // The more there is to do, the more seldom time passes; now and then everybody is late.
        if (n == 0 || _chance(1, 3 + _patience * n)) _wait(1 + _draw(40));
        else if (_chance(1, 60)) _wait(200);
        else if (_chance(1, 120)) _mineMany();
        else _play(_chosen);
        moves += 1;
    }

    /// A whole life of `n` moves, then everything is brought home.
    function live(uint256 random, uint256 n) external {
        for (uint256 i = 0; i < n; i++) {
            step(random);
            if (i % 32 == 0) solvent();
        }
        finish();
    }

    /// I16: whatever happened, strangers' calls, the publisher's `close` and the seats' `exit` free every token.
    function finish() public {
        _strangersOnly = true;
        for (uint256 t = _firstTask; t <= tasks.tasks(); t++) {
            if (!tasks.task(t).closed) _play(Move(Kind.CLOSE, uint64(t), 0, 0));
        }
        for (uint256 s = 1; s <= panel.seats(); s++) {
            Seat memory x = panel.seat(s);
            if (x.owner != address(0) && x.exitAt == 0) _play(Move(Kind.EXIT, uint64(s), 0, 0));
        }
        uint256 start = block.timestamp;
        _list();
        for (uint256 i = 0; i < 2000 && (_permitted != 0 || !_quiet()); i++) {
            _list();
            if (_permitted != 0) _play(_chosen);
            else _wait(60);
        }
        ok(_quiet(), "never stuck: everything ended");
        ok(block.timestamp - start < 8000, "never stuck: it ends within a bounded time");
        _everybodyOut();
        _strangersOnly = false;
    }

    function _quiet() private view returns (bool) {
        for (uint256 i = 1; i <= panel.seats(); i++) {
            if (panel.seat(i).owner != address(0)) return false;
        }
        for (uint256 i = 0; i < taskPots.length; i++) {
            if (vault.pot(address(tasks), taskPots[i]) != 0) return false;
        }
        for (uint256 i = 1; i <= court.disputes(); i++) {
            if (vault.pot(address(court), bytes32(i)) != 0) return false;
        }
        return true;
    }

    function _everybodyOut() private {
        solvent();
        for (uint256 i = 1; i < people.length; i++) {
            uint256 has = vault.free(people[i]);
            vm.prank(people[i]);
            vault.withdraw(has);
        }
        eq(vault.owed(), vault.free(BURN), "only what is burnt is left");
        eq(token.balanceOf(address(vault)), vault.free(BURN), "and nothing more");
        for (uint256 i = 1; i < people.length; i++) {
            uint256 has = token.balanceOf(people[i]);
            vm.prank(people[i]);
            vault.deposit(has);
        }
    }

    // ----------------------------------------------------------------------------- what is permitted now

    function _add(Kind kind, uint256 a, uint256 b, uint256 c) private {
        _permitted += 1;
        if (_draw(_permitted) == 0) _chosen = Move(kind, uint64(a), uint64(b), uint64(c));
    }

    function _list() private {
        _permitted = 0;
        while (_firstTask <= tasks.tasks() && _taskOver(_firstTask)) _firstTask++;
        for (uint256 t = _firstTask; t <= tasks.tasks(); t++) {
            _listTask(t);
        }
        Seat[] memory seats = new Seat[](panel.seats() + 1);
        for (uint256 s = 1; s < seats.length; s++) {
            seats[s] = panel.seat(s);
        }
        uint256 polls = panel.polls();
        while (_firstPoll <= polls && _over[_firstPoll]) _firstPoll++;
        for (uint256 p = _firstPoll; p <= polls; p++) {
            if (!_over[p]) _listPoll(p, seats);
        }
        while (_firstDispute <= court.disputes() && court.dispute(_firstDispute).phase == Phase.FINAL) {
            _firstDispute++;
        }
        for (uint256 d = _firstDispute; d <= court.disputes(); d++) {
            _listDispute(d);
        }
        _listSeats(seats);
        if (_strangersOnly) return;
        if (tasks.tasks() + 1 < _firstTask + 2) _add(Kind.PUBLISH, 0, 0, 0);
        if (_chance(1, 40)) _add(Kind.DEPOSIT, _draw(people.length - 1) + 1, 0, 0);
        if (_chance(1, 40)) _add(Kind.WITHDRAW, _draw(people.length - 1) + 1, 0, 0);
        if (_chance(1, 60)) _add(Kind.ANNOUNCE, 0, 0, 0);
    }

    function _taskOver(uint256 t) private view returns (bool) {
        Task memory x = tasks.task(t);
        return
            x.closed && x.pending == 0 && x.settled == x.begun && vault.pot(address(tasks), bytes32(t)) == 0;
    }

    function _listTask(uint256 t) private {
        Task memory x = tasks.task(t);
        bool home = x.closed && x.pending == 0 && x.settled == x.begun;
        if (home && vault.pot(address(tasks), bytes32(t)) != 0) _add(Kind.RECLAIM, t, 0, 0);
        if (!_strangersOnly && !x.closed && _chance(1, 80)) _add(Kind.CLOSE, t, 0, 0);
        for (uint256 r = 0; r < x.begun; r++) {
            _listRound(t, r, x, tasks.round(t, r));
        }
        if (_strangersOnly || x.closed || x.begun == x.params.rounds) return;
        if (x.begun >= uint256(x.settled) + x.params.lag) return;
        Round memory before;
        if (x.begun > 0) before = tasks.round(t, x.begun - 1);
        if (x.begun == 0 || before.poll != 0 || before.decidedAt != 0) _add(Kind.CLAIM, t, x.begun, 0);
    }

    function _listRound(uint256 t, uint256 r, Task memory x, Round memory rd) private {
        bool claiming = rd.trainEnd == 0;
        if (claiming && block.timestamp < rd.claimEnd && !_strangersOnly) _add(Kind.CLAIM, t, r, 0);
        if (claiming && block.timestamp >= rd.claimEnd) _add(Kind.TOUCH, t, r, 0);
        bool ended = rd.poll != 0 || rd.decidedAt != 0;
        if (!claiming && !ended) {
            bool readable = block.number > rd.beacon;
            if (block.timestamp >= rd.trainEnd) _add(Kind.TOUCH, t, r, 0);
            else if (rd.seed == 0 && readable) _add(Kind.TOUCH, t, r, 0);
        }
        for (uint256 s = 0; s < rd.claimed; s++) {
            _listWork(t, r, s, rd, x.params);
        }
        for (uint256 s = 256 - rd.late; s < 256; s++) {
            _listWork(t, r, s, rd, x.params);
        }
        if (r == x.settled) _listMerge(t, r, x, rd);
    }

    function _listWork(uint256 t, uint256 r, uint256 s, Round memory rd, Params memory p) private {
        Work memory w = tasks.work(t, r, s);
        if (w.state == State.CLAIMED) return _listLease(t, r, s, rd, p);
        if (w.state != State.SUBMITTED && w.state != State.DISPUTED) return;
        if (rd.poll == 0) return;
        (, uint40 revealEnd) = panel.ends(rd.poll);
        if (block.timestamp < revealEnd) return;
        bool inTime = block.timestamp < uint256(revealEnd) + p.openT;
        if (inTime && !w.opened && !_strangersOnly) _add(_decoy(t, r, s) ? Kind.DECOY : Kind.OPEN, t, r, s);
        if (!inTime && w.state == State.SUBMITTED) _add(Kind.EXPIRE, t, r, s);
    }

    function _listLease(uint256 t, uint256 r, uint256 s, Round memory rd, Params memory p) private {
        if (rd.trainEnd == 0) {
            bool early = block.timestamp < uint256(rd.claimEnd) - p.claimT / 2;
            if (early && rd.gone < spareSlots() && !_strangersOnly && _chance(1, 12)) {
                _add(Kind.RELINQUISH, t, r, s);
            }
            return;
        }
        if (block.timestamp < rd.trainEnd) {
            if (_strangersOnly) return;
            bool deferred = tasks.lateness(potId(t, r, s)) != 0;
            if (_readable(rd) && (!deferred || _chance(1, 6))) _add(Kind.SUBMIT, t, r, s);
            if (!deferred && _chance(1, 3)) _add(Kind.DEFER, t, r, s);
            return;
        }
        uint256 due = tasks.lateness(potId(t, r, s));
        if (block.timestamp >= due) _add(Kind.EXPIRE, t, r, s);
        Round memory next = tasks.round(t, r + 1);
        bool open = next.poll == 0 && block.timestamp < next.trainEnd && next.late < spareSlots();
        if (open && _readable(rd) && !_strangersOnly) _add(Kind.LATE, t, r, s);
    }

    function _readable(Round memory rd) private view returns (bool) {
        return rd.seed != 0 || (block.number > rd.beacon && blockhash(rd.beacon) != 0);
    }

    function _listMerge(uint256 t, uint256 r, Task memory x, Round memory rd) private {
        if (rd.proposer != address(0)) {
            if (block.timestamp >= uint256(rd.movedAt) + x.params.aggT) _add(Kind.ADVANCE, t, r, 0);
            else if (rd.contest == 0 && !_strangersOnly && _chance(1, 3)) _add(Kind.CONTEST, t, r, 0);
            if ((rd.contest != 0 || _wrongLane[rd.root]) && !_strangersOnly) _add(Kind.PROVE, t, r, 0);
            return;
        }
        uint256 since = tasks.maskFinalAt(t, r);
        if (since == 0 || block.timestamp < since) return;
        if (rd.merged == 0) return _add(Kind.ADVANCE, t, r, 0);
        if (!_strangersOnly) _add(Kind.PROPOSE, t, r, 0);
        if (rd.movedAt > since) since = rd.movedAt;
        if (r > 0 && tasks.round(t, r - 1).movedAt > since) since = tasks.round(t, r - 1).movedAt;
        if (block.timestamp >= since + 4 * uint256(x.params.aggT)) _add(Kind.ADVANCE, t, r, 0);
    }

    function _listPoll(uint256 p, Seat[] memory seats) private {
        Poll memory x = panel.poll(p);
        uint256 beacon = uint256(x.seed); // until it is seeded
        bool known = x.seeded || (block.number > beacon && blockhash(beacon) != 0);
        bool sealing = block.timestamp < x.sealEnd;
        if (sealing && !x.seeded && block.number > beacon && (_chance(1, 8) || !known)) {
            _add(Kind.SEED, p, 0, 0);
        }
        bool over = block.timestamp >= x.revealEnd;
        for (uint256 s = 1; s < seats.length; s++) {
            Seat memory y = seats[s];
            if (y.owner == address(0)) continue;
            uint256 word = panel.sealedOf(p, s);
            if (word != 0) over = false;
            bool member = y.firstPoll <= p && (y.endPoll == 0 || p < y.endPoll);
            if (word == 0 && sealing && member && known && !_strangersOnly) {
                _add(Kind.SEAL, p, s, 0);
                if (x.want == 7 || x.want == 15) _add(Kind.SEAL, p, s, 0); // jurors are busier than others
            }
            if (word == 0) continue;
            bool revealed = word & 1 == 1;
            if (sealing && word >> 16 != 0 && !_strangersOnly && _chance(1, 40)) _add(Kind.LEAK, p, s, 0);
            bool reading = !sealing && block.timestamp < x.revealEnd;
            if (!revealed && reading && word >> 16 != 0 && x.seeded && !_strangersOnly) {
                {
                    _add(Kind.REVEAL, p, s, 0);
                    if (x.want == 7 || x.want == 15) _add(Kind.REVEAL, p, s, 0);
                }
            }
            if (!revealed && block.timestamp >= x.revealEnd) _add(Kind.FORFEIT, p, s, 0);
            if (revealed && _itemsFinal(p, s)) _add(Kind.SETTLE, p, s, 0);
        }
        _over[p] = over;
    }

    function _itemsFinal(uint256 p, uint256 s) private view returns (bool) {
        uint256[] memory votes = _votes[p][s];
        bool jury = panel.poll(p).jury;
        for (uint256 i = 0; i < votes.length; i++) {
            if (jury && court.dispute(court.disputeOfPoll(p)).phase != Phase.FINAL) return false;
            if (jury) continue;
            Work memory w = _voted(p, votes[i]);
            if (w.root != 0 && w.state < State.VALID) return false;
        }
        return true;
    }

    /// The work that a vote is about.
    function _voted(uint256 p, uint256 vote) private view returns (Work memory) {
        return tasks.work(_checking[p] >> 16, _checking[p] & 0xffff, Votes.item(vote));
    }

    function _listDispute(uint256 d) private {
        Dispute memory x = court.dispute(d);
        if (x.phase == Phase.FINAL) return;
        (, uint256 until) = tasks.accused(x.task, x.round, x.slot);
        if (x.phase == Phase.FILED) {
            if (block.timestamp >= until) _add(Kind.RULE, d, 0, 0);
            else if (!_strangersOnly) _add(Kind.ANSWER, d, 0, 0);
            return;
        }
        Params memory p = tasks.task(x.task).params;
        if (x.phase == Phase.JURY) {
            (, uint40 revealEnd) = panel.ends(x.poll);
            if (block.timestamp < revealEnd) return;
            if (x.level < 3 && panel.poll(x.poll).seats > court.want(x.level)) {
                return _add(Kind.RULE, d, 0, 0);
            }
        } else if (x.ruledAt != 0 && block.timestamp < uint256(x.ruledAt) + p.openT) {
            if (!_strangersOnly) _add(Kind.APPEAL, d, 0, 0);
            return;
        }
        // A work's fate is decided when no accusation can come and its secret cannot make it a decoy any more.
        bool mayBeDecoy = p.decoyOneIn != 0 && !tasks.work(x.task, x.round, x.slot).opened;
        if (block.timestamp >= until - (mayBeDecoy ? 0 : p.openT)) _add(Kind.RULE, d, 0, 0);
    }

    function _listSeats(Seat[] memory seats) private {
        for (uint256 s = 1; s < seats.length; s++) {
            Seat memory x = seats[s];
            if (x.owner == address(0)) continue;
            if (x.exitAt != 0 && block.timestamp >= x.exitAt && x.reserved == 0) _add(Kind.LEAVE, s, 0, 0);
            if (_strangersOnly) continue;
            if (x.exitAt == 0 && _chance(1, 150)) _add(Kind.EXIT, s, 0, 0);
            if (_chance(1, 100)) _add(Kind.TOP_UP, s, 0, 0);
        }
        if (!_strangersOnly && panel.active() < OWNERS && panel.seats() < 12 && _chance(1, 10)) {
            _add(Kind.SIT, 0, 0, 0);
        }
    }

    // -------------------------------------------------------------------------------------- the moves

    function _play(Move memory m) private {
        done[m.kind] += 1;
        if (m.kind >= Kind.DECOY && m.kind <= Kind.LATE) _playLease(m);
        else if (m.kind <= Kind.ADVANCE) _playTask(m);
        else if (m.kind <= Kind.TOP_UP) _playSeat(m);
        else if (m.kind <= Kind.RULE) _playPoll(m);
        else _playMoney(m);
    }

    function _playTask(Move memory m) private {
        (uint256 t, uint256 r, uint256 s) = (m.a, m.b, m.c);
        if (m.kind == Kind.PUBLISH) {
            Params memory p = _terms();
            _published[_publish(p)] = keccak256(abi.encode(p));
        } else if (m.kind == Kind.CLOSE) {
            vm.prank(publisher);
            tasks.close(t);
            reached[Mark.TASK_CLOSED_EARLY] += 1;
        } else if (m.kind == Kind.RECLAIM) {
            vm.prank(stranger);
            tasks.reclaim(t);
            reached[Mark.TASK_RECLAIMED] += 1;
        } else if (m.kind == Kind.CLAIM) {
            if (r == tasks.task(t).begun && r > tasks.task(t).settled) reached[Mark.ROUND_OVERLAPPED] += 1;
            _claim(t, r, tasks.round(t, r).claimed, trainer(_draw(TRAINERS)));
            reached[Mark.WORK_CLAIMED] += 1;
        } else if (m.kind == Kind.SUBMIT) {
            _submit(t, r, s);
            reached[Mark.WORK_SUBMITTED] += 1;
            if (tasks.round(t, r).poll != 0) _polled(tasks.round(t, r).poll, t, r);
        } else if (m.kind == Kind.OPEN) {
            _open(t, r, s);
            if (tasks.work(t, r, s).state == State.VALID) reached[Mark.WORK_VALID] += 1;
            if (_isLate[potId(t, r, s)]) {
                reached[Mark.LATE_PAID] += 1;
                if ((maskOf(t, r) >> s) & 1 == 1) reached[Mark.LATE_MERGED] += 1;
            }
        } else if (m.kind == Kind.EXPIRE) {
            bool submitted = tasks.work(t, r, s).state == State.SUBMITTED;
            vm.prank(stranger);
            tasks.expire(t, r, s);
            reached[Mark.WORK_EXPIRED] += 1;
            reached[submitted ? Mark.EXPIRED_UNOPENED : Mark.EXPIRED_UNSUBMITTED] += 1;
        } else if (m.kind == Kind.TOUCH) {
            _touch(t, r);
        } else {
            _playMerge(m.kind, t, r);
        }
    }

    function _playLease(Move memory m) private {
        (uint256 t, uint256 r, uint256 s) = (m.a, m.b, m.c);
        Work memory w = tasks.work(t, r, s);
        if (m.kind == Kind.DECOY) {
            if (w.no != 0) reached[Mark.DECOY_ACCUSED] += 1;
            DecoyProof memory proof = _decoyProof(t, r, s);
            Header memory h = headerOf(t, r, s);
            vm.prank(stranger);
            tasks.openDecoy(t, r, s, secretOf(t, r, s), h, proof);
            reached[Mark.WORK_DECOY] += 1;
            return;
        }
        if (m.kind == Kind.LATE) {
            bytes32 root = rootOf(t, r, s);
            vm.prank(w.trainer);
            uint256 place = tasks.submitLate(t, r, s, root);
            _isLate[potId(t, r + 1, place)] = true;
            reached[Mark.ENTERED_LATE] += 1;
            return;
        }
        vm.prank(w.trainer);
        if (m.kind == Kind.RELINQUISH) tasks.relinquish(t, r, s);
        else tasks.defer(t, r, s);
        reached[m.kind == Kind.RELINQUISH ? Mark.RELINQUISHED : Mark.DEFERRED] += 1;
    }

    function _notShown() private {
        reached[Mark.MERGE_NOT_SHOWN] += 1;
        _burntAtLeast += params().aggBond / 2;
    }

    function _touch(uint256 t, uint256 r) private {
        Round memory before = tasks.round(t, r);
        vm.prank(stranger);
        tasks.touch(t, r);
        Round memory x = tasks.round(t, r);
        if (x.poll != 0) _polled(x.poll, t, r);
        else if (x.decidedAt != 0) reached[Mark.ROUND_WITHOUT_WORK] += 1;
        else if (before.beacon != 0 && x.beacon != before.beacon) reached[Mark.DATA_BEACON_MISSED] += 1;
    }

    function _playMerge(Kind kind, uint256 t, uint256 r) private {
        if (kind == Kind.PROPOSE) {
            _propose(t, r, _merged(t, r, _draw(3)));
        } else if (kind == Kind.CONTEST) {
            (uint256 leaf, uint256 lane) = (_draw(2), _draw(2));
            vm.prank(challenger);
            tasks.contestMerge(t, r, uint32(leaf), uint8(lane));
        } else if (kind == Kind.PROVE) {
            _prove(t, r);
        } else {
            Round memory rd = tasks.round(t, r);
            vm.prank(stranger);
            tasks.advance(t, r);
            if (rd.contest != 0) _notShown();
            else if (rd.proposer != address(0)) reached[Mark.ROUND_MERGED] += 1;
            else if (rd.merged != 0) reached[Mark.ROUND_SKIPPED] += 1;
            else reached[Mark.ROUND_EMPTY_MASK] += 1;
            Task memory x = tasks.task(t);
            if (x.settled == x.params.rounds) reached[Mark.TASK_RAN_OUT] += 1;
        }
    }

    function _playSeat(Move memory m) private {
        if (m.kind == Kind.SIT) {
            vm.prank(owner(1 + _draw(OWNERS)));
            panel.sit();
        } else if (m.kind == Kind.EXIT) {
            vm.prank(panel.seat(m.a).owner);
            panel.exit(m.a);
        } else if (m.kind == Kind.LEAVE) {
            uint256 stake = vault.pot(address(panel), bytes32(uint256(m.a)));
            vm.prank(stranger);
            panel.leave(m.a);
            reached[Mark.SEAT_LEFT] += 1;
            if (stake < SEAT) reached[Mark.SEAT_LEFT_POORER] += 1;
        } else {
            vm.prank(stranger);
            panel.topUp(m.a, 1 + _draw(UNIT));
        }
    }

    function _playPoll(Move memory m) private {
        (uint256 p, uint256 s) = (m.a, m.b);
        if (m.kind == Kind.SEED) {
            vm.prank(stranger);
            if (panel.seed(p) == 0) reached[Mark.POLL_BEACON_MISSED] += 1;
        } else if (m.kind == Kind.SEAL) {
            _votes[p][s] = _ballot(p);
            if (_votes[p][s].length == 0) reached[Mark.BATCH_EMPTY] += 1;
            _seal(p, s, _votes[p][s]);
            Poll memory x = panel.poll(p);
            if (x.unrevealed == x.seats) reached[Mark.POLL_ALL_SEALED] += 1;
        } else if (m.kind == Kind.LEAK) {
            vm.prank(stranger);
            panel.leak(p, s, _votes[p][s], salt(p, s));
            _burntAtLeast += _votes[p][s].length * panel.poll(p).risk / 2;
            reached[Mark.BATCH_LEAKED] += 1;
        } else if (m.kind == Kind.ANSWER) {
            _answer(m.a);
            if (court.dispute(m.a).phase == Phase.RULED) reached[Mark.DISPUTE_VOID] += 1;
        } else if (m.kind == Kind.APPEAL) {
            vm.prank(challenger);
            court.appeal(m.a);
        } else if (m.kind == Kind.REVEAL) {
            _revealed(p, s);
        } else if (m.kind == Kind.SETTLE) {
            (uint256 before, uint256 stake) =
                (vault.free(panel.seat(s).owner), vault.pot(address(panel), bytes32(s)));
            _settle(p, s, _votes[p][s]);
            bool paid = vault.free(panel.seat(s).owner) > before;
            if (paid) reached[panel.poll(p).jury ? Mark.JUROR_PAID : Mark.VOTE_PAID] += 1;
            if (vault.pot(address(panel), bytes32(s)) < stake) _lost(p, s);
        } else if (m.kind == Kind.FORFEIT) {
            vm.prank(stranger);
            panel.forfeit(p, s);
            reached[Mark.BATCH_FORFEITED] += 1;
            reached[Mark.POLL_TIMED_OUT] += 1;
        } else {
            _rule(m.a);
        }
    }

    function _revealed(uint256 p, uint256 s) private {
        uint256 before = court.disputes();
        _reveal(p, s, _votes[p][s]);
        for (uint256 d = before + 1; d <= court.disputes(); d++) {
            reached[Mark.WORK_DISPUTED] += 1;
        }
        Poll memory x = panel.poll(p);
        if (x.unrevealed == 0) reached[Mark.POLL_ALL_REVEALED] += 1;
    }

    function _lost(uint256 p, uint256 s) private {
        reached[Mark.VOTE_LOST] += 1;
        for (uint256 i = 0; i < _votes[p][s].length; i++) {
            if (_voted(p, _votes[p][s][i]).state == State.DECOY) reached[Mark.VOTE_LOST_TO_DECOY] += 1;
        }
    }

    function _rule(uint256 d) private {
        Dispute memory x = court.dispute(d);
        bool disputed = tasks.work(x.task, x.round, x.slot).state == State.DISPUTED;
        vm.prank(stranger);
        court.rule(d);
        Dispute memory y = court.dispute(d);
        if (y.phase != Phase.FINAL) return;
        if (x.phase == Phase.FILED) reached[Mark.DISPUTE_CONCEDED] += 1;
        if (x.phase != Phase.FILED && y.outcome == State.HARD) reached[Mark.JURY_HARD] += 1;
        if (y.level > 0) {
            reached[court.appealOf(d, y.level).against == y.outcome ? Mark.APPEAL_LOST : Mark.APPEAL_WON] += 1;
        }
        if (y.outcome == State.VALID) reached[Mark.DISPUTE_VALID] += 1;
        if (y.outcome == State.SOFT) reached[Mark.DISPUTE_SOFT] += 1;
        if (y.outcome == State.HARD) reached[Mark.DISPUTE_HARD] += 1;
        State state = tasks.work(x.task, x.round, x.slot).state;
        if (!disputed) return;
        if (state == State.HARD) {
            reached[Mark.WORK_HARD] += 1;
            _burntAtLeast += tasks.task(x.task).params.bond / 2;
        }
        if (state == State.SOFT) reached[Mark.WORK_SOFT] += 1;
        if (state == State.VALID) reached[Mark.ACQUITTED_OPENED] += 1;
        if (state == State.SUBMITTED) reached[Mark.ACQUITTED_UNOPENED] += 1;
    }

    function _playMoney(Move memory m) private {
        if (m.kind == Kind.ANNOUNCE) {
            vm.prank(stranger);
            return tasks.announce("http://localhost:1");
        }
        address who = people[m.a];
        if (m.kind == Kind.DEPOSIT) {
            uint256 amount = token.balanceOf(who);
            vm.prank(who);
            return vault.deposit(amount);
        }
        uint256 some = _draw(vault.free(who) / 100 + 1);
        vm.prank(who);
        vault.withdraw(some);
    }

    // ------------------------------------------------------------------------------- what is drawn

    function _terms() private returns (Params memory p) {
        p = params();
        p.slots = uint16(1 + _draw(3));
        p.rounds = uint16(1 + _draw(3));
        p.lag = uint8(1 + _draw(4));
        p.want = uint16(_chance(1, 3) ? 2 : 8);
        p.quorum = uint8(1 + _draw(2));
        p.decoyOneIn = _chance(1, 2) ? 10 : 0;
        p.aggReward = uint96(_draw(2) * 1e18);
        p.reward = uint96(UNIT + _draw(9 * UNIT));
        p.bond = uint96(p.reward + _draw(7 * UNIT));
    }

    /// Most of a poll's seats agree, else no verdict would ever be reached.
    function _ballot(uint256 p) private returns (uint256[] memory votes) {
        if (_chance(1, 12)) return new uint256[](0);
        uint256 mood = uint256(keccak256(abi.encode("mood", p)));
        if (panel.poll(p).jury) {
            uint256 v = _chance(1, 12) ? _draw(4) : [uint256(0), 1, 1, 2][mood % 4]; // 3 means nothing
            return votes1(word(_chance(1, 40) ? 1 : 0, 0, v == 2 ? WITHHELD : v == 3 ? 7 : v));
        }
        uint256 n = 1 + _draw(4);
        uint256 late = _lateItems[p];
        votes = new uint256[](n + late);
        for (uint256 i = 0; i < n + late; i++) {
            uint256 kind = _chance(1, 6) ? _draw(10) : (mood >> (8 * i)) % 10;
            uint256 item = i < n ? i : 256 - late + i - n;
            if (kind < 6) votes[i] = word(item, 0, 0);
            else if (kind < 8) votes[i] = word(item, 1 + kind % 3, 1 + (_chance(1, 3) ? 1 : 0));
            else if (kind == 8) votes[i] = word(item, 1, WITHHELD);
            else votes[i] = word(item, 4, 1); // a tree that does not exist
        }
    }

    function _draw(uint256 below) private returns (uint256) {
        _rnd = uint256(keccak256(abi.encode(_rnd)));
        return _rnd % below;
    }

    function _chance(uint256 part, uint256 whole) private returns (bool) {
        return _draw(whole) < part;
    }

    function _wait(uint256 seconds_) private {
        done[Kind.WAIT] += 1;
        _pass(seconds_);
    }

    function _mineMany() private {
        done[Kind.MINE] += 1;
        _mine(300); // every beacon that was not used is out of reach
    }

    function _polled(uint256 p, uint256 t, uint256 r) private {
        _checking[p] = (t << 16) | r;
        _lateItems[p] = tasks.round(t, r).late;
        Poll memory x = panel.poll(p);
        if (x.seats == 0) reached[Mark.POLL_WITHOUT_SEATS] += 1;
    }

    // ---------------------------------------------------------------- what works and versions consist of

    function rule() internal pure override returns (MergeRule memory) {
        return MergeRule(1024, 8, 20, 7, 10, 9, 10);
    }

    function spareSlots() internal pure override returns (uint256) {
        return 6;
    }

    /// Where a work was leased.
    function _origin(uint256 t, uint256 r, uint256 s) private view returns (uint256, uint256) {
        bytes32 pot = potId(t, r, s);
        if (!_isLate[pot]) return (r, s);
        uint256 origin = tasks.lateness(pot) - 1;
        return (origin >> 16, origin & 0xffff);
    }

    function secretOf(uint256 t, uint256 r, uint256 s) internal view override returns (bytes32) {
        if (address(tasks) != address(0)) (r, s) = _origin(t, r, s);
        return keccak256(abi.encode("secret", t, r, s));
    }

    function _decoy(uint256 t, uint256 r, uint256 s) private view returns (bool) {
        (uint256 from,) = _origin(t, r, s);
        Round memory rd = tasks.round(t, from);
        // What `submit` is about to store, when nobody stored it yet.
        bytes32 seed = rd.seed != 0 ? rd.seed : sha256(abi.encode(blockhash(rd.beacon), t, from));
        return Exact.drawn(secretOf(t, r, s), seed, tasks.task(t).params.decoyOneIn);
    }

    /// One update leaf, two trajectories, one step. A decoy's activation proofs are its secret's noise.
    function headerOf(uint256 t, uint256 r, uint256 s) internal view override returns (Header memory) {
        (uint256 r0, uint256 s0) = _origin(t, r, s);
        bytes32 id = keccak256(abi.encode(t, r0, s0));
        return Header(
            Trees.root(_leaf(_lane(_update(id)))),
            1024,
            Trees.root(_trajectories(t, r, s)),
            2,
            Trees.root(_leaf(id)),
            1,
            id
        );
    }

    function _update(bytes32 id) private pure returns (int256) {
        return int256(uint256(id) % 100_001) - 50_000; // now and then beyond 16 bits
    }

    function _leaf(bytes32 start) private pure returns (bytes[] memory data) {
        data = new bytes[](1);
        data[0] = abi.encodePacked(start, new bytes(992));
    }

    /// A little-endian lane, and nothing behind it.
    function _lane(int256 x) private pure returns (bytes32) {
        uint256 u = uint32(int32(x));
        u = (u >> 24) | ((u >> 8) & 0xff00) | ((u & 0xff00) << 8) | ((u & 0xff) << 24);
        return bytes32(u << 224);
    }

    function _trajectories(uint256 t, uint256 r, uint256 s) private view returns (bytes[] memory data) {
        data = new bytes[](2);
        bool noise = _decoy(t, r, s);
        for (uint256 i = 0; i < 2; i++) {
            bytes32 root = noise ? Trees.root(_noise(secretOf(t, r, s), i)) : keccak256("proof");
            data[i] = abi.encodePacked(new bytes(40), root, new bytes(952));
        }
    }

    function _noise(bytes32 secret, uint256 i) private pure returns (bytes[] memory data) {
        data = new bytes[](1);
        data[0] = abi.encodePacked(hex"ffd9", Exact.noise(secret, i), new bytes(990));
    }

    function _decoyProof(uint256 t, uint256 r, uint256 s) private view returns (DecoyProof memory d) {
        uint256 i = Exact.mandatory(seedOf(tasks.round(t, r).poll), s, 2);
        d.trajectory = Trees.open(_trajectories(t, r, s), i);
        d.length = 1024;
        d.proof = Trees.open(_noise(secretOf(t, r, s), i), 0);
    }

    function leafFor(Dispute memory x) internal view override returns (Opening memory) {
        if (x.leaf == WITHHELD || x.tree == 0 || x.leaf >= (x.tree == 2 ? 2 : 1)) {
            return Opening("", new bytes32[](0));
        }
        (uint256 r0, uint256 s0) = _origin(x.task, x.round, x.slot);
        bytes32 id = keccak256(abi.encode(uint256(x.task), r0, s0));
        if (x.tree == 1) return Trees.open(_leaf(_lane(_update(id))), 0);
        if (x.tree == 2) return Trees.open(_trajectories(x.task, x.round, x.slot), x.leaf);
        return Trees.open(_leaf(id), 0);
    }

    function _versionLeaves(int256 weight, int256 momentum) private pure returns (bytes[] memory data) {
        data = new bytes[](2);
        data[0] = _leaf(_lane(weight))[0];
        data[1] = _leaf(_lane(momentum))[0];
    }

    function _known(int256 weight, int256 momentum) private returns (bytes32 root) {
        root = Trees.root(_versionLeaves(weight, momentum));
        _version[root] = [weight, momentum];
    }

    function firstModel() internal override returns (bytes32) {
        return _known(1_000_000, -7);
    }

    /// The updates of a round's mask, by slot.
    function _masked(uint256 t, uint256 r) private view returns (uint256[] memory slots) {
        uint256 mask = maskOf(t, r);
        slots = new uint256[](tasks.round(t, r).merged);
        uint256 n = 0;
        for (uint256 s = 0; n < slots.length; s++) {
            if ((mask >> s) & 1 == 1) slots[n++] = s;
        }
    }

    /// The right merge of a round, or one that is wrong in its weights (1) or its momentum (2).
    function _merged(uint256 t, uint256 r, uint256 wrong) private returns (bytes32 root) {
        uint256[] memory slots = _masked(t, r);
        int256[] memory lanes = new int256[](slots.length);
        for (uint256 i = 0; i < slots.length; i++) {
            (uint256 r0, uint256 s0) = _origin(t, r, slots[i]);
            int256 x = _update(keccak256(abi.encode(t, r0, s0)));
            x = x > 32_767 ? int256(32_767) : x < -32_767 ? -int256(32_767) : x;
            lanes[i] = r0 == r ? x : x >> 1;
        }
        int256[2] memory from = _version[tasks.model(t)];
        (int256 momentum, int256 step) = Exact.outer(params(), from[1], Exact.gradient(params(), lanes));
        int256 weight = Exact.saturate(from[0] - step) + (wrong == 1 ? int256(1) : int256(0));
        root = _known(weight, Exact.saturate(momentum) + (wrong == 2 ? int256(1) : int256(0)));
        _wrongLane[root] = wrong != 0;
    }

    /// Refutes a wrong proposal, or shows the lane that a contest asks for.
    function _prove(uint256 t, uint256 r) private {
        Round memory rd = tasks.round(t, r);
        bool wrong = _wrongLane[rd.root];
        MergeProof memory m;
        if (rd.contest != 0) (m.leaf, m.lane) = ((rd.contest - 1) >> 8, uint8((rd.contest - 1) & 0xff));
        if (wrong) (m.leaf, m.lane) = (_leafOfFault(t, r, rd.root), 0);
        int256[2] memory from = _version[tasks.model(t)];
        int256[2] memory to = _version[rd.root];
        m.proposed = Trees.open(_versionLeaves(to[0], to[1]), m.leaf);
        if (m.leaf == 0) m.weights = Trees.open(_versionLeaves(from[0], from[1]), 0);
        m.momentum = Trees.open(_versionLeaves(from[0], from[1]), 1);
        uint256[] memory slots = _masked(t, r);
        m.updates = new Opening[](slots.length);
        for (uint256 i = 0; i < slots.length; i++) {
            (uint256 r0, uint256 s0) = _origin(t, r, slots[i]);
            m.updates[i] = Trees.open(_leaf(_lane(_update(keccak256(abi.encode(t, r0, s0))))), 0);
        }
        vm.prank(stranger);
        tasks.proveMerge(t, r, m.leaf, m.lane, Packed.proof(m));
        _burntAtLeast += params().aggBond / 2; // the proposer's, or the challenger's
        if (!wrong) reached[Mark.MERGE_CLEARED] += 1;
        else reached[rd.contest == 0 ? Mark.MERGE_REFUTED : Mark.MERGE_REFUTED_CONTESTED] += 1;
    }

    function _leafOfFault(uint256 t, uint256 r, bytes32 root) private returns (uint32) {
        int256[2] memory is_ = _version[root];
        int256[2] memory right = _version[_merged(t, r, 0)];
        return is_[0] != right[0] ? 0 : 1;
    }

    // -------------------------------------------------------------------------------- for invariants

    /// I1: owed, all free balances, all pots, and the tokens that are there.
    function held() external view returns (uint256 owed, uint256 frees, uint256 pots, uint256 balance) {
        for (uint256 i = 0; i < people.length; i++) {
            frees += vault.free(people[i]);
        }
        for (uint256 i = 1; i <= panel.seats(); i++) {
            pots += vault.pot(address(panel), bytes32(i));
        }
        for (uint256 i = 0; i < taskPots.length; i++) {
            pots += vault.pot(address(tasks), taskPots[i]);
        }
        for (uint256 i = 1; i <= court.disputes(); i++) {
            pots += vault.pot(address(court), bytes32(i));
        }
        return (vault.owed(), frees, pots, token.balanceOf(address(vault)));
    }

    /// Tokens that people brought in and took out, by their own wallets.
    function outside() external view returns (uint256 sum) {
        for (uint256 i = 0; i < people.length; i++) {
            sum += token.balanceOf(people[i]);
        }
    }

    function world() external view returns (Vault, Panel, Tasks, Court, address[] memory, uint256 supply) {
        return (vault, panel, tasks, court, people, token.totalSupply());
    }

    /// The first task that is not long over: what ended was checked while it lasted, and can change no more.
    function _recent() private view returns (uint256) {
        return _firstTask > 1 ? _firstTask - 1 : 1;
    }

    /// I4: the task's escrow covers the rewards and fees of all works that may still be paid, and all rounds to come.
    function escrowCovers() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            Task memory x = tasks.task(t);
            uint256 one = x.params.reward + uint256(x.params.reward) * x.params.feeBps / 10_000;
            uint256 needs = x.pending * one;
            if (!x.closed) needs += uint256(x.params.rounds - x.begun) * (x.params.slots * one);
            needs += uint256(x.begun - x.settled) * x.params.aggReward;
            if (vault.pot(address(tasks), bytes32(t)) < needs) return false;
        }
        return true;
    }

    /// I7: a seat's reserve never exceeds its stake.
    function reservesCovered() external view returns (bool) {
        for (uint256 i = 1; i <= panel.seats(); i++) {
            if (panel.seat(i).reserved > vault.pot(address(panel), bytes32(i))) return false;
        }
        return true;
    }

    /// I6: the pot of a work that is not decided holds exactly its bond.
    function bondsWhole() external view returns (bool) {
        return _eachWork(_bondWhole);
    }

    function _bondWhole(uint256 t, uint256 r, uint256 s) private view returns (bool) {
        State state = tasks.work(t, r, s).state;
        if (state == State.NONE || state >= State.VALID) return true;
        return vault.pot(address(tasks), potId(t, r, s)) == tasks.task(t).params.bond;
    }

    function _eachWork(function(uint256, uint256, uint256) view returns (bool) holds)
        private
        view
        returns (bool)
    {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            uint256 begun = tasks.task(t).begun;
            for (uint256 r = 0; r < begun; r++) {
                Round memory rd = tasks.round(t, r);
                for (uint256 s = 0; s < rd.claimed; s++) {
                    if (!holds(t, r, s)) return false;
                }
                for (uint256 s = 256 - rd.late; s < 256; s++) {
                    if (!holds(t, r, s)) return false;
                }
            }
        }
        return true;
    }

    /// I13: `pending` is the number of works that are not terminal, per task.
    function pendingCounts() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            Task memory x = tasks.task(t);
            uint256 open = 0;
            for (uint256 r = 0; r < x.begun; r++) {
                Round memory rd = tasks.round(t, r);
                for (uint256 s = 0; s < 256; s++) {
                    if (s == rd.claimed) s = 256 - rd.late;
                    if (s == 256) break;
                    State state = tasks.work(t, r, s).state;
                    if (state != State.NONE && state < State.VALID) open++;
                }
            }
            if (open != x.pending) return false;
        }
        return true;
    }

    /// I14: the mask holds only opened, valid, undisputed works with a quorum of accepts, and `merged` counts it.
    function masksSound() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            Task memory x = tasks.task(t);
            for (uint256 r = 0; r < x.begun; r++) {
                uint256 mask = maskOf(t, r);
                uint256 n = 0;
                for (uint256 s = 0; s < 256 && mask >> s != 0; s++) {
                    if ((mask >> s) & 1 == 0) continue;
                    n++;
                    Work memory w = tasks.work(t, r, s);
                    bool sound = w.state == State.VALID && w.opened && w.no == 0 && w.disputes == 0;
                    if (!sound || w.yes < x.params.quorum) return false;
                }
                if (n != tasks.round(t, r).merged) return false;
            }
        }
        return true;
    }

    /// I15: a settled model is the initial one, or a proposal of its round that no proof could refute.
    function modelsRight() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            Task memory x = tasks.task(t);
            bytes32 before = x.model;
            for (uint256 r = 0; r < x.settled; r++) {
                Round memory rd = tasks.round(t, r);
                if (rd.proposer == address(0) && rd.root != before) return false;
                if (rd.root == 0 || rd.contest != 0) return false;
                before = rd.root;
            }
            if (before != tasks.model(t)) return false;
        }
        return true;
    }

    /// I11: the data seed is younger than the leases, the poll's seed younger than the works.
    function seedsYounger() external view returns (bool) {
        for (uint256 p = _firstPoll; p <= panel.polls(); p++) {
            Poll memory x = panel.poll(p);
            if (x.unrevealed != 0 && !x.seeded) return false;
            if (x.seed == 0) return false;
        }
        return _eachWork(_seeded);
    }

    function _seeded(uint256 t, uint256 r, uint256 s) private view returns (bool) {
        Work memory w = tasks.work(t, r, s);
        Round memory rd = tasks.round(t, r);
        bool late = s >= rd.claimed;
        return w.root == 0 || late || (rd.trainEnd != 0 && rd.seed != 0);
    }

    /// I12: no more is revealed than sealed, no more sealed than there are seats, and no vote counts twice.
    function votesSound() external view returns (bool) {
        for (uint256 p = _firstPoll; p <= panel.polls(); p++) {
            Poll memory x = panel.poll(p);
            if (x.unrevealed > x.seats || x.sealEnd > x.revealEnd) {
                return false;
            }
        }
        for (uint256 d = _firstDispute > 3 ? _firstDispute - 3 : 1; d <= court.disputes(); d++) {
            Dispute memory x = court.dispute(d);
            uint256 votes = uint256(x.hard) + x.soft + x.innocent;
            if (votes != 0 && votes > panel.poll(x.poll).seats) return false;
        }
        return true;
    }

    /// I8: a HARD ruling had two thirds of at least five votes, or an accused who said nothing.
    function convictionsSound() external view returns (bool) {
        for (uint256 d = _firstDispute > 3 ? _firstDispute - 3 : 1; d <= court.disputes(); d++) {
            Dispute memory x = court.dispute(d);
            if (x.phase != Phase.FINAL || x.outcome == State.VALID) continue;
            uint256 all = uint256(x.hard) + x.soft + x.innocent;
            if (x.poll == 0) {
                if (x.leaf == WITHHELD && x.outcome != State.SOFT) return false;
                continue;
            }
            if (uint256(x.hard) + x.soft <= x.innocent) return false;
            bool slash = all >= 5 && 3 * uint256(x.hard) >= 2 * all && x.leaf != WITHHELD;
            if ((x.outcome == State.HARD) != slash) return false;
        }
        return true;
    }

    /// I17: every round has at most 256 works, at most 64 of them merged.
    function roundsBounded() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            Task memory x = tasks.task(t);
            if (x.settled > x.begun || x.begun > x.params.rounds || x.begun > x.settled + x.params.lag) {
                return false;
            }
            for (uint256 r = 0; r < x.begun; r++) {
                Round memory rd = tasks.round(t, r);
                uint256 works = uint256(rd.claimed) + rd.late;
                if (works > 256 || rd.merged > 64 || rd.claimed > x.params.slots + rd.gone) return false;
                if (rd.submitted > rd.claimed || rd.undecided > works) return false;
            }
        }
        return true;
    }

    /// I20: what was published stays as it was published.
    function termsFrozen() external view returns (bool) {
        for (uint256 t = _recent(); t <= tasks.tasks(); t++) {
            if (keccak256(abi.encode(tasks.task(t).params)) != _published[t]) return false;
        }
        return true;
    }

    /// I10: every decoy won the lottery of the round that leased it, and is not merged.
    function decoysDrawn() external view returns (bool) {
        return _eachWork(_decoyDrawn);
    }

    function _decoyDrawn(uint256 t, uint256 r, uint256 s) private view returns (bool) {
        if (tasks.work(t, r, s).state != State.DECOY) return true;
        return _decoy(t, r, s) && (maskOf(t, r) >> s) & 1 == 0;
    }

    /// I5: the publisher never holds more than what he brought.
    function publisherGainsNothing() external view returns (bool) {
        return vault.free(publisher) + token.balanceOf(publisher) <= 1_000_000 * UNIT;
    }

    /// I9: at least half of whatever was lost is burnt; nobody but people and BURN holds a free balance.
    function burnsHalf() external view returns (bool) {
        return vault.free(BURN) >= _burntAtLeast;
    }

    /// One bit per move and per mark.
    function seen() external view returns (uint256 bits) {
        for (uint256 k = 0; k <= uint256(type(Kind).max); k++) {
            if (done[Kind(k)] != 0) bits |= 1 << k;
        }
        for (uint256 k = 0; k <= uint256(type(Mark).max); k++) {
            if (reached[Mark(k)] != 0) bits |= 1 << (128 + k);
        }
    }
}
