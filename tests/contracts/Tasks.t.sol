// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Beacon} from "../../contracts/libraries/Beacon.sol";
import {Header, Params, State} from "../../contracts/libraries/Types.sol";
import {Base, MergeRule, Trees} from "./Base.sol";

/// Every error and every event of Tasks, one verb at a time.
contract TasksTest is Base {
    bytes32 private constant SEAL = keccak256("seal");
    uint256 private t;
    uint256 private poll;

    function _world() private {
        _trainers(2);
        _seats(4);
        t = _publish(params());
    }

    function _checked() private {
        _world();
        poll = _submitted(t, 0);
    }

    function _merging() private {
        _checked();
        _vote(poll, 2, accepts(2));
        _open(t, 0, 0);
        _open(t, 0, 1);
    }

    // ------------------------------------------------------------------------------------------ publisher

    function test_publish() external {
        Params memory p = params();
        uint256 before = vault.free(publisher);
        vm.expectEmit(address(tasks));
        emit Tasks.Published(
            1, publisher, keccak256("spec"), keccak256("model 0"), p, "http://localhost/spec"
        );
        t = _publish(p);
        uint256 budget = 2 * (2 * (10e18 + 1e18) + 2e18);
        eq(before - vault.free(publisher), budget, "budget");
        eq(vault.pot(address(tasks), bytes32(t)), budget, "escrow");
        eq(tasks.risk(t), 25e16, "risk");
        eq(keccak256(abi.encode(tasks.task(t).params)), keccak256(abi.encode(p)), "I20");
    }

    function test_risk_has_a_floor() external {
        Params memory p = params();
        p.reward = 1e15;
        p.aggReward = 0;
        eq(tasks.risk(_publish(p)), RISK_MIN, "floor");
    }

    function _refused(bytes32 what, uint256 value, uint256 min, uint256 max, Params memory p) private {
        vm.expectRevert(abi.encodeWithSelector(Tasks.OutOfRange.selector, what, value, min, max));
        vm.prank(publisher);
        tasks.publish(p, 0, keccak256("m"), "");
    }

    function test_publish_checks_amounts() external {
        uint256 most = type(uint96).max;
        Params memory p = params();
        p.reward = 0;
        _refused("reward", 0, 1, most, p);
        p = params();
        p.bond = 10e18 - 1;
        _refused("bond", 10e18 - 1, 10e18, most, p);
        p = params();
        p.aggReward = 10e18 + 1;
        _refused("aggReward", 10e18 + 1, 0, 10e18, p);
        p = params();
        p.aggBond = 0;
        _refused("aggBond", 0, 1, most, p);
        p = params();
        p.feeBps = 99;
        _refused("feeBps", 99, 100, 5000, p);
        p.feeBps = 5001;
        _refused("feeBps", 5001, 100, 5000, p);
        p = params();
        (p.reward, p.bond, p.want, p.quorum) = (1000e18, 3000e18, 1, 1);
        _refused("risk", 200e18, 1, SEAT / 16, p);
        // One expected checker finds a cheat with 1 - exp(-0.4): less than half, so the bond has to be higher.
        p = params();
        (p.want, p.quorum, p.bond) = (1, 1, 20e18);
        _refused("bond", 20e18, 20_833_333_333_333_333_334, most, p);
    }

    function test_publish_checks_counts() external {
        Params memory p = params();
        p.slots = 0;
        _refused("slots", 0, 1, 256, p);
        p.slots = 257;
        _refused("slots", 257, 1, 256, p);
        p = params();
        p.rounds = 0;
        _refused("rounds", 0, 1, 65535, p);
        p = params();
        p.want = 0;
        _refused("want", 0, 1, 65535, p);
        p = params();
        p.quorum = 0;
        _refused("quorum", 0, 1, 8, p);
        p.quorum = 9;
        _refused("quorum", 9, 1, 8, p);
        p = params();
        p.lag = 0;
        _refused("lag", 0, 1, 4, p);
        p.lag = 5;
        _refused("lag", 5, 1, 4, p);
        p = params();
        p.decoyOneIn = 9;
        _refused("decoyOneIn", 9, 10, 4096, p);
        p.decoyOneIn = 4097;
        _refused("decoyOneIn", 4097, 10, 4096, p);
    }

    function _refusedRule(bytes32 what, uint256 value, uint256 min, uint256 max, MergeRule memory m) private {
        vm.expectRevert(abi.encodeWithSelector(Tasks.OutOfRange.selector, what, value, min, max));
        vm.prank(publisher);
        tasks.publish(ruled(params(), m), 0, keccak256("m"), "");
    }

    function test_publish_checks_the_merge_rule() external {
        MergeRule memory m = rule();
        m.length = 4095;
        _refusedRule("length", 1023, 0, 0, m);
        m.length = 0;
        _refusedRule("length", 0, 1, 2 ** 23 - 1, m);
        m.length = 2 ** 33;
        _refusedRule("length", 2 ** 23, 1, 2 ** 23 - 1, m);
        m = rule();
        m.shift = 25;
        _refusedRule("shift", 25, 0, 24, m);
        m = rule();
        m.trim = 50;
        _refusedRule("trim", 50, 0, 49, m);
        m = rule();
        m.lrDen = 0;
        _refusedRule("lrDen", 0, 1, 65535, m);
        m = rule();
        m.momentumDen = 0;
        _refusedRule("momentumDen", 0, 1, 65535, m);
        m = rule();
        m.momentumNum = 11;
        _refusedRule("momentumNum", 11, 0, 10, m);
    }

    function test_publish_checks_that_stakes_outlive_their_votes() external {
        Params memory p = params();
        p.sealT = 9000;
        _refused("exitDelay", EXIT_DELAY, 10 * (9000 + 40 + 30), type(uint40).max, p);
    }

    function test_publish_checks_windows() external {
        bytes32[6] memory names = [bytes32("claimT"), "trainT", "sealT", "revealT", "openT", "aggT"];
        for (uint256 i = 0; i < 6; i++) {
            for (uint256 k = 0; k < 2; k++) {
                uint24 bad = k == 0 ? 0 : 7 days + 1;
                Params memory p = params();
                if (i == 0) p.claimT = bad;
                else if (i == 1) p.trainT = bad;
                else if (i == 2) p.sealT = bad;
                else if (i == 3) p.revealT = bad;
                else if (i == 4) p.openT = bad;
                else p.aggT = bad;
                _refused(names[i], bad, 1, 7 days, p);
            }
        }
    }

    function test_publish_needs_a_model_and_the_money() external {
        vm.expectRevert(Tasks.ZeroRoot.selector);
        tasks.publish(params(), 0, 0, "");
        vm.expectRevert(abi.encodeWithSignature("ShortFree(address,uint256,uint256)", stranger, 0, 48e18));
        vm.prank(stranger);
        tasks.publish(params(), 0, keccak256("m"), "");
    }

    function test_risk_min_is_not_zero() external {
        vm.expectRevert(
            abi.encodeWithSelector(Tasks.OutOfRange.selector, bytes32("riskMin"), 0, 1, type(uint96).max)
        );
        new Tasks(vault, panel, court, 0);
    }

    function test_close() external {
        _world();
        vm.expectRevert(err(Tasks.UnknownTask.selector, 9));
        tasks.close(9);
        vm.expectRevert(abi.encodeWithSelector(Tasks.NotPublisher.selector, address(this), publisher));
        tasks.close(t);
        vm.expectEmit(address(tasks));
        emit Tasks.Closed(t);
        vm.prank(publisher);
        tasks.close(t);
        vm.expectRevert(err(Tasks.TaskClosed.selector, t));
        vm.prank(publisher);
        tasks.close(t);
        vm.expectRevert(err(Tasks.TaskClosed.selector, t));
        tasks.claim(t, 0, SEAL);
    }

    function test_reclaim() external {
        _world();
        vm.expectRevert(abi.encodeWithSelector(Tasks.StillRunning.selector, t, 0, 0, 0));
        tasks.reclaim(t);
        _claim(t, 0, 0, trainer(0));
        vm.prank(publisher);
        tasks.close(t);
        vm.expectRevert(abi.encodeWithSelector(Tasks.StillRunning.selector, t, 1, 0, 1));
        tasks.reclaim(t);
        _pass(60);
        tasks.touch(t, 0);
        _pass(100);
        tasks.touch(t, 0);
        tasks.expire(t, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(Tasks.StillRunning.selector, t, 0, 0, 1));
        tasks.reclaim(t);
        tasks.advance(t, 0);
        vm.expectEmit(address(tasks));
        emit Tasks.Reclaimed(t, 48e18);
        vm.prank(stranger);
        tasks.reclaim(t);
        eq(vault.free(publisher), 1_000_000 * UNIT, "the whole escrow, and nothing else (I5)");
        vm.expectRevert(err(Tasks.NothingLeft.selector, t));
        tasks.reclaim(t);
        solvent();
    }

    // -------------------------------------------------------------------------------------------- leases

    function test_claim() external {
        _world();
        uint40 claimEnd = uint40(block.timestamp + 60);
        vm.expectEmit(address(tasks));
        emit Tasks.RoundBegun(t, 0, keccak256("model 0"), claimEnd);
        vm.expectEmit(address(tasks));
        emit Tasks.Claimed(t, 0, 0, trainer(0), SEAL);
        vm.prank(trainer(0));
        tasks.claim(t, 0, SEAL);
        eq(vault.pot(address(tasks), potId(t, 0, 0)), 16e18, "bond");
        eq(tasks.task(t).pending, 1, "pending");
        vm.warp(claimEnd);
        vm.expectRevert(err(Tasks.ClaimOver.selector, t, 0));
        vm.prank(trainer(1));
        tasks.claim(t, 0, SEAL);
    }

    function test_the_last_lease_draws_the_beacon() external {
        _world();
        _claim(t, 0, 0, trainer(0));
        vm.expectEmit(address(tasks));
        emit Tasks.Drawn(t, 0, uint40(block.number + 1), uint40(block.timestamp + 100));
        _claim(t, 0, 1, trainer(0));
        vm.expectRevert(err(Tasks.ClaimOver.selector, t, 0));
        vm.prank(trainer(1));
        tasks.claim(t, 0, SEAL);
    }

    function test_claim_of_a_round_that_may_not_begin() external {
        _world();
        vm.expectRevert(err(Tasks.UnknownTask.selector, 9));
        tasks.claim(9, 0, SEAL);
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        tasks.claim(t, 1, SEAL);
        _claim(t, 0, 0, trainer(0));
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        tasks.claim(t, 1, SEAL);
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        tasks.base(t, 1);
    }

    function test_submit() external {
        _world();
        _claim(t, 0, 0, trainer(0));
        vm.expectRevert(err(Tasks.WrongState.selector, uint256(State.NONE)));
        tasks.submit(t, 0, 1, SEAL);
        vm.expectRevert(abi.encodeWithSelector(Tasks.NotTrainer.selector, address(this), trainer(0)));
        tasks.submit(t, 0, 0, SEAL);
        uint40 claimEnd = tasks.round(t, 0).claimEnd;
        vm.expectRevert(err(Tasks.TooEarly.selector, claimEnd));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, SEAL);
        _claim(t, 0, 1, trainer(1));
        vm.expectRevert(err(Beacon.SeedNotReady.selector, block.number + 1));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, SEAL);
        _mine(2);
        vm.expectRevert(Tasks.ZeroRoot.selector);
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, 0);
        uint256 beacon = tasks.round(t, 0).beacon;
        bytes32 seed = sha256(abi.encode(blockhash(beacon), t, uint256(0)));
        vm.expectEmit(address(tasks));
        emit Tasks.Seeded(t, 0, seed);
        vm.expectEmit(address(tasks));
        emit Tasks.Submitted(t, 0, 0, trainer(0), SEAL);
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, SEAL);
        vm.expectRevert(err(Tasks.WrongState.selector, uint256(State.SUBMITTED)));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, SEAL);
        uint40 trainEnd = tasks.round(t, 0).trainEnd;
        vm.warp(trainEnd);
        vm.expectRevert(err(Tasks.TooLate.selector, trainEnd));
        vm.prank(trainer(1));
        tasks.submit(t, 0, 1, SEAL);
    }

    function test_the_last_work_opens_the_poll() external {
        _world();
        _claimed(t, 0);
        _submit(t, 0, 0);
        vm.expectEmit(address(tasks));
        emit Tasks.Checking(t, 0, 1);
        _submit(t, 0, 1);
        eq(panel.poll(1).risk, tasks.risk(t), "risk");
        eq(panel.poll(1).want, 8, "want");
    }

    function test_touch() external {
        _world();
        vm.expectRevert(err(Tasks.UnknownRound.selector, t, 0));
        tasks.touch(t, 0);
        _claim(t, 0, 0, trainer(0));
        uint40 claimEnd = tasks.round(t, 0).claimEnd;
        vm.expectRevert(err(Tasks.TooEarly.selector, claimEnd));
        tasks.touch(t, 0);
        vm.warp(claimEnd);
        vm.expectEmit(address(tasks));
        emit Tasks.Drawn(t, 0, uint40(block.number + 1), claimEnd + 100);
        tasks.touch(t, 0);
        vm.expectRevert(err(Beacon.SeedNotReady.selector, block.number + 1));
        tasks.touch(t, 0);
        _mine(2);
        tasks.touch(t, 0);
        ok(tasks.round(t, 0).seed != 0, "seed");
        vm.expectRevert(err(Tasks.NothingDue.selector, t, 0));
        tasks.touch(t, 0);
        vm.warp(claimEnd + 100);
        vm.expectEmit(address(tasks));
        emit Tasks.Checking(t, 0, 0);
        tasks.touch(t, 0);
        vm.expectRevert(err(Tasks.NothingDue.selector, t, 0));
        tasks.touch(t, 0);
    }

    function test_touch_opens_the_poll_when_some_are_late() external {
        _world();
        _claimed(t, 0);
        _submit(t, 0, 1);
        _pass(100);
        vm.expectEmit(address(tasks));
        emit Tasks.Checking(t, 0, 1);
        tasks.touch(t, 0);
        vm.expectRevert(err(Tasks.NothingDue.selector, t, 0));
        tasks.touch(t, 0);
        eq(tasks.round(t, 0).submitted, 1, "one work");
    }

    function test_data_beacon_missed() external {
        _world();
        _claimed(t, 0);
        uint256 beacon = tasks.round(t, 0).beacon;
        uint40 trainEnd = tasks.round(t, 0).trainEnd;
        vm.roll(beacon + 257);
        bytes32 root = rootOf(t, 0, 0);
        vm.expectRevert(err(Beacon.BeaconMissed.selector, beacon));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, root);
        vm.expectEmit(address(tasks));
        emit Tasks.Drawn(t, 0, uint40(block.number + 1), trainEnd);
        tasks.touch(t, 0);
        _mine(2);
        _submit(t, 0, 0);
    }

    // --------------------------------------------------------------------------------------------- seals

    function test_open_seal_times() external {
        _world();
        _claimed(t, 0);
        _openFails(err(Tasks.WrongState.selector, uint256(State.CLAIMED)), t, 0, 0);
        _submit(t, 0, 0);
        uint256 trainEnd = tasks.round(t, 0).trainEnd;
        _openFails(err(Tasks.TooEarly.selector, trainEnd), t, 0, 0);
        _submit(t, 0, 1);
        (, uint40 revealEnd) = panel.ends(1);
        _openFails(err(Tasks.TooEarly.selector, revealEnd), t, 0, 0);
        vm.warp(revealEnd + 30);
        _openFails(err(Tasks.TooLate.selector, revealEnd + 30), t, 0, 0);
    }

    function test_open_seal_checks_the_opening() external {
        _checked();
        _vote(poll, 2, accepts(2));
        Header memory h = headerOf(t, 0, 0);
        bytes32 secret = secretOf(t, 0, 0);
        bytes32 seal = tasks.work(t, 0, 0).seal;
        bytes32 other = sha256(abi.encode(bytes32("x"), trainer(0)));
        vm.expectRevert(abi.encodeWithSelector(Tasks.WrongSecret.selector, seal, other));
        tasks.openSeal(t, 0, 0, "x", h);
        h.trajCount += 1;
        bytes32 root = Trees.single(abi.encode(h));
        bytes32 submitted = rootOf(t, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(Tasks.WrongHeader.selector, submitted, root));
        tasks.openSeal(t, 0, 0, secret, h);
        vm.expectEmit(address(tasks));
        emit Tasks.Opened(t, 0, 0, true, 10e18);
        _open(t, 0, 0);
        _openFails(err(Tasks.WrongState.selector, uint256(State.VALID)), t, 0, 0);
    }

    function test_expire() external {
        _world();
        _claim(t, 0, 0, trainer(0));
        vm.expectRevert(err(Tasks.TooEarly.selector, type(uint40).max));
        tasks.expire(t, 0, 0);
        _claim(t, 0, 1, trainer(1));
        _mine(2);
        _submit(t, 0, 1);
        uint40 trainEnd = tasks.round(t, 0).trainEnd;
        vm.expectRevert(err(Tasks.TooEarly.selector, trainEnd));
        tasks.expire(t, 0, 0);
        vm.warp(trainEnd);
        vm.expectEmit(address(tasks));
        emit Tasks.Expired(t, 0, 0, 2e18);
        tasks.expire(t, 0, 0);
        eq(vault.free(trainer(0)), 10_000 * UNIT - 2e18, "an eighth");
        vm.expectRevert(err(Tasks.WrongState.selector, uint256(State.EXPIRED)));
        tasks.expire(t, 0, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, trainEnd));
        tasks.expire(t, 0, 1);
        tasks.touch(t, 0);
        _toEnd(1);
        (, uint40 revealEnd) = panel.ends(1);
        vm.expectRevert(err(Tasks.TooEarly.selector, revealEnd + 30));
        tasks.expire(t, 0, 1);
        _pass(30);
        tasks.expire(t, 0, 1);
        eq(vault.free(address(0xdEaD)), 4e18, "burnt");
        eq(tasks.task(t).pending, 0, "pending");
        solvent();
    }

    // --------------------------------------------------------------------------------------------- votes

    function test_only_siblings() external {
        _world();
        vm.expectRevert(err(Tasks.NotPanel.selector, address(this)));
        tasks.onVote(1, 0);
        vm.expectRevert(err(Tasks.NotPanel.selector, address(this)));
        tasks.settleVote(1, 0, stranger);
        vm.expectRevert(err(Tasks.NotCourt.selector, address(this)));
        tasks.resolve(t, 0, 0, State.HARD);
    }

    function test_votes_that_mean_nothing() external {
        _checked();
        uint256[] memory votes = votes2(word(1, 4, 9), word(2, 0, 9));
        _seal(poll, 1, votes);
        _toReveal(poll);
        vm.expectEmit(address(panel));
        emit Panel.Voted(poll, 1, votes[0], false);
        _reveal(poll, 1, votes);
        eq(tasks.work(t, 0, 1).no, 0, "no such tree, no such slot");
        _toEnd(poll);
        _open(t, 0, 1);
        _settle(poll, 1, votes);
        eq(vault.pot(address(panel), bytes32(uint256(1))), SEAT, "costs nothing");
    }

    function test_settle_waits_for_the_verdict() external {
        _checked();
        _vote(poll, 1, accepts(2));
        vm.expectRevert(err(Tasks.NotFinal.selector, poll, 0));
        _settle(poll, 1, accepts(2));
    }

    function test_any_word_is_taken(uint256 vote) external {
        _checked();
        vm.prank(address(panel));
        tasks.onVote(poll, vote);
        vm.prank(address(panel));
        tasks.onVote(poll + 7, vote);
    }

    function test_dispute_events() external {
        _checked();
        _seal(poll, 1, votes1(word(1, 2, 8)));
        _toReveal(poll);
        vm.expectEmit(address(court));
        emit Court.Filed(1, t, 0, 1, 2, 7);
        _reveal(poll, 1, votes1(word(1, 2, 8)));
        _toEnd(poll);
        vm.expectEmit(address(tasks));
        emit Tasks.Opened(t, 0, 1, false, 0);
        _open(t, 0, 1);
        _openFails(err(Tasks.WrongState.selector, uint256(State.DISPUTED)), t, 0, 1);
        vm.expectRevert(err(Tasks.WrongState.selector, uint256(State.DISPUTED)));
        tasks.expire(t, 0, 1);
        vm.warp(block.timestamp + 30);
        vm.expectEmit(address(tasks));
        emit Tasks.Resolved(t, 0, 1, State.HARD, 0, 16e18);
        court.rule(1);
    }

    // --------------------------------------------------------------------------------------------- merge

    function test_propose() external {
        _checked();
        vm.expectRevert(err(Tasks.UnknownRound.selector, t, 1));
        _propose(t, 1, SEAL);
        (, uint40 revealEnd) = panel.ends(poll);
        vm.expectRevert(err(Tasks.TooEarly.selector, revealEnd + 30));
        _propose(t, 0, SEAL);
        eq(tasks.maskFinalAt(t, 0), revealEnd + 30, "as long as a seal may be opened");
        _vote(poll, 2, accepts(2));
        (, revealEnd) = panel.ends(poll);
        _open(t, 0, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, revealEnd + 30));
        _propose(t, 0, SEAL);
        _open(t, 0, 1);
        vm.expectRevert(Tasks.ZeroRoot.selector);
        _propose(t, 0, 0);
        vm.expectEmit(address(tasks));
        emit Tasks.Proposed(t, 0, SEAL, aggregator);
        _propose(t, 0, SEAL);
        vm.expectRevert(abi.encodeWithSelector(Tasks.ProposalLive.selector, SEAL));
        _propose(t, 0, "other");
        uint256 due = block.timestamp + 20;
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due);
        vm.expectEmit(address(tasks));
        emit Tasks.Advanced(t, 0, SEAL, 3, false);
        tasks.advance(t, 0);
        eq(tasks.model(t), SEAL, "model");
        vm.expectRevert(err(Tasks.NotNext.selector, 0, 1));
        tasks.advance(t, 0);
        vm.expectRevert(err(Tasks.NotNext.selector, 0, 1));
        _propose(t, 0, SEAL);
    }

    function test_nothing_to_merge() external {
        _checked();
        _toEnd(poll);
        _open(t, 0, 0);
        _open(t, 0, 1);
        vm.expectRevert(err(Tasks.EmptyMask.selector, t, 0));
        _propose(t, 0, SEAL);
        vm.expectEmit(address(tasks));
        emit Tasks.Advanced(t, 0, keccak256("model 0"), 0, true);
        tasks.advance(t, 0);
    }

    function test_nobody_proposes() external {
        _merging();
        uint256 due = block.timestamp + 80;
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due);
        vm.expectEmit(address(tasks));
        emit Tasks.Advanced(t, 0, keccak256("model 0"), 3, true);
        tasks.advance(t, 0);
        eq(tasks.base(t, 1), keccak256("model 0"), "unchanged");
    }

    function test_advance_waits_for_the_mask() external {
        _world();
        _claimed(t, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, 0));
        tasks.advance(t, 0);
    }

    function test_announce() external {
        vm.expectEmit(address(tasks));
        emit Tasks.Endpoint(address(this), "http://relay:8700");
        tasks.announce("http://relay:8700");
        vm.expectRevert(err(Tasks.UriTooLong.selector, 201, 200));
        tasks.announce(string(new bytes(201)));
    }
}
