// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tasks} from "../../contracts/Tasks.sol";
import {BURN, Params, Poll, State, Work} from "../../contracts/libraries/Types.sol";
import {Base} from "./Base.sol";

/// Whole stories, paid to the wei.
contract ScenariosTest is Base {
    uint256 private constant REWARD = 10e18;
    uint256 private constant BOND = 16e18;
    uint256 private constant FEE = 1e18;
    uint256 private constant RISK = 25e16;
    uint256 private constant AGG = 2e18;
    uint256 private constant AGG_BOND = 6e18;
    uint256 private constant START = 10_000e18;
    bytes32 private constant MODEL_0 = keccak256("model 0");

    uint256 private t;
    uint256 private poll;

    function _world(Params memory p) private {
        _trainers(3);
        _seats(4);
        t = _publish(p);
    }

    function _world() private {
        _world(params());
    }

    function _gain(address who) private view returns (int256) {
        return int256(vault.free(who)) - int256(START);
    }

    function _seatGain(uint256 seat) private view returns (int256) {
        return int256(vault.free(owner(seat)) + vault.pot(address(panel), bytes32(seat))) - int256(START);
    }

    function eq(int256 got, int256 want, string memory what) private pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    /// Closes and reclaims; every pot of Tasks is empty afterwards and the publisher paid exactly `cost`.
    function _end(uint256 cost) private {
        if (!tasks.task(t).closed) {
            vm.prank(publisher);
            tasks.close(t);
        }
        if (vault.pot(address(tasks), bytes32(t)) != 0) {
            vm.prank(stranger);
            tasks.reclaim(t);
        }
        for (uint256 i = 0; i < taskPots.length; i++) {
            eq(vault.pot(address(tasks), taskPots[i]), 0, "no pot is left");
        }
        eq(1_000_000 * UNIT - vault.free(publisher), cost, "what the publisher paid");
        solvent();
    }

    function test_honest_rounds() external {
        _world();
        uint256 first = _honestRound(t, 0, 4);
        uint256 second = _honestRound(t, 1, 4);
        eq(maskOf(t, 0), 3, "both in the mask");
        eq(tasks.model(t), keccak256(abi.encode("model", uint256(2))), "model advanced twice");
        ok(tasks.task(t).closed, "closed after the last round");
        for (uint256 i = 1; i <= 4; i++) {
            _settle(first, i, accepts(2));
            _settle(second, i, accepts(2));
            eq(_seatGain(i), int256(4 * FEE / 4), "a quarter of four fees");
            eq(panel.seat(i).reserved, 0, "nothing reserved");
        }
        eq(_gain(trainer(0)), int256(2 * REWARD), "trainer");
        eq(int256(vault.free(aggregator)) - int256(100_000 * UNIT), int256(2 * AGG), "aggregator");
        eq(vault.free(BURN), 0, "nothing burnt");
        _end(4 * (REWARD + FEE) + 2 * AGG);
    }

    /// I5, I6, I9: the cheat loses his bond, the finders get half, the rest is burnt, the publisher gets his money back.
    function test_a_cheat_is_convicted() external {
        _world();
        poll = _submitted(t, 0);
        uint256[] memory finders = votes2(word(0, 3, 5), word(1, 0, 0));
        for (uint256 i = 1; i <= 3; i++) {
            _seal(poll, i, finders);
        }
        _seal(poll, 4, accepts(2)); // lazy or bribed
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(poll, i, i == 4 ? accepts(2) : finders);
        }
        _open(t, 0, 0); // it does not save him
        _open(t, 0, 1);
        _concede(1);
        eq(tasks.work(t, 0, 0).state, State.HARD, "convicted");
        for (uint256 i = 1; i <= 4; i++) {
            _settle(poll, i, i == 4 ? accepts(2) : finders);
        }
        uint256 share = BOND / 2 / 3;
        eq(_gain(trainer(0)), -int256(BOND), "cheat");
        eq(_seatGain(1), int256(share + FEE / 3 + FEE / 4), "finder");
        eq(_seatGain(4), int256(FEE / 4), "who accepted the cheat gets nothing for that");
        eq(vault.free(BURN), BOND - 3 * share, "the other half and the dust");
        ok(vault.free(BURN) >= BOND / 2, "I9");
        eq(maskOf(t, 0), 2, "only the honest work");
        _merge(t, 0, keccak256("m1"));
        _end(REWARD + FEE + FEE / 3 * 3 + AGG);
    }

    function test_withheld_data_costs_the_reward_only() external {
        _world();
        poll = _submitted(t, 0);
        _vote(poll, 2, votes1(word(0, 1, WITHHELD)));
        _judge(1, 4, WITHHELD);
        eq(tasks.work(t, 0, 0).state, State.SOFT, "soft");
        eq(_gain(trainer(0)), 0, "bond back, no reward");
        _settle(poll, 1, votes1(word(0, 1, WITHHELD)));
        eq(_seatGain(1), int256(FEE / 2), "half the fee");
        eq(vault.free(BURN), 0, "nothing burnt");
        solvent();
    }

    function test_a_sham_reject_pays_the_trainer() external {
        _world();
        poll = _submitted(t, 0);
        _seal(poll, 1, votes2(word(0, 3, 5), word(1, 0, 0)));
        _seal(poll, 2, accepts(2));
        _seal(poll, 3, accepts(2));
        _toReveal(poll);
        _reveal(poll, 1, votes2(word(0, 3, 5), word(1, 0, 0)));
        _reveal(poll, 2, accepts(2));
        _reveal(poll, 3, accepts(2));
        _open2(0);
        _judge(1, 4, 0);
        eq(tasks.work(t, 0, 0).state, State.VALID, "acquitted");
        eq(maskOf(t, 0), 2, "not in this round's mask");
        _settle(poll, 1, votes2(word(0, 3, 5), word(1, 0, 0)));
        _settle(poll, 2, accepts(2));
        _settle(poll, 3, accepts(2));
        eq(_gain(trainer(0)), int256(REWARD + RISK / 2), "paid and compensated");
        eq(vault.free(BURN), RISK / 2, "the other half is burnt");
        eq(
            _seatGain(1),
            int256(FEE / 3) - int256(RISK),
            "the accuser lost one risk, and was right about slot 1"
        );
        eq(_seatGain(2), int256(FEE / 2 + FEE / 3), "accepters of both");
        solvent();
    }

    /// Acquitted before its seal was opened: it is opened like any other work, and may still expire.
    function test_acquitted_then_opened_or_expired() external {
        Params memory p = params();
        p.openT = 600;
        _world(p);
        poll = _submitted(t, 0);
        uint256[] memory sham = votes2(word(0, 3, 5), word(1, 3, 5));
        _vote(poll, 1, sham);
        _judge(1, 0, 0);
        _judge(2, 0, 0);
        eq(tasks.work(t, 0, 0).state, State.SUBMITTED, "waits for its seal");
        vm.expectEmit(address(tasks));
        emit Tasks.Opened(t, 0, 0, false, REWARD);
        _open(t, 0, 0);
        (, uint40 revealEnd) = panel.ends(poll);
        vm.warp(revealEnd + 600);
        tasks.expire(t, 0, 1);
        _settle(poll, 1, sham);
        eq(_gain(trainer(0)), int256(REWARD + RISK / 2), "paid");
        eq(_gain(trainer(1)), -int256(BOND / 8) + int256(RISK / 2), "late, but compensated");
        eq(_seatGain(1), -int256(2 * RISK), "two sham rejects");
        tasks.advance(t, 0);
        _end(REWARD);
    }

    function test_nobody_votes() external {
        _world();
        poll = _submitted(t, 0);
        _toEnd(poll);
        _open(t, 0, 0);
        _open(t, 0, 1);
        eq(_gain(trainer(0)), int256(REWARD), "a strike cannot rob trainers");
        eq(maskOf(t, 0), 0, "unchecked updates never enter the model");
        tasks.advance(t, 0);
        eq(tasks.model(t), MODEL_0, "unchanged");
        _end(2 * REWARD);
    }

    function test_quorum_decides_the_mask() external {
        _world();
        poll = _submitted(t, 0);
        _seal(poll, 1, accepts(2));
        _seal(poll, 2, votes1(word(0, 0, 0)));
        _toReveal(poll);
        _reveal(poll, 1, accepts(2));
        _reveal(poll, 2, votes1(word(0, 0, 0)));
        _open(t, 0, 0);
        _open(t, 0, 1);
        eq(maskOf(t, 0), 1, "slot 0 has two accepts, slot 1 one");
    }

    /// I12: an accept counts only from a drawn seat; the undrawn one is neither paid nor charged.
    function test_undrawn_accepts_do_not_count() external {
        Params memory p = params();
        (p.want, p.quorum, p.slots) = (1, 1, 16);
        p.bond = 21e18; // one checker in expectation: a higher bond is asked for
        _trainers(16);
        _seats(4);
        t = _publish(p);
        poll = _submitted(t, 0);
        panel.seed(poll);
        _vote(poll, 4, accepts(16));
        uint256 counted = 0;
        for (uint256 s = 0; s < 16; s++) {
            uint256 drawn = 0;
            for (uint256 i = 1; i <= 4; i++) {
                if (panel.drawn(poll, s, i)) drawn++;
            }
            eq(tasks.work(t, 0, s).yes, drawn, "only the drawn");
            _open(t, 0, s);
            ok((maskOf(t, 0) >> s) & 1 == (drawn == 0 ? 0 : 1), "mask follows the quorum");
            counted += drawn;
        }
        ok(counted > 4 && counted < 40, "about one per work");
        for (uint256 i = 1; i <= 4; i++) {
            _settle(poll, i, accepts(16));
        }
        _merge(t, 0, "m");
        solvent();
    }

    function test_unopened_seal() external {
        _world();
        poll = _submitted(t, 0);
        _vote(poll, 4, accepts(2));
        _open(t, 0, 0);
        _pass(30);
        tasks.expire(t, 0, 1);
        eq(_gain(trainer(1)), -int256(BOND / 8), "one eighth");
        eq(vault.free(BURN), BOND / 8, "burnt");
        eq(maskOf(t, 0), 1, "not in the mask");
        _settle(poll, 1, accepts(2));
        eq(_seatGain(1), int256(FEE / 4), "paid for the opened work only");
        _merge(t, 0, "m");
        for (uint256 i = 2; i <= 4; i++) {
            _settle(poll, i, accepts(2));
        }
        _end(REWARD + FEE + AGG);
    }

    function test_nobody_submits() external {
        _world();
        _claimed(t, 0);
        _pass(100);
        tasks.touch(t, 0);
        tasks.advance(t, 0);
        tasks.expire(t, 0, 0);
        tasks.expire(t, 0, 1);
        eq(tasks.model(t), MODEL_0, "unchanged");
        eq(vault.free(BURN), 2 * BOND / 8, "two late bonds");
        _end(0);
    }

    function test_nobody_closes_the_claim_window_of_a_lone_trainer() external {
        _world();
        _claim(t, 0, 0, trainer(0));
        _pass(60);
        tasks.touch(t, 0);
        _mine(2);
        _submit(t, 0, 0);
        eq(tasks.round(t, 0).poll, 1, "everybody who leased has submitted");
    }

    /// P: any guilty leaf convicts, so a sham dispute about a good leaf shields nobody.
    function test_a_sham_dispute_is_no_shield() external {
        _world();
        poll = _submitted(t, 0);
        _seal(poll, 1, votes1(word(0, 3, 5)));
        _seal(poll, 2, votes1(word(0, 2, 9)));
        _toReveal(poll);
        _reveal(poll, 1, votes1(word(0, 3, 5)));
        _reveal(poll, 2, votes1(word(0, 2, 9)));
        _judge(1, 4, 0);
        eq(tasks.work(t, 0, 0).state, State.DISPUTED, "waits for the other leaf");
        _concede(2);
        eq(tasks.work(t, 0, 0).state, State.HARD, "convicted");
        _settle(poll, 1, votes1(word(0, 3, 5)));
        _settle(poll, 2, votes1(word(0, 2, 9)));
        eq(vault.pot(address(tasks), potId(t, 0, 0)), 0, "shared out");
        solvent();
    }

    /// HARD ends a work at once, whatever the other disputes say later; SOFT waits for them.
    function test_hard_beats_soft_in_either_order() external {
        for (uint256 order = 0; order < 2; order++) {
            if (order == 0) _world();
            else t = _publish(params());
            poll = _submitted(t, 0);
            _seal(poll, 1, votes1(word(0, 3, 5)));
            _seal(poll, 2, votes1(word(0, 2, 9)));
            _toReveal(poll);
            _reveal(poll, 1, votes1(word(0, 3, 5)));
            _reveal(poll, 2, votes1(word(0, 2, 9)));
            uint256 last = court.disputes();
            _answer(last);
            if (order == 0) _concede(last - 1);
            _jury(last, 4, WITHHELD);
            if (order == 1) _concede(last - 1);
            eq(tasks.work(t, 0, 0).state, State.HARD, "hard");
            eq(tasks.work(t, 0, 0).disputes, 0, "all ruled");
        }
        solvent();
    }

    function test_lag_lets_rounds_overlap() external {
        for (uint8 lag = 1; lag <= 4; lag++) {
            Params memory p = params();
            (p.lag, p.rounds, p.sealT, p.revealT) = (lag, 6, 1 hours, 1 hours);
            if (lag == 1) _world(p);
            else t = _publish(p);
            uint256[] memory polls = new uint256[](6);
            for (uint256 r = 0; r < lag; r++) {
                polls[r] = _submitted(t, r); // none of these waits for a merge
                eq(tasks.base(t, r), MODEL_0, "the first rounds train from the start");
            }
            vm.expectRevert(err(Tasks.RoundNotReady.selector, t, lag));
            tasks.claim(t, lag, 0);
            for (uint256 r = 0; r < 6; r++) {
                if (r >= lag) polls[r] = _submitted(t, r);
                bytes32 want = r < lag ? MODEL_0 : keccak256(abi.encode("model", r - lag + 1));
                eq(tasks.base(t, r), want, "lag rounds behind");
                _vote(polls[r], 4, accepts(2));
                _open2(r);
                _merge(t, r, keccak256(abi.encode("model", r + 1)));
            }
            ok(tasks.task(t).closed, "over");
            eq(tasks.task(t).pending, 0, "nothing pending");
        }
        solvent();
    }

    function _open2(uint256 r) private {
        _open(t, r, 0);
        _open(t, r, 1);
    }

    /// A round may begin while the one before is checked, not while it is trained.
    function test_a_round_begins_when_the_one_before_is_checked() external {
        Params memory p = params();
        p.lag = 2;
        _world(p);
        _claimed(t, 0);
        vm.expectRevert(err(Tasks.RoundNotReady.selector, t, 1));
        tasks.claim(t, 1, 0);
        _submit(t, 0, 0);
        _submit(t, 0, 1);
        _claim(t, 1, 0, trainer(2));
    }

    function test_rounds_settle_in_order() external {
        Params memory p = params();
        (p.lag, p.sealT) = (2, 1000);
        _world(p);
        uint256 first = _submitted(t, 0);
        uint256 second = _submitted(t, 1);
        for (uint256 i = 1; i <= 4; i++) {
            _seal(second, i, accepts(2));
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(second, i, accepts(2));
        }
        _open2(1);
        vm.expectRevert(err(Tasks.NotNext.selector, 1, 0));
        _propose(t, 1, "m2");
        for (uint256 i = 1; i <= 4; i++) {
            _seal(first, i, accepts(2));
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(first, i, accepts(2));
        }
        _open2(0);
        _pass(1000);
        _merge(t, 0, "m1");
        uint256 settled = block.timestamp;
        vm.expectRevert(err(Tasks.TooEarly.selector, settled + 80)); // the clock of a skip starts now, not long ago
        tasks.advance(t, 1);
        _merge(t, 1, "m2");
        eq(tasks.model(t), "m2", "in order");
    }

    function test_everything_at_once_takes_no_waiting() external {
        _world();
        uint256 start = block.timestamp;
        poll = _submitted(t, 0);
        for (uint256 i = 1; i <= 4; i++) {
            _seal(poll, i, accepts(2));
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(poll, i, accepts(2));
        }
        _open2(0);
        _propose(t, 0, "m");
        eq(block.timestamp, start, "every window closed early");
        vm.warp(start + 20);
        tasks.advance(t, 0);
    }

    /// A stake outlives its votes: a seat that exits mid-poll still votes, is paid, and leaves afterwards (I7, I16).
    function test_a_seat_leaves_after_its_votes() external {
        _world();
        poll = _submitted(t, 0);
        vm.prank(owner(1));
        panel.exit(1);
        _vote(poll, 2, accepts(2));
        _open2(0);
        vm.warp(block.timestamp + EXIT_DELAY);
        _settle(poll, 1, accepts(2));
        panel.leave(1);
        eq(vault.free(owner(1)), START + FEE, "stake and fees");
    }

    /// I5, I20: closing early neither takes from those at work nor leaves anything behind.
    function test_close_with_a_round_running() external {
        _world();
        _claimed(t, 0);
        vm.prank(publisher);
        tasks.close(t);
        _submit(t, 0, 0);
        _submit(t, 0, 1);
        _mine(2);
        poll = tasks.round(t, 0).poll;
        _vote(poll, 4, accepts(2));
        _open2(0);
        _merge(t, 0, "m");
        vm.expectRevert(err(Tasks.TaskClosed.selector, t));
        tasks.claim(t, 1, 0);
        for (uint256 i = 1; i <= 4; i++) {
            _settle(poll, i, accepts(2));
        }
        _end(2 * (REWARD + FEE) + AGG);
    }

    function test_reclaim_does_not_wait_for_voters() external {
        _world();
        poll = _honestRound(t, 0, 4);
        vm.prank(publisher);
        tasks.close(t);
        tasks.reclaim(t);
        for (uint256 i = 1; i <= 4; i++) {
            _settle(poll, i, accepts(2));
            eq(_seatGain(i), int256(FEE / 2), "their shares were set aside");
        }
        _end(2 * (REWARD + FEE) + AGG);
    }

    function test_256_slots() external {
        Params memory p = params();
        (p.slots, p.rounds, p.quorum) = (256, 1, 1);
        _rich(trainer(0), 10_000 * UNIT);
        _seats(1);
        t = _publish(p);
        for (uint256 s = 0; s < 256; s++) {
            _claim(t, 0, s, trainer(0));
        }
        _mine(2);
        for (uint256 s = 0; s < 256; s++) {
            _submit(t, 0, s);
        }
        poll = tasks.round(t, 0).poll;
        _mine(2);
        uint256[] memory votes = new uint256[](64);
        for (uint256 i = 0; i < 64; i++) {
            votes[i] = word(192 + i, 0, 0);
        }
        _vote(poll, 1, votes);
        for (uint256 s = 0; s < 256; s++) {
            _open(t, 0, s);
        }
        eq(maskOf(t, 0), type(uint256).max << 192, "the last bit, too");
        _settle(poll, 1, votes);
        solvent();
    }
}
