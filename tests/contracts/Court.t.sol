// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Protocol} from "../../contracts/Protocol.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Dispute, State} from "../../contracts/libraries/Types.sol";
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
    uint256 private t;
    uint256 private poll;

    /// A round in which seat 1 has rejected leaf 4 of the steps of slot 0; four seats in all.
    function _accused(uint256 vote) private returns (uint256 dispute) {
        _trainers(2);
        _seats(4);
        t = _publish(params());
        poll = _submitted(t, 0);
        _vote(poll, 1, votes1(vote));
        return court.disputes();
    }

    function test_only_siblings() external {
        vm.expectRevert(err(Court.NotTasks.selector, address(this)));
        court.file(1, 0, 0, 0, 0);
        vm.expectRevert(err(Court.NotTasks.selector, address(this)));
        court.fileMerge(1, 0);
        vm.expectRevert(err(Court.NotPanel.selector, address(this)));
        court.onVote(1, 0);
    }

    function test_filed_once_per_leaf() external {
        uint256 d = _accused(word(0, 3, 5));
        eq(d, 1, "one dispute");
        Dispute memory x = court.dispute(d);
        eq(x.task, t, "task");
        eq(x.leaf, 4, "leaf");
        eq(x.tree, 3, "tree");
        vm.prank(address(tasks));
        (uint256 again, bool fresh) = court.file(t, 0, 0, 3, 4);
        eq(again, d, "the same one");
        ok(!fresh, "not fresh");
        vm.expectEmit(address(court));
        emit Court.Filed(2, t, 0, 0, 3, 5, poll + 2);
        vm.prank(address(tasks));
        court.file(t, 0, 0, 3, 5);
    }

    function test_rule() external {
        vm.expectRevert(err(Court.UnknownDispute.selector, 1));
        court.rule(1);
        uint256 d = _accused(word(0, 3, 5));
        uint256 jury = court.dispute(d).poll;
        (, uint40 revealEnd) = panel.ends(jury);
        vm.expectRevert(abi.encodeWithSelector(Court.StillVoting.selector, d, revealEnd));
        court.rule(d);
        vm.expectRevert(err(Court.NotRuled.selector, d));
        court.settleVote(jury, 0, stranger);
        _mine(2);
        _vote(jury, 3, votes1(word(0, 0, 1)));
        vm.expectEmit(address(court));
        emit Court.Ruled(d, State.HARD, 3, 0);
        court.rule(d);
        vm.expectRevert(abi.encodeWithSelector(Court.AlreadyRuled.selector, d, State.HARD));
        court.rule(d);
        (bool isFinal, State verdict) = court.outcome(jury, 0);
        ok(isFinal && verdict == State.HARD, "final");
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

    /// I8 of this version: half of all seats is not a majority, and silence acquits.
    function test_half_of_all_seats_acquits() external {
        uint256 d = _accused(word(0, 3, 5));
        _judge(d, 2, 1);
        eq(court.dispute(d).outcome, State.VALID, "acquitted");
    }

    function test_soft_when_most_guilty_votes_say_so() external {
        uint256 d = _accused(word(0, 3, 5));
        uint256 jury = court.dispute(d).poll;
        _mine(2);
        for (uint256 i = 1; i <= 3; i++) {
            _seal(jury, i, votes1(word(0, 0, i == 1 ? 1 : WITHHELD)));
        }
        _toReveal(jury);
        for (uint256 i = 1; i <= 3; i++) {
            _reveal(jury, i, votes1(word(0, 0, i == 1 ? 1 : WITHHELD)));
        }
        _toEnd(jury);
        court.rule(d);
        eq(court.dispute(d).outcome, State.SOFT, "soft");
    }

    /// I6: no data is a matter of opinion, so it never costs a bond.
    function test_withheld_is_soft_at_most() external {
        uint256 d = _accused(word(0, 2, WITHHELD));
        Dispute memory x = court.dispute(d);
        eq(x.leaf, WITHHELD, "leaf");
        eq(x.tree, 0, "tree");
        _judge(d, 4, 1);
        eq(court.dispute(d).outcome, State.SOFT, "not hard");
        eq(tasks.work(t, 0, 0).state, State.SOFT, "work");
    }

    function test_votes_that_mean_nothing() external {
        uint256 d = _accused(word(0, 3, 5));
        uint256 jury = court.dispute(d).poll;
        _mine(2);
        _seal(jury, 1, votes2(word(0, 0, 7), word(1, 0, 1)));
        _toReveal(jury);
        vm.expectEmit(address(panel));
        emit Panel.Voted(jury, 1, word(0, 0, 7), false);
        _reveal(jury, 1, votes2(word(0, 0, 7), word(1, 0, 1)));
        eq(court.dispute(d).hard, 0, "nothing counted");
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
        eq(address(court.panel()), address(panel), "court to panel");
        eq(address(court.tasks()), address(tasks), "court to tasks");
        ok(type(Protocol).creationCode.length + 128 <= 49_152, "initcode fits EIP-3860");
    }
}
