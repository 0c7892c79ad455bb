// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Protocol} from "../../contracts/Protocol.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {BURN, Dispute, Header, Opening, Phase, Poll, State, Votes} from "../../contracts/libraries/Types.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Base} from "./Base.sol";

/// A deployment on a chain that gives one contract another address than Ethereum would.
abstract contract Elsewhere is Protocol {
    constructor(IERC20 token_) Protocol(token_, 1000e18, 1 days, 1e17) {}

    function odd() internal pure virtual returns (uint8);

    function _created(uint8 nonce) internal view override returns (address) {
        return super._created(nonce == odd() ? 9 : nonce);
    }
}

contract Elsewhere2 is Elsewhere {
    constructor(IERC20 token_) Elsewhere(token_) {}

    function odd() internal pure override returns (uint8) {
        return 2;
    }
}

contract Elsewhere3 is Elsewhere {
    constructor(IERC20 token_) Elsewhere(token_) {}

    function odd() internal pure override returns (uint8) {
        return 3;
    }
}

contract Elsewhere4 is Elsewhere {
    constructor(IERC20 token_) Elsewhere(token_) {}

    function odd() internal pure override returns (uint8) {
        return 4;
    }
}

contract CourtTest is Base {
    uint256 private constant BOND = 16e18;
    uint256 private t;
    uint256 private poll;

    /// A round in which seat 1 of `n` has rejected something of slot 0.
    function _accused(uint256 vote, uint256 n) private returns (uint256 dispute) {
        _trainers(2);
        _seats(n);
        t = _publish(params());
        poll = _submitted(t, 0);
        _vote(poll, 1, votes1(vote));
        return court.disputes();
    }

    function _accused(uint256 vote) private returns (uint256 dispute) {
        return _accused(vote, 5);
    }

    /// Answered; `hard`, `soft` and `innocent` jurors vote, in the order of their seats, as far as they are drawn.
    function _ballot(uint256 d, uint256 hard, uint256 soft, uint256 innocent) private {
        uint256 jury = court.dispute(d).poll;
        _mine(2);
        panel.seed(jury);
        uint256[] memory seats = new uint256[](hard + soft + innocent);
        uint256 n = 0;
        for (uint256 i = 1; n < seats.length; i++) {
            if (panel.drawn(jury, 0, i)) seats[n++] = i;
        }
        for (uint256 i = 0; i < n; i++) {
            _seal(jury, seats[i], votes1(word(0, 0, i < hard ? 1 : i < hard + soft ? WITHHELD : 0)));
        }
        _toReveal(jury);
        for (uint256 i = 0; i < n; i++) {
            _reveal(jury, seats[i], votes1(word(0, 0, i < hard ? 1 : i < hard + soft ? WITHHELD : 0)));
        }
        _toEnd(jury);
        vm.prank(stranger);
        court.rule(d);
    }

    function test_only_siblings() external {
        vm.expectRevert(err(Court.NotTasks.selector, address(this)));
        court.file(1, 0, 0, 0, 0);
        vm.expectRevert(err(Court.NotPanel.selector, address(this)));
        court.onVote(1, 0);
        vm.expectRevert(err(Court.NotPanel.selector, address(this)));
        court.settleVote(1, 0, stranger);
    }

    function test_filed_once_per_leaf() external {
        uint256 d = _accused(word(0, 3, 5));
        eq(d, 1, "one dispute");
        Dispute memory x = court.dispute(d);
        eq(x.task, t, "task");
        eq(x.leaf, 4, "leaf");
        eq(x.tree, 3, "tree");
        eq(court.disputeOf(keccak256(abi.encode(t, 0, 0, 3, 4))), d, "found by its key");
        vm.prank(address(tasks));
        ok(!court.file(t, 0, 0, 3, 4), "known");
        eq(court.disputes(), 1, "the same one");
        vm.expectEmit(address(court));
        emit Court.Filed(2, t, 0, 0, 3, 5);
        vm.prank(address(tasks));
        court.file(t, 0, 0, 3, 5);
    }

    function test_answer() external {
        Opening memory leaf = leafOf(3, 4);
        Header memory h = headerOf(1, 0, 0);
        vm.expectRevert(err(Court.UnknownDispute.selector, 1));
        court.answer(1, h, leaf);
        vm.expectRevert(err(Court.UnknownDispute.selector, 0));
        court.answer(0, h, leaf);
        uint256 d = _accused(word(0, 3, 5));
        Header memory other = headerOf(t, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(Court.WrongHeader.selector, rootOf(t, 0, 0), rootOf(t, 0, 1)));
        court.answer(d, other, leaf);
        Opening memory next = leafOf(3, 3);
        vm.expectRevert(err(Exact.BadOpening.selector, 4));
        court.answer(d, h, next);
        vm.expectEmit(address(court));
        emit Court.Answered(d, stranger);
        vm.expectEmit(address(court));
        emit Court.Convened(d, 0, poll + 1);
        vm.prank(stranger); // a watchtower: no bond, no relation
        court.answer(d, h, leaf);
        vm.expectRevert(abi.encodeWithSelector(Court.WrongPhase.selector, d, Phase.JURY));
        court.answer(d, h, leaf);
        eq(court.disputeOfPoll(poll + 1), d, "the jury's poll");
    }

    function test_answer_in_every_tree() external {
        _trainers(2);
        _seats(5);
        t = _publish(params());
        poll = _submitted(t, 0);
        uint256[4] memory leaf = [uint256(0), 3, 8, 5]; // the last leaf of each
        for (uint256 i = 0; i < 4; i++) {
            _seal(poll, i + 1, votes1(word(0, i, leaf[i] + 1)));
        }
        _toReveal(poll);
        for (uint256 i = 0; i < 4; i++) {
            _reveal(poll, i + 1, votes1(word(0, i, leaf[i] + 1)));
        }
        for (uint256 d = 1; d <= 4; d++) {
            _answer(d);
            ok(court.dispute(d).phase == Phase.JURY, "a jury");
        }
    }

    /// A named leaf that the work does not have is nobody's fault but the accuser's.
    function test_a_leaf_that_is_not_there_is_void() external {
        _trainers(2);
        _seats(5);
        t = _publish(params());
        poll = _submitted(t, 0);
        uint256[4] memory leaf = [uint256(1), 4, 9, 6]; // one behind the last leaf of each
        for (uint256 i = 0; i < 4; i++) {
            _seal(poll, i + 1, votes1(word(0, i, leaf[i] + 1)));
        }
        _toReveal(poll);
        _reveal(poll, 1, votes1(word(0, 0, 2)));
        _answer(1);
        uint256 until = block.timestamp + 40;
        vm.expectRevert(err(Tasks.TooEarly.selector, until)); // the accusers are still voting
        court.rule(1);
        for (uint256 i = 1; i < 4; i++) {
            _reveal(poll, i + 1, votes1(word(0, i, leaf[i] + 1)));
            _answer(i + 1);
        }
        _toEnd(poll);
        vm.expectRevert(err(Court.AppealOver.selector, 1, 0));
        court.appeal(1);
        _open(t, 0, 0);
        for (uint256 d = 1; d <= 4; d++) {
            vm.expectEmit(address(court));
            emit Court.Ruled(d, State.VALID, 0, 0);
            court.rule(d);
        }
        eq(tasks.work(t, 0, 0).state, State.VALID, "paid");
    }

    function test_silence_concedes() external {
        uint256 d = _accused(word(0, 3, 5));
        (bytes32 root, uint256 until) = tasks.accused(t, 0, 0);
        eq(root, rootOf(t, 0, 0), "the accused root");
        vm.expectRevert(err(Court.StillVoting.selector, d, until));
        court.rule(d);
        vm.warp(until);
        (Header memory h, Opening memory leaf) = (headerOf(t, 0, 0), leafOf(3, 4));
        vm.expectRevert(err(Court.AnswerOver.selector, d, until));
        court.answer(d, h, leaf);
        court.rule(d);
        eq(tasks.work(t, 0, 0).state, State.HARD, "conceded");
        vm.expectRevert(abi.encodeWithSelector(Court.WrongPhase.selector, d, Phase.FINAL));
        court.rule(d);
        vm.expectRevert(err(Court.UnknownDispute.selector, 2));
        court.rule(2);
        vm.expectRevert(err(Court.UnknownDispute.selector, 0));
        court.rule(0);
    }

    /// I6: no data is a matter of opinion, so neither silence nor a jury can take a bond for it.
    function test_withheld_is_soft_at_most() external {
        uint256 d = _accused(word(0, 2, WITHHELD));
        Dispute memory x = court.dispute(d);
        eq(x.leaf, WITHHELD, "leaf");
        eq(x.tree, 0, "tree");
        _judge(d, 5, 1);
        eq(court.dispute(d).outcome, State.SOFT, "not hard");
        eq(tasks.work(t, 0, 0).state, State.SOFT, "work");
    }

    function test_silence_about_withheld_data_is_soft() external {
        uint256 d = _accused(word(0, 2, WITHHELD));
        _concede(d);
        eq(tasks.work(t, 0, 0).state, State.SOFT, "work");
    }

    /// I8, vote by vote.
    function test_what_a_jury_decides() external {
        _counts(0, 0, 0, State.VALID); // silence acquits
        _counts(2, 1, 3, State.VALID); // a tie acquits
        _counts(1, 0, 0, State.SOFT); // a majority takes the pay
        _counts(4, 0, 0, State.SOFT); // four are no minimum jury
        _counts(5, 0, 0, State.HARD);
        _counts(4, 0, 1, State.HARD); // 4 of 5 are two thirds
        _counts(3, 1, 1, State.SOFT); // 3 of 5 are not
        _counts(4, 0, 2, State.HARD); // exactly two thirds
        _counts(3, 2, 1, State.SOFT); // only votes for a slash count towards it
        _counts(0, 4, 3, State.SOFT);
    }

    function _counts(uint256 hard, uint256 soft, uint256 innocent, State want) private {
        if (t == 0) {
            _trainers(2);
            _seats(7);
        }
        t = _publish(params());
        poll = _submitted(t, 0);
        _vote(poll, 1, votes1(word(0, 3, 5)));
        uint256 d = court.disputes();
        _answer(d);
        _ballot(d, hard, soft, innocent);
        eq(court.dispute(d).outcome, want, "outcome");
    }

    function test_rule_waits_for_the_jury() external {
        uint256 d = _accused(word(0, 3, 5));
        _answer(d);
        uint256 jury = court.dispute(d).poll;
        (, uint40 revealEnd) = panel.ends(jury);
        vm.expectRevert(err(Court.StillVoting.selector, d, revealEnd));
        court.rule(d);
        vm.expectRevert(err(Court.NotRuled.selector, d));
        vm.prank(address(panel));
        court.settleVote(jury, 0, stranger);
        _mine(2);
        _vote(jury, 5, votes1(word(0, 0, 1)));
        vm.expectEmit(address(court));
        emit Court.Verdict(d, 0, State.HARD, 5, 0, 0);
        vm.expectEmit(address(court));
        emit Court.Ruled(d, State.HARD, 5, 0);
        court.rule(d);
        Dispute memory x = court.dispute(d);
        ok(x.phase == Phase.FINAL && x.outcome == State.HARD, "final at once: everybody sat");
        _settle(jury, 1, votes1(word(0, 0, 1)));
    }

    /// The poll that accused may still bring another accusation, so a quick jury has to wait for it.
    function test_no_ruling_while_the_accusers_still_vote() external {
        _trainers(2);
        _seats(4);
        t = _publish(params());
        poll = _submitted(t, 0);
        _seal(poll, 1, votes1(word(0, 3, 5)));
        _seal(poll, 2, votes1(word(0, 3, 6)));
        _toReveal(poll);
        _reveal(poll, 1, votes1(word(0, 3, 5)));
        _answer(1);
        _mine(2);
        for (uint256 i = 1; i <= 4; i++) {
            _seal(poll + 1, i, votes1(word(0, 0, 0)));
        }
        for (uint256 i = 1; i <= 4; i++) {
            _reveal(poll + 1, i, votes1(word(0, 0, 0)));
        }
        (, uint40 revealEnd) = panel.ends(poll);
        vm.expectRevert(err(Tasks.TooEarly.selector, revealEnd));
        court.rule(1);
        _reveal(poll, 2, votes1(word(0, 3, 6)));
        court.rule(1);
        eq(tasks.work(t, 0, 0).state, State.DISPUTED, "the other accusation is open");
    }

    function test_votes_that_mean_nothing() external {
        uint256 d = _accused(word(0, 3, 5));
        _answer(d);
        uint256 jury = court.dispute(d).poll;
        _mine(2);
        _seal(jury, 1, votes2(word(0, 0, 7), word(1, 0, 1)));
        _toReveal(jury);
        vm.expectEmit(address(panel));
        emit Panel.Voted(jury, 1, word(0, 0, 7), false);
        _reveal(jury, 1, votes2(word(0, 0, 7), word(1, 0, 1)));
        eq(court.dispute(d).hard, 0, "nothing counted");
        _toEnd(jury);
        court.rule(d);
        _settle(jury, 1, votes2(word(0, 0, 7), word(1, 0, 1)));
    }

    // ------------------------------------------------------------------------------------------- appeals

    /// Juries of 7, 15, 31 and all of 40 seats, each drawn afresh, each called by a bond twice as high.
    function test_the_whole_ladder() external {
        uint256 d = _accused(word(0, 3, 5), 40);
        uint16[4] memory wants = [uint16(7), 15, 31, type(uint16).max];
        _answer(d);
        for (uint256 level = 0; level < 4; level++) {
            eq(court.want(level), wants[level], "ladder");
            Poll memory p = panel.poll(court.dispute(d).poll);
            eq(p.want, wants[level], "expected jurors");
            eq(p.risk, level == 0 ? 0 : RISK_MIN, "what a juror stakes");
            ok(!p.seeded, "drawn afresh");
            // guilty, innocent, guilty, innocent
            if (level % 2 == 0) _ballot(d, 2, 0, 0);
            else _ballot(d, 0, 0, 2);
            if (level == 3) break;
            State ruled = level % 2 == 0 ? State.SOFT : State.VALID;
            eq(court.dispute(d).outcome, ruled, "ruling");
            ok(court.dispute(d).phase == Phase.RULED, "not final");
            uint256 until = block.timestamp + 30;
            vm.expectRevert(err(Court.StillVoting.selector, d, until));
            court.rule(d);
            eq(court.appealBond(d, level + 1), (BOND << level) / 2, "doubles");
            vm.expectEmit(address(court));
            emit Court.Appealed(d, uint8(level + 1), challenger, (BOND << level) / 2);
            vm.prank(challenger);
            court.appeal(d);
            ok(court.appealOf(d, level + 1).against == ruled, "against that ruling");
        }
        ok(court.dispute(d).phase == Phase.FINAL, "the last jury is the last word");
        // Appeals 1 and 3 were against SOFT and won; appeal 2 was against VALID and lost: 16, half to two jurors.
        uint256 jury = court.dispute(d).poll;
        eq(court.dispute(d).share, BOND / 4, "share");
        eq(vault.free(challenger), 100_000 * UNIT - BOND, "lost one appeal");
        eq(vault.free(BURN), BOND / 2, "half burnt");
        _settle(jury, 1, votes1(word(0, 0, 0)));
        _settle(jury, 2, votes1(word(0, 0, 0)));
        eq(vault.free(owner(1)), 10_000 * UNIT - SEAT + BOND / 4, "juror");
        eq(vault.pot(address(court), bytes32(d)), 0, "nothing left");
        solvent();
    }

    function test_appeal_times() external {
        uint256 d = _accused(word(0, 3, 5), 20);
        _answer(d);
        vm.expectRevert(abi.encodeWithSelector(Court.WrongPhase.selector, d, Phase.JURY));
        court.appeal(d);
        _ballot(d, 1, 0, 0);
        uint256 until = block.timestamp + 30;
        vm.expectRevert(abi.encodeWithSignature("ShortFree(address,uint256,uint256)", stranger, 0, BOND / 2));
        vm.prank(stranger);
        court.appeal(d);
        vm.warp(until);
        vm.expectRevert(err(Court.AppealOver.selector, d, until));
        vm.prank(challenger);
        court.appeal(d);
        court.rule(d);
        eq(tasks.work(t, 0, 0).state, State.SOFT, "stands");
    }

    /// A lost appeal with nobody on the last jury is burnt whole, and wrong jurors get nothing.
    function test_a_lost_appeal() external {
        uint256 d = _accused(word(0, 3, 5), 20);
        _answer(d);
        _ballot(d, 1, 0, 1); // a tie acquits
        vm.prank(challenger);
        court.appeal(d);
        _ballot(d, 0, 0, 0);
        vm.warp(block.timestamp + 30);
        court.rule(d);
        eq(court.dispute(d).outcome, State.VALID, "acquitted twice");
        eq(vault.free(BURN), BOND / 2, "all of it");
        eq(vault.pot(address(court), bytes32(d)), 0, "nothing left");
    }

    function test_only_right_jurors_share_a_lost_appeal() external {
        uint256 d = _accused(word(0, 3, 5), 40);
        _answer(d);
        _ballot(d, 3, 0, 0);
        vm.prank(challenger);
        court.appeal(d);
        uint256 jury = court.dispute(d).poll;
        _ballot(d, 2, 1, 2);
        vm.warp(block.timestamp + 30);
        court.rule(d);
        eq(court.dispute(d).outcome, State.SOFT, "still guilty");
        uint256 share = BOND / 4 / 3;
        eq(court.dispute(d).share, share, "three were right");
        uint256 paid = 0;
        for (uint256 i = 1; i <= 40; i++) {
            uint256 word_ = panel.sealedOf(jury, i);
            if (word_ == 0) continue;
            uint256 before = vault.free(owner(i));
            uint256 v = panel.poll(jury).seats == 0 ? 0 : _voteOf(jury, i);
            _settle(jury, i, votes1(v));
            paid += vault.free(owner(i)) - before;
            ok((vault.free(owner(i)) > before) == (Votes.verdict(v) != 0), "only who was right");
        }
        eq(paid, 3 * share, "shared out");
        eq(vault.free(BURN), BOND / 2 - 3 * share, "the rest is burnt");
        ok(vault.free(BURN) >= BOND / 4, "I9");
    }

    /// What seat `i` sealed: the test's own salt opens exactly one of three ballots.
    function _voteOf(uint256 jury, uint256 i) private view returns (uint256) {
        uint256 word_ = panel.sealedOf(jury, i);
        for (uint256 k = 0; k < 3; k++) {
            uint256 v = word(0, 0, k == 2 ? WITHHELD : k);
            if (uint256(batchHash(jury, i, votes1(v))) >> 16 == word_ >> 16) return v;
        }
        revert Failed("no ballot fits", i, 0);
    }

    /// Only drawn seats sit on a jury: a guilty vote of another seat is not a bonded reject and counts nothing.
    function test_undrawn_jurors_do_not_count() external {
        uint256 d = _accused(word(0, 3, 5), 40);
        _answer(d);
        uint256 jury = court.dispute(d).poll;
        _mine(2);
        panel.seed(jury);
        uint256 undrawn = 1;
        while (panel.drawn(jury, 0, undrawn)) undrawn++;
        _seal(jury, undrawn, votes1(word(0, 0, 1)));
        _toReveal(jury);
        vm.expectEmit(address(panel));
        emit Panel.Voted(jury, undrawn, word(0, 0, 1), false);
        _reveal(jury, undrawn, votes1(word(0, 0, 1)));
        eq(court.dispute(d).hard, 0, "not counted");
    }

    /// Where addresses come out differently, nothing is deployed at all.
    function test_miswired() external {
        vm.expectPartialRevert(Protocol.Miswired.selector);
        new Elsewhere2(token);
        vm.expectPartialRevert(Protocol.Miswired.selector);
        new Elsewhere3(token);
        vm.expectPartialRevert(Protocol.Miswired.selector);
        new Elsewhere4(token);
    }

    function test_wiring() external view {
        eq(address(vault.panel()), address(panel), "vault to panel");
        eq(address(vault.tasks()), address(tasks), "vault to tasks");
        eq(address(vault.court()), address(court), "vault to court");
        eq(address(vault.token()), address(token), "vault to token");
        eq(panel.tasks(), address(tasks), "panel to tasks");
        eq(panel.court(), address(court), "panel to court");
        eq(address(panel.vault()), address(vault), "panel to vault");
        eq(panel.seatStake(), SEAT, "stake");
        eq(panel.exitDelay(), EXIT_DELAY, "delay");
        eq(address(tasks.vault()), address(vault), "tasks to vault");
        eq(address(tasks.panel()), address(panel), "tasks to panel");
        eq(address(tasks.court()), address(court), "tasks to court");
        eq(tasks.riskMin(), RISK_MIN, "risk");
        eq(address(court.vault()), address(vault), "court to vault");
        eq(address(court.panel()), address(panel), "court to panel");
        eq(address(court.tasks()), address(tasks), "court to tasks");
    }

    function test_sizes_fit_every_chain() external pure {
        ok(type(Protocol).creationCode.length + 128 <= 49_152, "initcode fits EIP-3860");
    }
}
