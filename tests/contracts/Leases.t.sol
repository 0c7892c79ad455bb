// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tasks} from "../../contracts/Tasks.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {Beacon} from "../../contracts/libraries/Beacon.sol";
import {
    BURN,
    DecoyProof,
    Header,
    Opening,
    Params,
    Round,
    State,
    Work
} from "../../contracts/libraries/Types.sol";
import {Base, MergeProof, Packed, Trees} from "./Base.sol";

/// The rarer ways of a lease: given back, late, a decoy.
contract LeasesTest is Base {
    uint256 private constant BOND = 16e18;
    uint256 private constant REWARD = 10e18;
    uint256 private constant FEE = 1e18;
    uint256 private t;
    bytes32 private noise; // the secret whose noise the activation proofs are; 0: none

    function _world(Params memory p) private {
        _trainers(3);
        _seats(4);
        t = _publish(p);
    }

    function _gain(address who) private view returns (int256) {
        return int256(vault.free(who)) - int256(10_000 * UNIT);
    }

    function _is(int256 got, int256 want, string memory what) private pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    // --------------------------------------------------------------------------------------- relinquish

    function test_relinquish() external {
        _world(params());
        _claim(t, 0, 0, trainer(0));
        vm.expectRevert(abi.encodeWithSelector(Tasks.NotTrainer.selector, stranger, trainer(0)));
        vm.prank(stranger);
        tasks.relinquish(t, 0, 0);
        vm.expectEmit(address(tasks));
        emit Tasks.Relinquished(t, 0, 0);
        vm.prank(trainer(0));
        tasks.relinquish(t, 0, 0);
        _is(_gain(trainer(0)), 0, "free of cost");
        eq(tasks.task(t).pending, 0, "nothing pending");
        vm.expectRevert(err(Tasks.WrongState.selector, uint256(State.EXPIRED)));
        vm.prank(trainer(0));
        tasks.relinquish(t, 0, 0);
        _claim(t, 0, 1, trainer(1)); // his place is free again
        eq(tasks.round(t, 0).trainEnd, 0, "one of two");
        _claim(t, 0, 2, trainer(2));
        ok(tasks.round(t, 0).trainEnd != 0, "full");
        _mine(2);
        _submit(t, 0, 1);
        _submit(t, 0, 2);
        ok(tasks.round(t, 0).poll != 0, "nobody waits for the lease that was given back");
    }

    /// Squatters cannot sit on the slots until nobody can take them: only the first half of the window is free.
    function test_relinquish_times() external {
        _world(params());
        _claim(t, 0, 0, trainer(0));
        uint256 half = block.timestamp + 30;
        vm.warp(half);
        vm.expectRevert(err(Tasks.TooLate.selector, half));
        vm.prank(trainer(0));
        tasks.relinquish(t, 0, 0);
        _claim(t, 0, 1, trainer(1)); // closes the claims
        vm.expectRevert(err(Tasks.TooLate.selector, 0));
        vm.prank(trainer(0));
        tasks.relinquish(t, 0, 0);
    }

    function test_relinquish_leaves_room_for_every_slot() external {
        Params memory p = params();
        p.slots = 254;
        _world(p);
        for (uint256 s = 0; s < 3; s++) {
            _claim(t, 0, s, trainer(0));
            if (s == 2) vm.expectRevert(err(Tasks.NoRoom.selector, t, 0));
            vm.prank(trainer(0));
            tasks.relinquish(t, 0, s);
        }
    }

    function test_everybody_relinquishes() external {
        _world(params());
        _claim(t, 0, 0, trainer(0));
        vm.prank(trainer(0));
        tasks.relinquish(t, 0, 0);
        _pass(60);
        tasks.touch(t, 0);
        _pass(100);
        tasks.touch(t, 0);
        tasks.advance(t, 0);
        eq(tasks.task(t).settled, 1, "an empty round");
    }

    // --------------------------------------------------------------------------------------------- late

    /// Slot 1 of round 0 is late; round 1 (lag 2) trains.
    function _late() private returns (uint256 place) {
        Params memory p = params();
        (p.lag, p.rounds) = (2, 3);
        _world(p);
        _claimed(t, 0);
        uint256 until = uint256(tasks.round(t, 0).trainEnd) + 60 + 100;
        vm.expectEmit(address(tasks));
        emit Tasks.Deferred(t, 0, 1, until);
        vm.prank(trainer(1));
        tasks.defer(t, 0, 1);
        _submit(t, 0, 0);
        bytes32 root = rootOf(t, 0, 1);
        vm.expectRevert(err(Tasks.TooEarly.selector, tasks.round(t, 0).trainEnd));
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, root);
        _pass(100);
        tasks.touch(t, 0); // opens the poll of round 0
        vm.expectRevert(err(Tasks.TooEarly.selector, until));
        tasks.expire(t, 0, 1);
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, root);
        _claim(t, 1, 0, trainer(0));
        _claim(t, 1, 1, trainer(2));
        _mine(2);
        vm.expectRevert(Tasks.ZeroRoot.selector);
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, 0);
        bytes32 seal = tasks.work(t, 0, 1).seal;
        vm.expectEmit(address(tasks));
        emit Tasks.Late(t, 0, 1, 255);
        vm.expectEmit(address(tasks));
        emit Tasks.Claimed(t, 1, 255, trainer(1), seal);
        vm.expectEmit(address(tasks));
        emit Tasks.Submitted(t, 1, 255, trainer(1), root);
        vm.prank(trainer(1));
        place = tasks.submitLate(t, 0, 1, root);
    }

    function secretOf(uint256 t_, uint256 r, uint256 s) internal view override returns (bytes32) {
        return s == 255 && r > 0 ? super.secretOf(t_, r - 1, 1) : super.secretOf(t_, r, s);
    }

    function headerOf(uint256 t_, uint256 r, uint256 s) internal view override returns (Header memory h) {
        h = s == 255 && r > 0 ? super.headerOf(t_, r - 1, 1) : super.headerOf(t_, r, s);
        if (noise != 0) (h.trajRoot, h.trajCount) = (Trees.root(_trajectories()), 3);
    }

    function test_a_late_work_enters_the_next_round_at_half() external {
        uint256 place = _late();
        eq(place, 255, "counted from the top");
        eq(tasks.work(t, 0, 1).state, State.EXPIRED, "moved");
        eq(tasks.work(t, 1, 255).state, State.SUBMITTED, "here");
        eq(tasks.lateness(potId(t, 1, 255)), 0 << 16 | 1 + 1, "where it was leased");
        eq(vault.pot(address(tasks), potId(t, 1, 255)), BOND, "bond and all");
        _submit(t, 1, 0);
        eq(tasks.round(t, 1).poll, 0, "one lease is still open");
        _submit(t, 1, 1);
        uint256 poll = tasks.round(t, 1).poll;
        ok(poll != 0, "everybody who leased has submitted");
        _mine(2);
        uint256[] memory votes = new uint256[](3);
        (votes[0], votes[1], votes[2]) = (word(0, 0, 0), word(1, 0, 0), word(255, 0, 0));
        _vote(poll, 4, votes);
        vm.expectEmit(address(tasks));
        emit Tasks.Opened(t, 1, 255, true, REWARD / 2);
        _open(t, 1, 255);
        eq(maskOf(t, 1), 1 << 255, "in the mask");
        _is(_gain(trainer(1)), int256(REWARD / 2), "half the reward");
        _open(t, 1, 0);
        _open(t, 1, 1);
        _settle(poll, 1, votes);
        eq(panel.seat(1).reserved, 0, "settled");
    }

    function test_settling_waits_for_the_others() external {
        _late();
        _submit(t, 1, 0);
        _submit(t, 1, 1);
        uint256 poll = tasks.round(t, 1).poll;
        _mine(2);
        _vote(poll, 1, votes1(word(255, 0, 0)));
        vm.expectRevert(err(Tasks.NotFinal.selector, poll, 255));
        panel.settle(poll, 1, votes1(word(255, 0, 0)), salt(poll, 1));
    }

    function test_a_late_work_can_be_disputed() external {
        _late();
        _submit(t, 1, 0);
        _submit(t, 1, 1);
        uint256 poll = tasks.round(t, 1).poll;
        _mine(2);
        _vote(poll, 1, votes1(word(255, 3, 5)));
        _open(t, 1, 255);
        _judge(1, 4, 0);
        eq(tasks.work(t, 1, 255).state, State.VALID, "acquitted");
        _is(_gain(trainer(1)), int256(REWARD / 2), "half the reward");
    }

    function test_a_late_work_alone_opens_a_poll() external {
        _late();
        _pass(100);
        tasks.touch(t, 1);
        ok(tasks.round(t, 1).poll != 0, "there is something to check");
    }

    function test_too_late() external {
        Params memory p = params();
        (p.lag, p.rounds) = (2, 3);
        _world(p);
        _claimed(t, 0);
        _submit(t, 0, 0);
        _pass(100);
        tasks.touch(t, 0);
        _claim(t, 1, 0, trainer(0));
        _claim(t, 1, 1, trainer(2));
        _pass(100);
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, "root");
        tasks.expire(t, 0, 1); // it was not deferred
        _is(_gain(trainer(1)), -int256(BOND / 8), "an eighth");
    }

    function test_defer_times() external {
        _world(params());
        _claim(t, 0, 0, trainer(0));
        vm.expectRevert(err(Tasks.TooEarly.selector, block.timestamp + 60));
        vm.prank(trainer(0));
        tasks.defer(t, 0, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, 0));
        vm.prank(trainer(0));
        tasks.submitLate(t, 0, 0, "root");
        _claim(t, 0, 1, trainer(1));
        uint256 end = tasks.round(t, 0).trainEnd;
        vm.warp(end);
        vm.expectRevert(err(Tasks.TooLate.selector, end));
        vm.prank(trainer(0));
        tasks.defer(t, 0, 0);
    }

    /// A seed that nobody stored in time cannot be made up later.
    function test_late_needs_the_seed() external {
        Params memory p = params();
        (p.lag, p.rounds) = (2, 3);
        _world(p);
        _claimed(t, 0);
        uint256 beacon = tasks.round(t, 0).beacon;
        _mine(300);
        _pass(100);
        vm.expectRevert(err(Beacon.BeaconMissed.selector, beacon));
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, "root");
    }

    function test_no_room_for_another_late_work() external {
        Params memory p = params();
        (p.lag, p.rounds, p.slots) = (2, 2, 256);
        _world(p);
        for (uint256 r = 0; r < 2; r++) {
            for (uint256 s = 0; s < 256; s++) {
                _claim(t, r, s, trainer(s % 3));
            }
            _mine(2);
            if (r == 1) break;
            _submit(t, 0, 0);
            _pass(100);
            tasks.touch(t, 0);
        }
        vm.expectRevert(err(Tasks.NoRoom.selector, t, 1));
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, "root");
    }

    bytes[] private base_; // leaves of the model, when a test needs them

    function firstModel() internal override returns (bytes32) {
        delete base_;
        for (uint256 i = 0; i < 8; i++) {
            base_.push(leavesOf(uint8(9 + i), 1)[0]);
        }
        return Trees.root(base_);
    }

    /// A leaf that begins with this lane.
    function _leaf(int256 x) private pure returns (bytes memory data) {
        data = new bytes(1024);
        uint32 u = uint32(int32(x));
        for (uint256 b = 0; b < 4; b++) {
            data[b] = bytes1(uint8(u >> (8 * b)));
        }
    }

    function laneOf(bytes calldata leaf) external pure returns (int256) {
        return Exact.lane(bytes4(leaf[:4]));
    }

    /// Only the late work of slot 255 is merged; it counts half.
    function test_a_late_update_is_shifted() external {
        _late();
        _pass(100);
        tasks.touch(t, 1);
        uint256 late = tasks.round(t, 1).poll;
        _mine(2);
        _vote(late, 2, votes1(word(255, 0, 0)));
        _open(t, 1, 255);
        tasks.expire(t, 0, 0);
        tasks.advance(t, 0); // nothing to merge in round 0
        int256 x = Exact.clamped(this.laneOf(leavesOf(1, 4)[0]), false);
        (int256 m, int256 w) = (this.laneOf(base_[4]), this.laneOf(base_[0]));
        for (uint256 shift = 0; shift < 2; shift++) {
            int256[] memory lanes = new int256[](1);
            lanes[0] = x >> shift;
            (int256 next, int256 step) = Exact.outer(params(), m, Exact.gradient(params(), lanes));
            bytes[] memory to = base_;
            (to[0], to[4]) = (_leaf(Exact.saturate(w - step)), _leaf(Exact.saturate(next)));
            _propose(t, 1, Trees.root(to));
            MergeProof memory p;
            (p.leaf, p.proposed) = (4, Trees.open(to, 4));
            p.momentum = Trees.open(base_, 4);
            p.updates = new Opening[](1);
            p.updates[0] = leafOf(1, 0);
            if (shift == 1) vm.expectRevert(err(Tasks.NotWrong.selector, 4, 0));
            tasks.proveMerge(t, 1, p.leaf, p.lane, Packed.proof(p));
        }
    }

    // ------------------------------------------------------------------------------------------- decoys

    /// The lottery of a late work is the one of the round that leased it.
    function test_a_late_work_keeps_its_lottery() external {
        Params memory p = params();
        (p.lag, p.rounds, p.decoyOneIn) = (2, 3, 10);
        _trainers(3);
        _seats(4);
        for (uint256 i = 0; i < 200; i++) {
            t = _publish(p);
            _claimed(t, 0);
            tasks.touch(t, 0);
            if (Exact.drawn(super.secretOf(t, 0, 1), tasks.round(t, 0).seed, 10)) break;
        }
        vm.prank(trainer(1));
        tasks.defer(t, 0, 1);
        _submit(t, 0, 0);
        _pass(100);
        tasks.touch(t, 0);
        _claim(t, 1, 0, trainer(0));
        _claim(t, 1, 1, trainer(2));
        _mine(2);
        noise = super.secretOf(t, 0, 1);
        bytes32 root = rootOf(t, 0, 1);
        vm.prank(trainer(1));
        tasks.submitLate(t, 0, 1, root);
        _pass(100);
        tasks.touch(t, 1);
        uint256 poll = tasks.round(t, 1).poll;
        _toEnd(poll);
        _openFails(abi.encodeWithSelector(Tasks.DecoyDue.selector, t, 1, 255), t, 1, 255);
        Header memory h = headerOf(t, 1, 255);
        DecoyProof memory d = _decoyProof(poll, 255);
        int256 before = _gain(trainer(1));
        tasks.openDecoy(t, 1, 255, noise, h, d);
        _is(_gain(trainer(1)) - before, int256(BOND + REWARD / 2), "paid half, like any late work");
    }

    function _trajectories() private view returns (bytes[] memory data) {
        data = new bytes[](3);
        for (uint256 i = 0; i < 3; i++) {
            data[i] = abi.encodePacked(new bytes(40), Trees.root(_activations(i)), new bytes(952));
        }
    }

    /// An activation proof of two leaves that begins with the noise.
    function _activations(uint256 i) private view returns (bytes[] memory data) {
        data = new bytes[](2);
        data[0] = abi.encodePacked(hex"ffd9", Exact.noise(noise, i), new bytes(990));
        data[1] = new bytes(1024);
    }

    function _decoyProof(uint256 poll, uint256 slot) private view returns (DecoyProof memory d) {
        uint256 i = Exact.mandatory(seedOf(poll), slot, 3);
        d = DecoyProof(Trees.open(_trajectories(), i), 2048, Trees.open(_activations(i), 0));
    }

    /// A task with decoys, run until slot 0 of a new task draws one.
    function _drawn(bool decoy) private returns (uint256 poll) {
        Params memory p = params();
        p.decoyOneIn = 10;
        _trainers(2);
        _seats(4);
        for (uint256 i = 0; i < 200; i++) {
            t = _publish(p);
            _claimed(t, 0);
            tasks.touch(t, 0);
            bytes32 seed = tasks.round(t, 0).seed;
            bool other = Exact.drawn(secretOf(t, 0, 1), seed, 10);
            if (!other && Exact.drawn(secretOf(t, 0, 0), seed, 10) == decoy) break;
        }
        noise = decoy ? secretOf(t, 0, 0) : bytes32(0);
        _submit(t, 0, 0);
        noise = 0;
        _submit(t, 0, 1);
        noise = decoy ? secretOf(t, 0, 0) : bytes32(0);
        poll = tasks.round(t, 0).poll;
        _mine(2);
    }

    function _openDecoy(uint256 poll) private {
        Header memory h = headerOf(t, 0, 0);
        DecoyProof memory d = _decoyProof(poll, 0);
        vm.prank(stranger);
        tasks.openDecoy(t, 0, 0, secretOf(t, 0, 0), h, d);
    }

    /// I10: whoever accepted it loses his risk, whoever rejected it shares the fee, its trainer is paid.
    function test_a_decoy() external {
        uint256 poll = _drawn(true);
        int256 before = _gain(trainer(0));
        uint256 risk = tasks.risk(t);
        eq(risk, 2 * 10 * FEE / 8, "ten times as much as without decoys");
        uint256[] memory lazy = accepts(2);
        uint256[] memory awake = votes2(word(0, 2, 2), word(1, 0, 0));
        for (uint256 i = 1; i <= 4; i++) {
            _seal(poll, i, i <= 2 ? lazy : awake);
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(poll, i, i <= 2 ? lazy : awake);
        }
        _openFails(abi.encodeWithSelector(Tasks.DecoyDue.selector, t, 0, 0), t, 0, 0);
        Header memory h = headerOf(t, 0, 0);
        DecoyProof memory d = _decoyProof(poll, 0);
        bytes32 secret = secretOf(t, 0, 0);
        uint256 index = Exact.mandatory(seedOf(poll), 0, 3);
        vm.expectEmit(address(tasks));
        emit Tasks.Opened(t, 0, 0, false, REWARD);
        vm.expectEmit(address(tasks));
        emit Tasks.Decoyed(t, 0, 0, index);
        vm.prank(stranger);
        tasks.openDecoy(t, 0, 0, secret, h, d);
        eq(tasks.work(t, 0, 0).state, State.DECOY, "decoy");
        _is(_gain(trainer(0)) - before, int256(BOND + REWARD), "its trainer is paid");
        eq(maskOf(t, 0), 0, "never merged");
        noise = 0;
        _open(t, 0, 1);
        _settle(poll, 1, lazy);
        _settle(poll, 3, awake);
        int256 seat1 = _gain(owner(1)) + int256(vault.pot(address(panel), bytes32(uint256(1))));
        int256 seat3 = _gain(owner(3)) + int256(vault.pot(address(panel), bytes32(uint256(3))));
        _is(seat1, int256(FEE / 4) - int256(risk), "lazy");
        _is(seat3, int256(FEE / 4 + FEE / 2), "awake");
        eq(vault.free(BURN), risk, "to nobody");
        vm.warp(block.timestamp + 30);
        court.rule(1); // the dispute over it ends without effect
        eq(tasks.work(t, 0, 0).state, State.DECOY, "still");
        solvent();
    }

    /// A decoy cannot be convicted before its secret could be shown.
    function test_no_jury_convicts_a_decoy() external {
        uint256 poll = _drawn(true);
        _vote(poll, 1, votes1(word(0, 2, 2)));
        Header memory h = headerOf(t, 0, 0);
        Opening memory leaf = Trees.open(_trajectories(), 1);
        vm.prank(stranger);
        court.answer(1, h, leaf);
        uint256 jury = court.dispute(1).poll;
        _mine(2);
        for (uint256 i = 1; i <= 4; i++) {
            _seal(jury, i, votes1(word(0, 0, 1)));
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(jury, i, votes1(word(0, 0, 1)));
        }
        (, uint256 until) = tasks.accused(t, 0, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, until));
        court.rule(1);
        int256 before = _gain(trainer(0));
        _openDecoy(poll);
        vm.warp(until);
        court.rule(1);
        _is(_gain(trainer(0)) - before, int256(BOND + REWARD), "paid");
    }

    /// I10: neither a work that did not draw the lottery, nor another noise, nor another place is a decoy.
    function test_what_is_no_decoy() external {
        uint256 poll = _drawn(false);
        _toEnd(poll);
        Header memory h = headerOf(t, 0, 0);
        (bytes32 secret, DecoyProof memory d) = (secretOf(t, 0, 0), _decoyProof(poll, 0));
        uint256 index = Exact.mandatory(seedOf(poll), 0, h.trajCount);
        vm.expectRevert(err(Tasks.WrongDecoy.selector, index));
        tasks.openDecoy(t, 0, 0, secret, h, d);
        _open(t, 0, 0);
    }

    function test_a_decoy_is_bad_at_the_mandatory_place() external {
        uint256 poll = _drawn(true);
        _toEnd(poll);
        Header memory h = headerOf(t, 0, 0);
        bytes32 secret = secretOf(t, 0, 0);
        uint256 index = Exact.mandatory(seedOf(poll), 0, 3);
        uint256 other = (index + 1) % 3;
        for (uint256 k = 0; k < 4; k++) {
            DecoyProof memory d = _decoyProof(poll, 0);
            if (k == 0) d.trajectory = Trees.open(_trajectories(), other);
            if (k == 1) d.proof = Trees.open(_activations(other), 0);
            if (k == 2) d.length = 1024;
            if (k == 3) d.proof = Trees.open(_activations(index), 1);
            vm.expectRevert(err(Tasks.WrongDecoy.selector, index));
            tasks.openDecoy(t, 0, 0, secret, h, d);
        }
        _openDecoy(poll);
    }

    /// The trainer's own noise of another secret, or no trajectories at all, do not do.
    function test_a_decoy_needs_its_own_noise() external {
        uint256 poll = _drawn(true);
        bytes32 secret = noise;
        noise = keccak256("another secret");
        uint256 index = Exact.mandatory(seedOf(poll), 0, 3);
        Header memory h = headerOf(t, 0, 0);
        DecoyProof memory d = _decoyProof(poll, 0);
        ok(!Exact.decoy(secret, index, h, d), "another noise");
        noise = secret;
        h = headerOf(t, 0, 0);
        d = _decoyProof(poll, 0);
        ok(Exact.decoy(secret, index, h, d), "its own");
        h.trajCount = 0;
        ok(!Exact.decoy(secret, 0, h, d), "no trajectories");
    }

    function test_a_work_without_trajectories_is_no_decoy() external {
        Params memory p = params();
        p.decoyOneIn = 10;
        _world(p);
        _claimed(t, 0);
        Header memory h = super.headerOf(t, 0, 0);
        h.trajCount = 0;
        bytes32 root = Exact.rootOf(h);
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, root);
        _submit(t, 0, 1);
        _toEnd(tasks.round(t, 0).poll);
        DecoyProof memory d;
        bytes32 secret = secretOf(t, 0, 0);
        vm.expectRevert(err(Tasks.WrongDecoy.selector, 0));
        tasks.openDecoy(t, 0, 0, secret, h, d);
    }

    /// One in D, whoever the trainer is and whatever his secret.
    function test_the_lottery_is_fair() external pure {
        uint256 n = 0;
        for (uint256 i = 0; i < 5000; i++) {
            if (Exact.drawn(bytes32(i), keccak256("seed"), 10)) n++;
        }
        ok(n > 420 && n < 580, "about one in ten");
        ok(!Exact.drawn("secret", "seed", 0), "none without decoys");
    }

    /// Noise is what an honest proof's coefficients look like: every 16-bit word is below the field's prime.
    /// forge-config: default.fuzz.runs = 1000
    /// forge-config: deep.fuzz.runs = 100000
    function test_noise_passes_a_format_check(bytes32 secret, uint256 index) external pure {
        uint256 x = uint256(Exact.noise(secret, index));
        for (uint256 i = 0; i < 16; i++) {
            ok((x >> (16 * i)) & 0xffff < 65_497, "a coefficient");
        }
    }

    /// Who drops every lease that is no decoy loses: an eighth of the bond nine times in ten beats one reward in ten.
    function test_decoy_farming_loses() external pure {
        for (uint256 d = 10; d <= 4096; d++) {
            ok(REWARD / 8 * (d - 1) > REWARD, "even at the least bond");
        }
    }
}
