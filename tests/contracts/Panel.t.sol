// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Panel} from "../../contracts/Panel.sol";
import {Beacon} from "../../contracts/libraries/Beacon.sol";
import {BURN, Poll} from "../../contracts/libraries/Types.sol";
import {Base} from "./Base.sol";

/// Seats, seeds, draws, sealed batches. Polls are opened in the Court's or Tasks' name, about nothing.
contract PanelTest is Base {
    uint96 private constant RISK = 1e18;

    function _ask(uint16 want) private returns (uint256 poll) {
        vm.prank(address(tasks));
        poll = panel.open(50, 40, want, RISK);
        _mine(2);
    }

    function _ask() private returns (uint256) {
        return _ask(3);
    }

    function test_sit() external {
        _rich(stranger, SEAT);
        vm.expectEmit(address(panel));
        emit Panel.Seated(1, stranger);
        vm.prank(stranger);
        eq(panel.sit(), 1, "first seat");
        eq(vault.pot(address(panel), bytes32(uint256(1))), SEAT, "stake");
        eq(panel.active(), 1, "active");
        solvent();
    }

    function test_exit_and_leave() external {
        _seats(1);
        vm.expectRevert(abi.encodeWithSelector(Panel.NotExited.selector, 1, 0));
        panel.leave(1);
        vm.expectRevert(abi.encodeWithSelector(Panel.NotSeatOwner.selector, 1, address(this)));
        panel.exit(1);
        uint40 exitAt = uint40(block.timestamp + EXIT_DELAY);
        vm.expectEmit(address(panel));
        emit Panel.Exiting(1, exitAt);
        vm.prank(owner(1));
        panel.exit(1);
        vm.expectRevert(abi.encodeWithSelector(Panel.AlreadyExiting.selector, 1, exitAt));
        vm.prank(owner(1));
        panel.exit(1);
        vm.expectRevert(abi.encodeWithSelector(Panel.NotExited.selector, 1, exitAt));
        panel.leave(1);
        vm.warp(exitAt);
        vm.expectEmit(address(panel));
        emit Panel.Left(1, owner(1));
        vm.prank(stranger);
        panel.leave(1);
        eq(vault.free(owner(1)), 10_000 * UNIT, "all back");
        vm.expectRevert(err(Panel.UnknownSeat.selector, 1));
        panel.leave(1);
        vm.expectRevert(err(Panel.UnknownSeat.selector, 1));
        panel.topUp(1, 1);
        solvent();
    }

    function test_no_leave_with_votes_unsettled() external {
        _seats(2);
        uint256 poll = _ask();
        _seal(poll, 1, accepts(2));
        vm.prank(owner(1));
        panel.exit(1);
        vm.warp(block.timestamp + EXIT_DELAY);
        vm.expectRevert(abi.encodeWithSelector(Panel.VotesUnsettled.selector, 1, 2 * RISK));
        panel.leave(1);
        panel.forfeit(poll, 1);
        panel.leave(1);
        eq(vault.free(owner(1)), 10_000 * UNIT - RISK, "less one risk");
    }

    function test_stake_bounds_votes_and_top_up() external {
        _seats(1);
        vm.prank(address(court));
        uint256 poll = panel.open(50, 40, 3, SEAT / 2);
        _mine(2);
        bytes32 hash = batchHash(poll, 1, accepts(3));
        vm.expectRevert(abi.encodeWithSelector(Panel.StakeTooSmall.selector, 1, SEAT, SEAT / 2 * 3));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 3);
        vm.prank(challenger);
        panel.topUp(1, SEAT / 2);
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 3);
        eq(panel.seat(1).reserved, SEAT / 2 * 3, "reserved");
        solvent();
    }

    function test_open() external {
        _seats(2);
        vm.expectRevert(err(Panel.NotAsker.selector, address(this)));
        panel.open(50, 40, 3, RISK);
        uint40 t = uint40(block.timestamp);
        vm.expectEmit(address(panel));
        emit Panel.PollOpened(1, address(tasks), t + 50, t + 90, 3, RISK, 2, uint40(block.number + 1));
        vm.prank(address(tasks));
        eq(panel.open(50, 40, 3, RISK), 1, "first poll");
    }

    function test_no_seats_no_waiting() external {
        uint256 poll = _ask();
        Poll memory p = panel.poll(poll);
        eq(p.sealEnd, block.timestamp, "sealing over");
        eq(p.revealEnd, block.timestamp, "revealing over");
    }

    function test_seed() external {
        vm.expectRevert(err(Panel.UnknownPoll.selector, 1));
        panel.seed(1);
        _seats(1);
        vm.prank(address(tasks));
        panel.open(50, 40, 3, RISK);
        uint256 beacon = block.number + 1;
        vm.expectRevert(err(Beacon.SeedNotReady.selector, beacon));
        panel.seed(1);
        _mine(1);
        vm.expectRevert(err(Beacon.SeedNotReady.selector, beacon));
        panel.seed(1);
        _mine(1);
        bytes32 want = sha256(abi.encode(blockhash(beacon), uint256(1)));
        vm.expectEmit(address(panel));
        emit Panel.Seeded(1, want);
        eq(panel.seed(1), want, "seed");
        _mine(300);
        eq(panel.seed(1), want, "stays");
    }

    function test_missed_beacon_is_armed_again() external {
        _seats(1);
        uint256 poll = _ask();
        uint256 beacon = beaconOf(poll);
        vm.roll(beacon + 257);
        bytes32 hash = batchHash(poll, 1, accepts(1));
        vm.expectRevert(err(Beacon.BeaconMissed.selector, beacon));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 1);
        vm.expectEmit(address(panel));
        emit Panel.Armed(poll, uint40(block.number + 1));
        eq(panel.seed(poll), 0, "no seed yet");
        _mine(2);
        _seal(poll, 1, accepts(1));
        ok(panel.poll(poll).seeded, "sealing stored the seed");
    }

    function test_the_last_block_of_a_beacon() external {
        _seats(1);
        uint256 poll = _ask();
        vm.roll(beaconOf(poll) + 256);
        ok(panel.seed(poll) != 0, "256 blocks later it is still readable");
    }

    function test_draw_is_the_documented_hash() external {
        _seats(5);
        uint256 poll = _ask(2);
        uint256 count = 0;
        bytes32 seed = sha256(abi.encode(blockhash(beaconOf(poll)), poll));
        for (uint256 item = 0; item < 40; item++) {
            for (uint256 s = 1; s <= 5; s++) {
                bool want = uint256(sha256(abi.encode(seed, item, s))) % 5 < 2;
                ok(panel.drawn(poll, item, s) == want, "drawn");
                if (want) count++;
            }
        }
        panel.seed(poll);
        ok(
            panel.drawn(poll, 7, 2) == (uint256(sha256(abi.encode(seed, uint256(7), uint256(2)))) % 5 < 2),
            "stored"
        );
        ok(count > 60 && count < 100, "about two of five");
    }

    function test_draw_before_the_beacon() external {
        _seats(5);
        vm.prank(address(tasks));
        uint256 poll = panel.open(50, 40, 2, RISK);
        vm.expectRevert(err(Beacon.SeedNotReady.selector, block.number + 1));
        panel.drawn(poll, 0, 1);
        vm.prank(address(court));
        poll = panel.open(50, 40, type(uint16).max, 0);
        ok(panel.drawn(poll, 0, 1), "a jury is everybody");
    }

    /// I11, I12: only seats that existed when the poll was opened count, in the poll's number and in the draw.
    function test_late_and_gone_seats() external {
        _seats(2);
        vm.prank(owner(2));
        panel.exit(2);
        uint256 poll = _ask();
        eq(panel.poll(poll).seats, 1, "one seat was active");
        _rich(owner(3), SEAT);
        vm.prank(owner(3));
        panel.sit();
        vm.prank(owner(1));
        panel.exit(1);
        ok(panel.drawn(poll, 0, 1), "left later");
        ok(!panel.drawn(poll, 0, 2), "left before");
        ok(!panel.drawn(poll, 0, 3), "came later");
        ok(!panel.drawn(poll, 0, 9), "never came");
        for (uint256 s = 2; s <= 3; s++) {
            bytes32 hash = batchHash(poll, s, accepts(1));
            vm.expectRevert(err(Panel.NotEligible.selector, poll, s));
            vm.prank(owner(s));
            panel.sealVotes(poll, s, hash, 1);
        }
        _seal(poll, 1, accepts(1));
    }

    function test_seal() external {
        _seats(2);
        uint256 poll = _ask();
        bytes32 hash = batchHash(poll, 1, accepts(2));
        vm.expectRevert(abi.encodeWithSelector(Panel.NotSeatOwner.selector, 1, address(this)));
        panel.sealVotes(poll, 1, hash, 2);
        vm.expectRevert(err(Panel.TooManyVotes.selector, 65, 64));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 65);
        vm.expectEmit(address(panel));
        emit Panel.Sealed(poll, 1, 2);
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 2);
        vm.expectRevert(err(Panel.AlreadySealed.selector, poll, 1));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 2);
        uint40 sealEnd = panel.poll(poll).sealEnd;
        vm.warp(sealEnd);
        vm.expectRevert(abi.encodeWithSelector(Panel.SealOver.selector, poll, sealEnd));
        vm.prank(owner(2));
        panel.sealVotes(poll, 2, hash, 2);
    }

    function test_windows_close_early() external {
        _seats(2);
        uint256 poll = _ask();
        _seal(poll, 1, accepts(1));
        vm.warp(block.timestamp + 5);
        uint40 t = uint40(block.timestamp);
        vm.expectEmit(address(panel));
        emit Panel.PollPhase(poll, t, t + 40);
        _seal(poll, 2, new uint256[](0));
        _reveal(poll, 1, accepts(1));
        vm.warp(block.timestamp + 3);
        vm.expectEmit(address(panel));
        emit Panel.PollPhase(poll, t, t + 3);
        _reveal(poll, 2, new uint256[](0));
        eq(panel.poll(poll).revealEnd, t + 3, "over");
    }

    function test_reveal() external {
        _seats(2);
        uint256 poll = _ask();
        uint256[] memory votes = accepts(2);
        bytes32 s = salt(poll, 1);
        _seal(poll, 1, votes);
        (uint40 sealEnd, uint40 revealEnd) = panel.ends(poll);
        bytes memory early = abi.encodeWithSelector(Panel.NotRevealTime.selector, poll, sealEnd, revealEnd);
        vm.expectRevert(early);
        panel.reveal(poll, 1, votes, s);
        vm.warp(sealEnd);
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        panel.reveal(poll, 1, votes, keccak256("other"));
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        panel.reveal(poll, 1, accepts(1), s);
        vm.expectRevert(err(Panel.NotSealed.selector, poll, 2));
        panel.reveal(poll, 2, votes, s);
        vm.expectRevert(err(Panel.NotRevealed.selector, poll, 1));
        panel.settle(poll, 1, votes, s);
        vm.expectEmit(address(panel));
        emit Panel.Voted(poll, 1, votes[0], false);
        vm.expectEmit(address(panel));
        emit Panel.Voted(poll, 1, votes[1], false);
        panel.reveal(poll, 1, votes, s);
        vm.expectRevert(abi.encodeWithSelector(Panel.NotRevealTime.selector, poll, sealEnd, sealEnd));
        panel.reveal(poll, 1, votes, s);
    }

    function test_reveal_twice_and_forfeit_of_revealed() external {
        _seats(3);
        uint256 poll = _ask();
        _seal(poll, 1, accepts(1));
        _seal(poll, 2, accepts(1));
        _toReveal(poll);
        _reveal(poll, 1, accepts(1));
        vm.expectRevert(err(Panel.AlreadyRevealed.selector, poll, 1));
        _reveal(poll, 1, accepts(1));
        _toEnd(poll);
        vm.expectRevert(err(Panel.AlreadyRevealed.selector, poll, 1));
        panel.forfeit(poll, 1);
    }

    /// A batch committed with another number of votes than it holds can never be revealed: it is forfeit.
    function test_a_wrong_count_cannot_be_revealed() external {
        _seats(1);
        uint256 poll = _ask();
        bytes32 hash = batchHash(poll, 1, accepts(2));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 1);
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        _reveal(poll, 1, accepts(2));
    }

    function test_votes_ascend() external {
        _seats(1);
        uint256 poll = _ask();
        uint256[] memory twice = votes2(word(1, 0, 0), word(1, 1, 5));
        _seal(poll, 1, twice);
        vm.expectRevert(err(Panel.UnsortedVotes.selector, 1));
        _reveal(poll, 1, twice);
    }

    /// I12: a batch is settled exactly once, also while the seat backs another one.
    function test_settle_once() external {
        _seats(1);
        uint256 poll = _ask();
        uint256 other = _ask();
        _seal(other, 1, accepts(3));
        _seal(poll, 1, accepts(2));
        _reveal(poll, 1, accepts(2));
        vm.expectEmit(address(panel));
        emit Panel.Settled(poll, 1, 0, 0);
        _settle(poll, 1, accepts(2));
        eq(panel.seat(1).reserved, 3 * uint256(RISK), "the other batch is still backed");
        vm.expectRevert(err(Panel.NotSealed.selector, poll, 1));
        _settle(poll, 1, accepts(2));
        vm.expectRevert(err(Panel.NotSealed.selector, poll, 1));
        panel.forfeit(poll, 1);
    }

    function test_forfeit() external {
        _seats(2);
        uint256 poll = _ask();
        _seal(poll, 1, accepts(3));
        _seal(poll, 2, new uint256[](0));
        (uint40 sealEnd, uint40 revealEnd) = panel.ends(poll);
        vm.expectRevert(abi.encodeWithSelector(Panel.NotRevealTime.selector, poll, sealEnd, revealEnd));
        panel.forfeit(poll, 1);
        _toEnd(poll);
        vm.expectEmit(address(panel));
        emit Panel.Forfeited(poll, 1, RISK);
        panel.forfeit(poll, 1);
        vm.expectEmit(address(panel));
        emit Panel.Forfeited(poll, 2, 0);
        panel.forfeit(poll, 2);
        eq(vault.free(address(0xdEaD)), RISK, "burnt");
        eq(panel.seat(1).reserved, 0, "released");
        vm.expectRevert(err(Panel.NotSealed.selector, poll, 1));
        panel.forfeit(poll, 1);
        solvent();
    }

    // --------------------------------------------------------------------------------------------- leak

    /// A vote that is shown to anybody before sealing ends is worth half of its stake to him, so votes cannot be sold.
    function test_leak() external {
        _seats(2);
        people.push(stranger);
        uint256 poll = _ask();
        _seal(poll, 1, accepts(3));
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        panel.leak(poll, 1, accepts(2), salt(poll, 1));
        vm.expectRevert(err(Panel.NotSealed.selector, poll, 2));
        panel.leak(poll, 2, accepts(3), salt(poll, 2));
        vm.expectEmit(address(panel));
        emit Panel.Leaked(poll, 1, stranger, 3 * RISK);
        vm.prank(stranger);
        panel.leak(poll, 1, accepts(3), salt(poll, 1));
        eq(vault.free(stranger), 3 * RISK / 2, "half to whoever knew");
        eq(vault.free(BURN), 3 * RISK - 3 * RISK / 2, "half burnt");
        eq(vault.pot(address(panel), bytes32(uint256(1))), SEAT - 3 * RISK, "from the seller's stake");
        eq(panel.seat(1).reserved, 0, "nothing reserved");
        eq(panel.poll(poll).unrevealed, 0, "no batch");
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        panel.leak(poll, 1, accepts(3), salt(poll, 1));
        bytes32 hash = batchHash(poll, 1, accepts(1));
        vm.expectRevert(err(Panel.AlreadySealed.selector, poll, 1));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, hash, 1);
        _seal(poll, 2, accepts(1));
        _toReveal(poll);
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 1));
        panel.reveal(poll, 1, accepts(3), salt(poll, 1));
        uint256 sealEnd = panel.poll(poll).sealEnd;
        vm.expectRevert(err(Panel.SealOver.selector, poll, sealEnd));
        panel.leak(poll, 2, accepts(1), salt(poll, 2));
        _toEnd(poll);
        vm.expectEmit(address(panel));
        emit Panel.Forfeited(poll, 1, 0);
        panel.forfeit(poll, 1);
        eq(panel.sealedOf(poll, 1), 0, "gone");
        solvent();
    }

    function test_leaking_an_abstention_earns_nothing() external {
        _seats(1);
        _seats2();
        uint256 poll = _ask();
        _seal(poll, 1, accepts(0));
        vm.prank(stranger);
        panel.leak(poll, 1, accepts(0), salt(poll, 1));
        eq(vault.free(stranger), 0, "nothing");
    }

    function _seats2() private {
        vm.prank(owner(1));
        panel.sit();
    }

    function test_seed_of() external {
        _seats(1);
        uint256 poll = _ask();
        eq(seedOf(poll), 0, "not needed yet");
        bytes32 seed = panel.seed(poll);
        eq(seedOf(poll), seed, "stored");
    }
}
