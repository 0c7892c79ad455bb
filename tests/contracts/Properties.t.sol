// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Vault} from "../../contracts/Vault.sol";
import {Beacon} from "../../contracts/libraries/Beacon.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {
    BURN,
    DecoyProof,
    Header,
    Opening,
    Params,
    State,
    Task,
    Votes,
    Work
} from "../../contracts/libraries/Types.sol";
import {Polled} from "./Base.sol";

/// Whoever calls it reverts: a trainer who must be paid all the same (I18, I19).
contract Hostile {
    fallback() external payable {
        revert("called");
    }
}

/// The invariants of docs/protocol.md, one property per number, each over random amounts, times, votes and callers.
/// Random lives check the same numbers along whole lives (Invariants.t.sol); here each stands alone, so that its name fails.
/// Everything starts with two submitted works, five seats and their poll open.
contract PropertiesTest is Polled {
    uint256 private constant BOND = 16e18;
    uint256 private constant REWARD = 10e18;
    uint256 private constant FEE = 1e18;
    uint256 private constant START = 10_000 * UNIT;

    /// Each of seats 1..5 votes on both works by two bits of `votes`: nothing, accept, accept the first, reject the first.
    function _ballot(uint256 votes, uint256 seat) private pure returns (uint256[] memory) {
        uint256 choice = (votes >> (2 * seat)) & 3;
        if (choice == 0) return new uint256[](0);
        if (choice == 1) return accepts(2);
        return choice == 2 ? accepts(1) : votes1(word(0, 3, 1));
    }

    /// Seals and reveals these ballots; how many accept work 0, how many work 1, how many reject work 0.
    function _voted(uint256 votes) private returns (uint256 first, uint256 second, uint256 no) {
        for (uint256 i = 1; i <= 5; i++) {
            _seal(poll, i, _ballot(votes, i));
            uint256 choice = (votes >> (2 * i)) & 3;
            if (choice == 1 || choice == 2) first++;
            if (choice == 1) second++;
            if (choice == 3) no++;
        }
        for (uint256 i = 1; i <= 5; i++) {
            _reveal(poll, i, _ballot(votes, i));
        }
        _toEnd(poll);
    }

    /// What a stranger may try to do at any time; nothing happens when the rules forbid it.
    function _any(uint256 verb, address caller) private {
        bytes memory data;
        address target = address(tasks);
        if (verb % 12 == 0) {
            data = abi.encodeCall(Tasks.expire, (t, 0, verb & 1));
        } else if (verb % 12 == 1) {
            data = abi.encodeCall(Tasks.touch, (t, 0));
        } else if (verb % 12 == 2) {
            data = abi.encodeCall(Tasks.advance, (t, 0));
        } else if (verb % 12 == 3) {
            data = abi.encodeCall(Tasks.reclaim, (t));
        } else if (verb % 12 == 4) {
            data = abi.encodeCall(Tasks.openSeal, (t, 0, 0, secretOf(t, 0, 0), headerOf(t, 0, 0)));
        } else if (verb % 12 == 5) {
            data = abi.encodeCall(Tasks.relinquish, (t, 0, 0));
        } else {
            (target, data) = _anyVote(verb);
        }
        vm.prank(caller);
        (bool done,) = target.call(data);
        done;
    }

    function _anyVote(uint256 verb) private view returns (address target, bytes memory data) {
        uint256[] memory votes = accepts(2);
        target = address(panel);
        if (verb % 12 == 6) data = abi.encodeCall(Panel.reveal, (poll, 1, votes, salt(poll, 1)));
        else if (verb % 12 == 7) data = abi.encodeCall(Panel.settle, (poll, 1, votes, salt(poll, 1)));
        else if (verb % 12 == 8) data = abi.encodeCall(Panel.forfeit, (poll, 1));
        else if (verb % 12 == 9) data = abi.encodeCall(Panel.leave, (1));
        else if (verb % 12 == 10) (target, data) = (address(court), abi.encodeCall(Court.rule, (1)));
        else data = abi.encodeCall(Panel.seed, (poll));
    }

    // ---------------------------------------------------------------------------------------------- money

    function test_property_I1_the_vault_holds_what_it_owes(uint96 in_, uint96 out, uint96 locked) external {
        _rich(stranger, in_);
        uint256 amount = uint256(out) % (uint256(in_) + 1);
        vm.prank(stranger);
        vault.withdraw(amount);
        uint256 stake = uint256(locked) % (uint256(in_) - amount + 1);
        vm.prank(stranger);
        panel.topUp(1, stake);
        eq(vault.free(stranger), in_ - amount - stake, "what is left");
        solvent();
    }

    function test_property_I2_strangers_lower_no_balance(uint256 verbs, uint16 wait) external {
        _seal(poll, 1, accepts(2));
        address[4] memory whose = [trainer(0), owner(1), publisher, aggregator];
        for (uint256 i = 0; i < 12; i++) {
            _pass(uint256(wait) % 64);
            uint256[4] memory before;
            for (uint256 k = 0; k < 4; k++) {
                before[k] = vault.free(whose[k]);
            }
            _any((verbs >> (8 * i)) & 0xff, stranger);
            for (uint256 k = 0; k < 4; k++) {
                ok(vault.free(whose[k]) >= before[k], "nobody's free balance fell");
            }
        }
    }

    function test_property_I3_only_siblings_move_pots(address caller, bytes32 id, uint96 amount) external {
        bool module = caller == address(tasks) || caller == address(panel) || caller == address(court);
        vm.assume(!module);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotModule.selector, caller));
        vm.prank(caller);
        vault.pay(id, caller, amount);
    }

    function test_property_I4_the_escrow_covers_what_may_be_paid(uint16 votes, bool first, bool second)
        external
    {
        (,, uint256 no) = _voted(votes);
        if (first) _open(t, 0, 0);
        if (second) _open(t, 0, 1);
        uint256 open = (first && no == 0 ? 0 : 1) + (second ? 0 : 1);
        uint256 coming = 2 * (REWARD + FEE) + 2e18; // the second round
        ok(vault.pot(address(tasks), bytes32(t)) >= open * (REWARD + FEE) + 2e18 + coming, "covered");
    }

    function test_property_I5_the_publisher_gains_nothing(uint16 votes, bool first, bool second) external {
        uint256 before = vault.free(publisher) + vault.pot(address(tasks), bytes32(t));
        (,, uint256 no) = _voted(votes);
        if (first) _open(t, 0, 0);
        if (second) _open(t, 0, 1);
        _pass(30);
        if (!first && no == 0) tasks.expire(t, 0, 0);
        if (!second) tasks.expire(t, 0, 1);
        if (no != 0) _concede(1);
        _pass(80);
        tasks.advance(t, 0);
        vm.prank(publisher);
        tasks.close(t);
        tasks.reclaim(t);
        uint256 paid = (first && no == 0 ? REWARD : 0) + (second ? REWARD : 0);
        ok(vault.free(publisher) + paid <= before, "what he paid he does not get back, nor anything else");
        eq(vault.pot(address(tasks), bytes32(t)), 0, "nothing left");
    }

    // -------------------------------------------------------------------------------------------- justice

    function test_property_I6_a_lapse_costs_an_eighth_and_nothing_earlier(uint16 early) external {
        _toEnd(poll);
        (, uint40 end) = panel.ends(poll);
        uint256 due = uint256(end) + 30;
        vm.warp(uint256(end) + uint256(early) % 30);
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.expire(t, 0, 0);
        vm.warp(due + early);
        tasks.expire(t, 0, 0);
        eq(vault.free(trainer(0)), START - BOND / 8, "an eighth");
        eq(vault.free(BURN), BOND / 8, "burnt");
    }

    function test_property_I7_a_seat_loses_at_most_what_it_sealed(uint8 n, bool shows, bool leaks) external {
        uint256[] memory votes = accepts(uint256(n) % 65);
        _seal(poll, 1, votes);
        uint256 stake = votes.length * risk;
        eq(panel.seat(1).reserved, stake, "each vote is backed");
        if (leaks) {
            vm.prank(stranger);
            panel.leak(poll, 1, votes, salt(poll, 1));
        } else {
            _toReveal(poll);
            if (shows) _reveal(poll, 1, votes);
            _toEnd(poll);
            if (!shows) panel.forfeit(poll, 1);
        }
        uint256 lost = leaks ? stake : shows || votes.length == 0 ? 0 : risk;
        eq(vault.pot(address(panel), bytes32(uint256(1))), SEAT - lost, "lost");
        eq(panel.seat(1).reserved, shows && !leaks ? stake : 0, "still reserved");
    }

    function test_property_I8_two_thirds_of_five_convict(uint8 hard, uint8 innocent) external {
        _seal(poll, 1, votes1(word(0, 3, 1)));
        _toReveal(poll);
        _reveal(poll, 1, votes1(word(0, 3, 1)));
        _answer(1);
        uint256 h = uint256(hard) % 6;
        uint256 all = h + uint256(innocent) % (6 - h);
        uint256 jury = court.dispute(1).poll;
        _mine(2);
        for (uint256 i = 1; i <= all; i++) {
            _seal(jury, i, votes1(word(0, 0, i <= h ? 1 : 0)));
        }
        _toReveal(jury);
        for (uint256 i = 1; i <= all; i++) {
            _reveal(jury, i, votes1(word(0, 0, i <= h ? 1 : 0)));
        }
        _toEnd(jury);
        court.rule(1);
        State want = 2 * h <= all ? State.VALID : all >= 5 && 3 * h >= 2 * all ? State.HARD : State.SOFT;
        eq(court.dispute(1).outcome, want, "the outcome");
        eq(vault.free(BURN), want == State.HARD ? BOND / 2 : 0, "burnt");
    }

    function test_property_I9_half_of_a_slashed_bond_burns(uint8 finders) external {
        uint256 n = 1 + uint256(finders) % 5;
        for (uint256 i = 1; i <= n; i++) {
            _seal(poll, i, votes1(word(0, 3, 1)));
        }
        _toReveal(poll);
        for (uint256 i = 1; i <= n; i++) {
            _reveal(poll, i, votes1(word(0, 3, 1)));
        }
        _concede(1);
        uint256 share = BOND / 2 / n;
        eq(vault.free(BURN), BOND - share * n, "half and the dust");
        for (uint256 i = 1; i <= n; i++) {
            _settle(poll, i, votes1(word(0, 3, 1)));
            eq(vault.free(owner(i)), START - SEAT + share + FEE / n, "an equal share for each finder");
        }
        solvent();
    }

    function test_property_I10_no_decoy_without_its_lottery(bytes32 noise, bytes32 secret, uint16 oneIn)
        external
    {
        Params memory p = params();
        p.decoyOneIn = uint16(10 + uint256(oneIn) % 60);
        t = _publish(p);
        bytes32 seal = sha256(abi.encode(secret, trainer(2)));
        vm.prank(trainer(2));
        tasks.claim(t, 0, seal);
        _claim(t, 0, 1, trainer(1));
        _mine(2);
        bytes32 root = rootOf(t, 0, 0);
        vm.prank(trainer(2));
        tasks.submit(t, 0, 0, root);
        _submit(t, 0, 1);
        poll = tasks.round(t, 0).poll;
        _mine(2);
        panel.seed(poll);
        _toEnd(poll);
        bytes32 seed = tasks.round(t, 0).seed;
        bool drawn = uint256(sha256(abi.encode(secret, seed))) % p.decoyOneIn == 0;
        uint256 index = Exact.mandatory(seedOf(poll), 0, uint32(TRAJECTORIES));
        DecoyProof memory d = DecoyProof(leafOf(2, index), 1024, Opening("", new bytes32[](0)));
        d.proof.data = abi.encodePacked(hex"ffd9", noise, new bytes(990));
        Header memory h = headerOf(t, 0, 0);
        vm.expectRevert(err(Tasks.WrongDecoy.selector, index));
        tasks.openDecoy(t, 0, 0, secret, h, d);
        if (drawn) vm.expectRevert(abi.encodeWithSelector(Tasks.DecoyDue.selector, t, 0, 0));
        tasks.openSeal(t, 0, 0, secret, h);
    }

    // ---------------------------------------------------------------------------------------------- order

    function test_property_I11_seeds_are_younger_than_what_they_judge(uint8 a, uint8 b) external {
        t = _publish(params());
        _claim(t, 0, 0, trainer(0));
        _claim(t, 0, 1, trainer(1));
        uint256 claimed = block.number;
        uint256 beacon = tasks.round(t, 0).beacon;
        ok(beacon > claimed, "seed_a is younger than the seals");
        bytes32 root = rootOf(t, 0, 0);
        vm.expectRevert(err(Beacon.SeedNotReady.selector, beacon));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, root);
        _mine(2 + uint256(a) % 200);
        _submit(t, 0, 0);
        _submit(t, 0, 1);
        poll = tasks.round(t, 0).poll;
        ok(beaconOf(poll) > block.number, "seed_v is younger than the roots");
        vm.expectRevert(err(Beacon.SeedNotReady.selector, beaconOf(poll)));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, "hash", 1);
        _mine(2 + uint256(b) % 200);
        _seal(poll, 1, accepts(2));
        ok(seedOf(poll) != tasks.round(t, 0).seed, "two seeds");
    }

    function test_property_I12_one_batch_counts_once(uint16 votes) external {
        (uint256 first, uint256 second, uint256 no) = _voted(votes);
        Work memory w = tasks.work(t, 0, 0);
        eq(w.yes, first, "accepts of the first");
        eq(w.no, no, "rejects of the first");
        eq(tasks.work(t, 0, 1).yes, second, "accepts of the second");
        for (uint256 i = 1; i <= 5; i++) {
            uint256[] memory own = _ballot(votes, i);
            vm.expectRevert(
                abi.encodeWithSelector(Panel.NotRevealTime.selector, poll, _sealEnd(), _revealEnd())
            );
            panel.reveal(poll, i, own, salt(poll, i));
        }
        _open(t, 0, 1);
        if (no != 0) _concede(1);
        else _open(t, 0, 0);
        for (uint256 i = 1; i <= 5; i++) {
            uint256[] memory own = _ballot(votes, i);
            _settle(poll, i, own);
            vm.expectRevert(err(Panel.NotSealed.selector, poll, i));
            panel.settle(poll, i, own, salt(poll, i));
        }
        solvent();
    }

    function _sealEnd() private view returns (uint40 end) {
        (end,) = panel.ends(poll);
    }

    function _revealEnd() private view returns (uint40 end) {
        (, end) = panel.ends(poll);
    }

    function test_property_I13_what_has_ended_stays_ended(uint256 verbs, bool lapses) external {
        _toEnd(poll);
        _open(t, 0, 1);
        if (lapses) {
            _pass(30);
            tasks.expire(t, 0, 0);
        } else {
            _open(t, 0, 0);
        }
        eq(tasks.task(t).pending, 0, "nothing is pending");
        (State first, State second) = (tasks.work(t, 0, 0).state, tasks.work(t, 0, 1).state);
        for (uint256 i = 0; i < 8; i++) {
            _any((verbs >> (8 * i)) & 0xff, i & 1 == 0 ? stranger : trainer(0));
            _pass((verbs >> (128 + 8 * i)) & 0x3f);
        }
        eq(tasks.work(t, 0, 0).state, first, "as it ended");
        eq(tasks.work(t, 0, 1).state, second, "as it ended");
        eq(tasks.task(t).pending, 0, "still nothing");
    }

    function test_property_I14_the_mask_is_what_the_votes_say(uint16 votes, bool first, bool second)
        external
    {
        (uint256 yes, uint256 other, uint256 no) = _voted(votes);
        if (first) _open(t, 0, 0);
        if (second) _open(t, 0, 1);
        uint256 want = (first && yes >= 2 && no == 0 ? 1 : 0) | (second && other >= 2 ? 2 : 0);
        eq(maskOf(t, 0), want, "opened, a quorum, no reject");
    }

    function test_property_I15_the_model_waits_for_the_window(bytes32 root, uint16 early, bool contested)
        external
    {
        vm.assume(root != 0);
        _vote(poll, 5, accepts(2));
        _open(t, 0, 0);
        _open(t, 0, 1);
        _propose(t, 0, root);
        uint256 due = block.timestamp + 20;
        if (contested) {
            vm.prank(challenger);
            tasks.contestMerge(t, 0, 3, 7);
        }
        vm.warp(block.timestamp + uint256(early) % 20);
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        eq(tasks.model(t), keccak256("model 0"), "not yet");
        vm.warp(due + early);
        tasks.advance(t, 0);
        eq(tasks.model(t), contested ? keccak256("model 0") : root, "stood, or was not shown");
    }

    // ----------------------------------------------------------------------------------------------- life

    function test_property_I16_strangers_free_every_lock(uint16 votes, bool first, bool second, uint8 sealed_)
        external
    {
        if (uint256(sealed_) % 3 == 0) {
            _seal(poll, 1, accepts(2)); // and never shown
            _toReveal(poll);
            _toEnd(poll);
            panel.forfeit(poll, 1);
            votes = 0;
        } else {
            _voted(votes);
        }
        (,, uint256 no) = _counts();
        if (first) _open(t, 0, 0);
        if (second) _open(t, 0, 1);
        _pass(1 days);
        if (tasks.work(t, 0, 0).state == State.SUBMITTED) tasks.expire(t, 0, 0);
        if (tasks.work(t, 0, 1).state == State.SUBMITTED) tasks.expire(t, 0, 1);
        if (no != 0) court.rule(1);
        tasks.advance(t, 0);
        for (uint256 i = 1; i <= 5; i++) {
            if (panel.sealedOf(poll, i) != 0) _settle(poll, i, _ballot(votes, i));
            vm.prank(owner(i));
            panel.exit(i);
        }
        _pass(1 days);
        for (uint256 i = 1; i <= 5; i++) {
            panel.leave(i);
        }
        vm.prank(publisher);
        tasks.close(t);
        tasks.reclaim(t);
        eq(tasks.task(t).pending, 0, "no lease is open");
        ok(vault.owed() - _frees() < 5, "but the dust of shares, everything is free again");
        solvent();
    }

    function _counts() private view returns (uint256 yes, uint256 state, uint256 no) {
        Work memory w = tasks.work(t, 0, 0);
        return (w.yes, uint256(w.state), w.no);
    }

    function _frees() private view returns (uint256 sum) {
        for (uint256 i = 0; i < people.length; i++) {
            sum += vault.free(people[i]);
        }
    }

    function test_property_I17_no_batch_and_no_round_without_end(uint8 votes, uint16 slots) external {
        uint256 many = 65 + uint256(votes) % 191;
        vm.expectRevert(err(Panel.TooManyVotes.selector, many, 64));
        vm.prank(owner(1));
        panel.sealVotes(poll, 1, "hash", uint8(many));
        Params memory p = params();
        p.slots = uint16(257 + uint256(slots) % 65_279);
        bytes32 what = "slots";
        vm.expectRevert(abi.encodeWithSelector(Tasks.OutOfRange.selector, what, uint256(p.slots), 1, 256));
        vm.prank(publisher);
        tasks.publish(p, keccak256("spec"), keccak256("model 0"), "");
    }

    function test_property_I18_every_vote_word_is_taken(uint216 item, uint40 rest) external {
        uint256 vote = (uint256(item) << 40) | rest;
        _seal(poll, 1, votes1(vote));
        _toReveal(poll);
        _reveal(poll, 1, votes1(vote));
        eq(panel.poll(poll).unrevealed, 0, "revealed");
        bool reject = (rest & 0xffffffff) != 0;
        if (item > 1 || (reject && (rest >> 32) > Votes.LAST_TREE)) eq(court.disputes(), 0, "meant nothing");
        else eq(court.disputes(), reject ? 1 : 0, "a dispute for a reject");
    }

    /// Whoever is paid is not called: a contract that reverts at every call gets its money, and stops nobody.
    function test_property_I19_nobody_who_is_paid_is_called(bytes32 secret, uint8 voters) external {
        address hostile = address(new Hostile());
        token.mint(hostile, 100 * UNIT);
        vm.prank(hostile);
        token.approve(address(vault), type(uint256).max);
        vm.prank(hostile);
        vault.deposit(100 * UNIT);
        people.push(hostile);
        t = _publish(params());
        bytes32 seal = sha256(abi.encode(secret, hostile));
        vm.prank(hostile);
        tasks.claim(t, 0, seal);
        _claim(t, 0, 1, trainer(1));
        _mine(2);
        bytes32 root = rootOf(t, 0, 0);
        vm.prank(hostile);
        tasks.submit(t, 0, 0, root);
        _submit(t, 0, 1);
        poll = tasks.round(t, 0).poll;
        _mine(2);
        _vote(poll, uint256(voters) % 6, accepts(2));
        Header memory h = headerOf(t, 0, 0);
        tasks.openSeal(t, 0, 0, secret, h);
        eq(vault.free(hostile), 100 * UNIT + REWARD, "paid");
        vm.prank(hostile);
        vault.withdraw(REWARD);
        eq(token.balanceOf(hostile), REWARD, "and carried off");
        solvent();
    }

    function test_property_I20_terms_stay(uint96 reward, uint256 verbs) external {
        bytes32 before = keccak256(abi.encode(tasks.task(t).params));
        Params memory p = params();
        p.reward = uint96(1e18 + uint256(reward) % 5e18);
        p.aggReward = 0;
        uint256 own = t;
        ok(_publish(p) != t, "another task");
        for (uint256 i = 0; i < 6; i++) {
            _any((verbs >> (8 * i)) & 0xff, publisher);
            _pass((verbs >> (128 + 8 * i)) & 0x7f);
        }
        Task memory x = tasks.task(own);
        eq(keccak256(abi.encode(x.params)), before, "as it was");
    }

    /// A proof of random bytes never opens anything.
    function test_property_random_proofs_open_nothing(bytes32 root, bytes32 sibling, uint8 index)
        external
        view
    {
        Opening memory o = Opening(new bytes(1024), new bytes32[](1));
        o.path[0] = sibling;
        Header memory h = headerOf(t, 0, 0);
        (h.stepRoot, h.stepCount) = (root, 2);
        if (index >= 2) {
            ok(!Exact.shown(h, 3, index, o), "void");
        } else {
            try this.shown(h, index, o) returns (bool) {
                revert Failed("opened", 1, 0);
            } catch {}
        }
    }

    function shown(Header calldata h, uint8 index, Opening calldata o) external view returns (bool) {
        return Exact.shown(h, 3, index, o);
    }
}
