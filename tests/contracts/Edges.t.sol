// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tasks} from "../../contracts/Tasks.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {Params, State} from "../../contracts/libraries/Types.sol";
import {Base} from "./Base.sol";

/// Where a clock starts, and what happens in its last second: each of these tests was asked for by a mutant that lived.
contract EdgesTest is Base {
    uint256 private constant BOND = 16e18;
    uint256 private t;
    uint256 private poll;

    function _world(Params memory p) private {
        _trainers(3);
        _seats(4);
        t = _publish(p);
    }

    function _checked(uint256 r) private {
        poll = _submitted(t, r);
        _vote(poll, 4, accepts(2));
    }

    // --------------------------------------------------------------------------------------------- merges

    /// Whoever is asked to show a lane in the last second has a whole window for it.
    function test_a_contest_gives_a_whole_window() external {
        _world(params());
        _checked(0);
        _open(t, 0, 0);
        _open(t, 0, 1);
        _propose(t, 0, "m");
        vm.warp(block.timestamp + 19);
        vm.prank(challenger);
        tasks.contestMerge(t, 0, 0, 0);
        uint256 due = block.timestamp + 20;
        vm.warp(due - 1);
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
    }

    /// The clock of a skip starts when the last work was decided, when that is later than the votes.
    function test_a_skip_waits_from_the_last_opening() external {
        _world(params());
        _checked(0);
        _open(t, 0, 0);
        eq(tasks.maskFinalAt(t, 0), block.timestamp + 30, "while a work is undecided: the end of its window");
        vm.warp(block.timestamp + 25);
        _open(t, 0, 1);
        eq(tasks.maskFinalAt(t, 0), block.timestamp, "now");
        uint256 due = block.timestamp + 80;
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due - 1);
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due);
        tasks.advance(t, 0);
        eq(tasks.model(t), keccak256("model 0"), "skipped");
    }

    /// An earlier round that settled long ago does not shorten the next one's time for a proposal.
    function test_a_skip_does_not_wait_from_the_round_before() external {
        _world(params());
        _honestRound(t, 0, 4);
        _pass(50);
        _checked(1);
        _open(t, 1, 0);
        _open(t, 1, 1);
        uint256 due = block.timestamp + 80;
        vm.warp(due - 1);
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 1);
    }

    /// A round with a work that is not checked yet cannot be settled, however empty its mask is.
    function test_no_round_settles_while_it_trains() external {
        _world(params());
        _claimed(t, 0);
        vm.expectRevert(err(Tasks.TooEarly.selector, 0));
        tasks.advance(t, 0);
        _submit(t, 0, 0);
        eq(tasks.maskFinalAt(t, 0), 0, "not known yet");
        vm.expectRevert(err(Tasks.TooEarly.selector, 0));
        tasks.advance(t, 0);
    }

    /// A merge reward of 1 is paid as any other, and of 0 there is none.
    function test_the_least_merge_reward() external {
        for (uint96 reward = 0; reward < 2; reward++) {
            Params memory p = params();
            p.aggReward = reward;
            if (reward == 0) _world(p);
            else t = _publish(p);
            uint256 before = vault.free(aggregator);
            _checked(0);
            _open(t, 0, 0);
            _open(t, 0, 1);
            _merge(t, 0, "m");
            eq(vault.free(aggregator), before + reward, "bond and reward");
        }
    }

    // --------------------------------------------------------------------------------------------- juries

    /// Only the last jury shares what a lost appeal leaves: who voted right in an earlier one gets nothing.
    function test_an_earlier_jury_has_no_share() external {
        _trainers(3);
        _seats(12);
        t = _publish(params());
        poll = _submitted(t, 0);
        _vote(poll, 1, votes1(word(0, 3, 5)));
        _answer(1);
        uint256 first = court.dispute(1).poll;
        _ballots(first, 12, 1);
        court.rule(1);
        vm.prank(challenger);
        court.appeal(1);
        uint256 last = court.dispute(1).poll;
        _ballots(last, 12, 1);
        court.rule(1);
        eq(court.dispute(1).outcome, State.HARD, "convicted twice");
        uint256 share = court.dispute(1).share;
        eq(share, BOND / 4 * 2 / 2 / 12, "half of the lost bond");
        for (uint256 i = 1; i <= 12; i++) {
            uint256 before = vault.free(owner(i));
            _settle(first, i, votes1(word(0, 0, 1)));
            eq(vault.free(owner(i)), before, "nothing for the first jury");
            _settle(last, i, votes1(word(0, 0, 1)));
            eq(vault.free(owner(i)), before + share, "a share for the last");
        }
    }

    function _ballots(uint256 jury, uint256 n, uint256 v) private {
        _mine(2);
        for (uint256 i = 1; i <= n; i++) {
            _seal(jury, i, votes1(word(0, 0, v)));
        }
        _toReveal(jury);
        for (uint256 i = 1; i <= n; i++) {
            _reveal(jury, i, votes1(word(0, 0, v)));
        }
        _toEnd(jury);
    }

    // --------------------------------------------------------------------------------------------- decoys

    /// Each of the sixteen coefficients is two bytes of the hash, modulo the field.
    function test_noise_is_the_documented_hash(bytes32 secret, uint256 index) external pure {
        bytes32 hash = sha256(abi.encode("decoy", secret, index));
        bytes32 noise = Exact.noise(secret, index);
        for (uint256 i = 0; i < 32; i += 2) {
            uint256 want = (uint256(uint8(hash[i])) << 8 | uint8(hash[i + 1])) % 65_497;
            eq(
                uint256(uint8(noise[i])) << 8 | uint8(noise[i + 1]),
                want,
                "big-endian, in the order of the hash"
            );
        }
    }
}
