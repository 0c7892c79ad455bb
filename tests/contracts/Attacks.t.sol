// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Panel} from "../../contracts/Panel.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Vault} from "../../contracts/Vault.sol";
import {BURN, Header, Params, State} from "../../contracts/libraries/Types.sol";
import {Polled} from "./Base.sol";
import {FeeToken, HookToken} from "./Vault.t.sol";

/// The attack table of docs/protocol.md, one scenario per row, each with random amounts, times, places or votes.
/// Everything starts with two submitted works, four honest seats and their poll open.
contract AttacksTest is Polled {
    uint256 private constant BOND = 16e18;
    uint256 private constant REWARD = 10e18;
    uint256 private constant FEE = 1e18;
    uint256 private constant AGG_BOND = 6e18;

    function _gain(address who) private view returns (int256) {
        return int256(vault.free(who)) - int256(10_000 * UNIT);
    }

    function _seatGain(uint256 seat) private view returns (int256) {
        return _gain(owner(seat)) + int256(vault.pot(address(panel), bytes32(seat)));
    }

    function _is(int256 got, int256 want, string memory what) private pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    function _pick(uint256 random, uint256 below) private pure returns (uint256) {
        return random % below;
    }

    /// Slot 1 is accepted by the other seats and opened, whatever happens to slot 0.
    function _open2() private {
        _open(t, 0, 0);
        _open(t, 0, 1);
    }

    function _merged() private {
        _vote(poll, 5, accepts(2));
        _open2();
    }

    // ------------------------------------------------------------------------------------------ the rows

    /// Sybils: whether a seat is drawn depends on its number alone, whoever owns it, and each costs a whole stake.
    function test_attack_sybils_split_their_stake(uint16 want, uint8 item) external {
        _rich(stranger, 4 * SEAT);
        for (uint256 i = 0; i < 4; i++) {
            vm.prank(stranger);
            panel.sit();
        }
        eq(vault.free(stranger), 0, "a stake for each");
        Params memory p = params();
        p.want = uint16(4 + uint256(want) % 5);
        t = _publish(p);
        poll = _submitted(t, 0);
        bytes32 seed = panel.seed(poll);
        for (uint256 seat = 1; seat <= 9; seat++) {
            bool drawn = uint256(sha256(abi.encode(seed, uint256(item), seat))) % 9 < p.want;
            ok(panel.drawn(poll, item, seat) == drawn, "a seat is one ticket");
        }
    }

    /// Four colluding accepters cannot pass what one other seat rejects.
    function test_attack_colluding_validators(uint8 leaf) external {
        uint256 v = 1 + uint256(leaf) % STEPS;
        for (uint256 i = 1; i <= 5; i++) {
            _seal(poll, i, i == 5 ? votes1(word(0, 3, v)) : accepts(2));
        }
        for (uint256 i = 1; i <= 5; i++) {
            _reveal(poll, i, i == 5 ? votes1(word(0, 3, v)) : accepts(2));
        }
        _open2();
        eq(maskOf(t, 0), 2, "not merged");
        eq(tasks.work(t, 0, 0).state, State.DISPUTED, "not paid");
    }

    /// A seat that always accepts loses with decoys, in expectation, whatever it saves: what a vote stakes is worth twice
    /// the fees of all the votes between one decoy and the next.
    function test_attack_lazy_validators(uint16 oneIn, uint8 want, uint64 reward) external {
        Params memory p = params();
        p.decoyOneIn = uint16(10 + uint256(oneIn) % 90);
        p.want = uint16(8 + uint256(want) % 57);
        p.reward = uint96(1e15 + uint256(reward) % 25e17);
        (p.aggReward, p.quorum) = (0, 1);
        uint256 stake = tasks.risk(_publish(p));
        uint256 fee = uint256(p.reward) * p.feeBps / 10_000;
        ok(stake * p.want + p.want > 2 * fee * p.decoyOneIn, "one decoy costs twice what D lazy votes earn");
    }

    /// A root that was copied cannot be opened as one's own: the seal binds the trainer.
    function test_attack_copied_work(bytes32 secret) external {
        Header memory h = headerOf(t, 0, 0);
        vm.assume(secret != secretOf(t, 0, 1));
        _toEnd(poll);
        bytes32 given = sha256(abi.encode(secret, trainer(1)));
        bytes32 seal = tasks.work(t, 0, 1).seal;
        vm.expectRevert(abi.encodeWithSelector(Tasks.WrongSecret.selector, seal, given));
        tasks.openSeal(t, 0, 1, secret, h);
    }

    /// A batch hash copied from the mempool cannot be revealed for another seat.
    function test_attack_front_running_a_vote(uint8 n) external {
        uint256[] memory votes = accepts(uint256(n) % 3);
        bytes32 hash = batchHash(poll, 1, votes);
        vm.prank(owner(2));
        panel.sealVotes(poll, 2, hash, uint8(votes.length));
        _toReveal(poll);
        vm.expectRevert(err(Panel.WrongOpening.selector, poll, 2));
        panel.reveal(poll, 2, votes, salt(poll, 1));
    }

    /// Slots that are claimed and not used cost an eighth of the bond each, burnt.
    function test_attack_slot_squatting(uint8 late) external {
        t = _publish(params());
        _claimed(t, 0);
        int256 before = _gain(trainer(0));
        _pass(100 + uint256(late));
        tasks.expire(t, 0, 0);
        _is(_gain(trainer(0)) - before, int256(BOND - BOND / 8), "an eighth is gone");
        eq(vault.free(BURN), BOND / 8, "burnt");
    }

    /// Withheld data costs the reward and never the bond, whatever the jury says and however it splits.
    function test_attack_withholding(uint8 hard, uint8 soft) external {
        _vote(poll, 1, votes1(word(0, 1, WITHHELD)));
        _answer(1);
        uint256 jury = court.dispute(1).poll;
        _mine(2);
        (uint256 h, uint256 s) = (uint256(hard) % 6, uint256(soft) % 6);
        uint256 n = h + s > 5 ? 5 : h + s;
        for (uint256 i = 1; i <= n; i++) {
            _seal(jury, i, votes1(word(0, 0, i <= h ? 1 : WITHHELD)));
        }
        _toReveal(jury);
        for (uint256 i = 1; i <= n; i++) {
            _reveal(jury, i, votes1(word(0, 0, i <= h ? 1 : WITHHELD)));
        }
        _toEnd(jury);
        court.rule(1);
        State state = tasks.work(t, 0, 0).state;
        ok(state != State.HARD, "never the bond");
        ok(n == 0 || state == State.SOFT, "a majority takes the pay");
        if (state == State.SOFT) _is(_gain(trainer(0)), 0, "bond back");
    }

    /// A sham dispute over a good leaf does not keep a bad one from convicting.
    function test_attack_sham_dispute_as_a_shield(uint8 good, uint8 bad) external {
        (uint256 g, uint256 b) = (1 + uint256(good) % TRAJECTORIES, 1 + uint256(bad) % STEPS);
        _seal(poll, 1, votes1(word(0, 2, g)));
        _seal(poll, 2, votes1(word(0, 3, b)));
        _toReveal(poll);
        _reveal(poll, 1, votes1(word(0, 2, g)));
        _reveal(poll, 2, votes1(word(0, 3, b)));
        _judge(1, 0, 0);
        _concede(2);
        eq(tasks.work(t, 0, 0).state, State.HARD, "convicted");
    }

    /// A sham reject keeps a rival out of one merge and costs its risk; the rival is paid and compensated.
    function test_attack_sham_reject(uint8 leaf, uint8 jurors) external {
        uint256[] memory sham = votes1(word(0, 3, 1 + uint256(leaf) % STEPS));
        _seal(poll, 1, sham);
        _toReveal(poll);
        _reveal(poll, 1, sham);
        _open(t, 0, 0);
        _judge(1, uint256(jurors) % 6, 0);
        _settle(poll, 1, sham);
        _is(_gain(trainer(0)), int256(REWARD + risk / 2), "paid and compensated");
        _is(_seatGain(1), -int256(risk), "the accuser");
    }

    /// A flood of sham rejects costs each of them; answering costs gas only.
    function test_attack_flood_of_sham_rejects(uint8 many) external {
        uint256 n = 1 + uint256(many) % 5;
        for (uint256 i = 1; i <= n; i++) {
            _seal(poll, i, votes1(word(0, 2, i)));
        }
        _toReveal(poll);
        for (uint256 i = 1; i <= n; i++) {
            _reveal(poll, i, votes1(word(0, 2, i)));
        }
        _toEnd(poll);
        _open(t, 0, 0);
        for (uint256 d = 1; d <= n; d++) {
            _answer(d);
        }
        for (uint256 d = 1; d <= n; d++) {
            _jury(d, 0, 0);
        }
        for (uint256 i = 1; i <= n; i++) {
            _settle(poll, i, votes1(word(0, 2, i)));
        }
        _is(_gain(trainer(0)), int256(REWARD + n * (risk / 2)), "compensated for each");
        eq(vault.free(BURN), n * (risk - risk / 2), "half of each is burnt");
    }

    /// The publisher cannot keep what he promised: whatever he does, an accepted work is paid.
    function test_attack_publisher_refuses_to_pay(bool closes, uint8 voters) external {
        if (closes) {
            vm.prank(publisher);
            tasks.close(t);
        }
        _vote(poll, uint256(voters) % 6, accepts(2)); // even when he bribed the validators to strike
        _open2();
        _is(_gain(trainer(0)), int256(REWARD), "paid");
        vm.expectRevert(abi.encodeWithSelector(Tasks.StillRunning.selector, t, 0, 0, 1));
        tasks.reclaim(t);
    }

    /// A trainer whom the publisher trapped leaves at no cost in the first half of the claim window.
    function test_attack_publisher_traps_trainers(uint8 at) external {
        t = _publish(params());
        _claim(t, 0, 0, trainer(2));
        vm.warp(block.timestamp + uint256(at) % 30);
        vm.prank(trainer(2));
        tasks.relinquish(t, 0, 0);
        _is(_gain(trainer(2)), 0, "free of cost");
    }

    /// Nobody validates, nobody proposes: paid, unmerged, model unchanged, everything over.
    function test_attack_nobody_comes(uint16 wait) external {
        _toEnd(poll);
        _open2();
        _pass(wait);
        tasks.advance(t, 0);
        eq(tasks.model(t), keccak256("model 0"), "unchanged");
        _is(_gain(trainer(1)), int256(REWARD), "paid");
    }

    /// No jury comes: the accused is acquitted and the accuser pays.
    function test_attack_absent_jury(uint8 leaf) external {
        uint256[] memory sham = votes1(word(0, 2, 1 + uint256(leaf) % TRAJECTORIES));
        _vote(poll, 1, sham);
        _open(t, 0, 0);
        _judge(1, 0, 0);
        eq(tasks.work(t, 0, 0).state, State.VALID, "acquitted");
        _settle(poll, 1, sham);
        _is(_seatGain(1), -int256(risk), "the accuser");
    }

    /// A bad aggregator who shows nothing loses his bond after one window, and the next proposer has his turn.
    function test_attack_bad_aggregator(bytes32 root, uint8 leaf, uint8 lane) external {
        vm.assume(root != 0);
        _merged();
        _propose(t, 0, root);
        vm.prank(challenger);
        tasks.contestMerge(t, 0, uint32(leaf) % 8, lane);
        _pass(20);
        tasks.advance(t, 0);
        eq(tasks.round(t, 0).proposer, address(0), "dropped");
        eq(vault.free(challenger), 100_000 * UNIT + AGG_BOND / 2, "half of the bond");
        eq(vault.free(BURN), AGG_BOND / 2, "half burnt");
    }

    /// A seed is one block's hash that nobody chose: whoever calls, and whenever, gets the same.
    function test_attack_beacon_grinding(uint8 later, address caller) external {
        t = _publish(params());
        uint256 next = _submitted(t, 0);
        uint256 beacon = beaconOf(next);
        bytes32 want = sha256(abi.encode(blockhash(beacon), next));
        _mine(uint256(later) % 200);
        vm.prank(caller);
        eq(panel.seed(next), want, "the block after the poll was opened");
    }

    /// Whoever is sold a vote can take half of what backs it instead.
    function test_attack_vote_selling(uint8 n) external {
        uint256[] memory votes = accepts(1 + uint256(n) % 2);
        _seal(poll, 1, votes);
        vm.prank(stranger);
        panel.leak(poll, 1, votes, salt(poll, 1));
        eq(vault.free(stranger), votes.length * risk / 2, "the buyer");
        _is(_seatGain(1), -int256(votes.length * risk), "the seller");
    }

    /// A bribed jury is appealed to a larger one, where the bribe has to reach a third of everybody to save the bond.
    function test_attack_bribed_jury(uint8 bribed) external {
        for (uint256 i = 6; i <= 8; i++) {
            _rich(owner(i), 2 * SEAT);
            vm.prank(owner(i));
            panel.sit();
        }
        _vote(poll, 1, votes1(word(0, 3, 1)));
        _answer(1);
        _ballots(court.dispute(1).poll, 8, 0); // the first jury is bribed whole
        court.rule(1);
        eq(court.dispute(1).outcome, State.VALID, "acquitted");
        uint256 before = vault.free(challenger);
        vm.prank(challenger);
        court.appeal(1);
        uint256 innocent = uint256(bribed) % 9;
        _ballots(court.dispute(1).poll, innocent, 8 - innocent);
        court.rule(1);
        State want = innocent >= 4 ? State.VALID : innocent > 2 ? State.SOFT : State.HARD;
        eq(court.dispute(1).outcome, want, "by all seats");
        eq(vault.free(challenger) == before ? 1 : 0, want == State.VALID ? 0 : 1, "the appeal's bond");
    }

    /// The first `innocent` seats acquit, the next `guilty` ones convict, and time passes.
    function _ballots(uint256 jury, uint256 innocent, uint256 guilty) private {
        _mine(2);
        uint256 n = innocent + guilty;
        for (uint256 i = 1; i <= n; i++) {
            _seal(jury, i, votes1(word(0, 0, i <= innocent ? 0 : 1)));
        }
        _toReveal(jury);
        for (uint256 i = 1; i <= n; i++) {
            _reveal(jury, i, votes1(word(0, 0, i <= innocent ? 0 : 1)));
        }
        _toEnd(jury);
    }

    /// Tokens move in two places, effects first: what a caller does not have he cannot take out, and a token that calls
    /// back while it moves finds the door shut.
    function test_attack_reentrancy_and_overdraft(uint96 amount) external {
        vm.assume(amount != 0);
        _rich(stranger, uint256(amount) - 1);
        vm.expectRevert(
            abi.encodeWithSelector(Vault.ShortFree.selector, stranger, uint256(amount) - 1, uint256(amount))
        );
        vm.prank(stranger);
        vault.withdraw(amount);
        HookToken hook = new HookToken();
        Vault other = new Vault(hook, address(panel), address(tasks), address(court));
        hook.mint(address(this), amount);
        hook.approve(address(other), amount);
        other.deposit(amount);
        hook.arm(other, false);
        vm.expectRevert(Vault.Reentered.selector);
        other.withdraw(amount);
    }

    /// A token that keeps a part of every transfer: the Vault owes what arrived, and can pay it.
    function test_attack_fee_on_transfer(uint96 amount, uint96 back) external {
        FeeToken fee = new FeeToken();
        Vault other = new Vault(fee, address(panel), address(tasks), address(court));
        fee.mint(address(this), amount);
        fee.approve(address(other), amount);
        other.deposit(amount);
        uint256 arrived = uint256(amount) - uint256(amount) / 10;
        eq(other.owed(), arrived, "what arrived");
        eq(other.free(address(this)), arrived, "is the depositor's");
        other.withdraw(uint256(back) % (arrived + 1));
        eq(fee.balanceOf(address(other)), other.owed(), "and is there");
    }

    /// Calldata without end is refused: more votes than 64, a path longer than the tree.
    function test_attack_calldata_bomb(uint8 n) external {
        uint256 many = 65 + uint256(n) % 100;
        vm.expectRevert(err(Panel.TooManyVotes.selector, many, 64));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, "hash", uint8(many));
    }

    /// Whoever comes late finds the model on the chain and the next round open.
    function test_attack_late_joiner(bytes32 root) external {
        vm.assume(root != 0);
        _merged();
        _merge(t, 0, root);
        eq(tasks.base(t, 1), root, "the model to start from");
        _claim(t, 1, 0, trainer(2));
    }

    /// Anyone who has the salt reveals and settles for a seat that is censored.
    function test_attack_censored_reveal(address relay) external {
        _seal(poll, 1, accepts(2));
        _toReveal(poll);
        vm.prank(relay);
        panel.reveal(poll, 1, accepts(2), salt(poll, 1));
        eq(panel.poll(poll).unrevealed, 0, "revealed");
    }

    /// After a reorganisation that loses a beacon's block, a new one is fixed; nobody chooses it.
    function test_attack_lost_beacon(uint16 blocks) external {
        t = _publish(params());
        uint256 next = _submitted(t, 0);
        _mine(257 + uint256(blocks));
        eq(panel.seed(next), 0, "armed again");
        eq(beaconOf(next), block.number + 1, "the next block");
    }

    /// Tokens sent to the Vault by hand change nobody's balance.
    function test_attack_forced_donation(uint96 amount) external {
        token.mint(address(vault), amount);
        uint256 sum = vault.owed();
        eq(token.balanceOf(address(vault)), sum + amount, "more than owed");
        _vote(poll, 2, accepts(2));
        eq(vault.owed(), sum, "unchanged");
    }
}
