// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Court} from "../../contracts/Court.sol";
import {Panel} from "../../contracts/Panel.sol";
import {Protocol} from "../../contracts/Protocol.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {TestToken} from "../../contracts/TestToken.sol";
import {Vault} from "../../contracts/Vault.sol";
import {Tree} from "../../contracts/libraries/Tree.sol";
import {
    BURN,
    Header,
    Params,
    Poll,
    Round,
    State,
    Task,
    Votes,
    Work
} from "../../contracts/libraries/Types.sol";

/// The few cheatcodes of forge that these tests use.
interface Vm {
    function warp(uint256 timestamp) external;
    function roll(uint256 number) external;
    function prank(address sender) external;
    function expectRevert(bytes calldata data) external;
    function expectRevert(bytes4 selector) external;
    function expectPartialRevert(bytes4 selector) external;
    function expectEmit(address emitter) external;
    function envOr(string calldata name, uint256 value) external view returns (uint256);
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonStringArray(string calldata json, string calldata key)
        external
        pure
        returns (string[] memory);
    function parseBytes(string calldata text) external pure returns (bytes memory);
    function toString(uint256 value) external pure returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
}

/// A deployed protocol, a few people with tokens, and the usual moves of a round in one line each.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant UNIT = 1e18;
    uint96 internal constant SEAT = 1000e18;
    uint96 internal constant RISK_MIN = 1e17;
    uint40 internal constant EXIT_DELAY = 1 days;
    uint256 internal constant WITHHELD = type(uint32).max;

    TestToken internal token;
    Protocol internal protocol;
    Vault internal vault;
    Panel internal panel;
    Tasks internal tasks;
    Court internal court;
    address internal publisher = address(0xA11CE);
    address internal aggregator = address(0xA66);
    address internal challenger = address(0xC4A1);
    address internal stranger = address(0x57);
    address[] internal people; // everybody whose balance counts in `solvent`
    bytes32[] internal taskPots; // pots of Tasks that may hold something

    error Failed(string what, uint256 got, uint256 want);

    function setUp() public virtual {
        vm.warp(1_700_000_000);
        vm.roll(1000);
        token = new TestToken();
        protocol = new Protocol(token, SEAT, EXIT_DELAY, RISK_MIN);
        (vault, panel, tasks, court) =
        (protocol.vault(), protocol.panel(), protocol.tasks(), protocol.court());
        people.push(BURN);
        _rich(publisher, 1_000_000 * UNIT);
        _rich(aggregator, 100_000 * UNIT);
        _rich(challenger, 100_000 * UNIT);
    }

    // ---------------------------------------------------------------------------------------- assertions

    function eq(uint256 got, uint256 want, string memory what) internal pure {
        if (got != want) revert Failed(what, got, want);
    }

    function eq(bytes32 got, bytes32 want, string memory what) internal pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    function eq(address got, address want, string memory what) internal pure {
        if (got != want) revert Failed(what, uint160(got), uint160(want));
    }

    function eq(State got, State want, string memory what) internal pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    function ok(bool holds, string memory what) internal pure {
        if (!holds) revert Failed(what, 0, 1);
    }

    /// I1 with an independent sum: what the Vault holds is exactly what it owes to people, seats and works.
    function solvent() internal view {
        uint256 sum = 0;
        for (uint256 i = 0; i < people.length; i++) {
            sum += vault.free(people[i]);
        }
        for (uint256 i = 1; i <= panel.seats(); i++) {
            sum += vault.pot(address(panel), bytes32(i));
        }
        for (uint256 i = 0; i < taskPots.length; i++) {
            sum += vault.pot(address(tasks), taskPots[i]);
        }
        eq(vault.owed(), sum, "owed is the sum of all balances and pots");
        eq(token.balanceOf(address(vault)), sum, "the vault holds what it owes");
    }

    // -------------------------------------------------------------------------------------------- people

    function _rich(address who, uint256 amount) internal {
        people.push(who);
        token.mint(who, amount);
        vm.prank(who);
        token.approve(address(vault), type(uint256).max);
        vm.prank(who);
        vault.deposit(amount);
    }

    function trainer(uint256 i) internal pure returns (address) {
        return address(uint160(0x7000 + i));
    }

    function owner(uint256 i) internal pure returns (address) {
        return address(uint160(0x5000 + i));
    }

    function _trainers(uint256 n) internal {
        for (uint256 i = 0; i < n; i++) {
            _rich(trainer(i), 10_000 * UNIT);
        }
    }

    /// Seats 1..n of owners 1..n.
    function _seats(uint256 n) internal {
        for (uint256 i = 1; i <= n; i++) {
            _rich(owner(i), 10_000 * UNIT);
            vm.prank(owner(i));
            panel.sit();
        }
    }

    // --------------------------------------------------------------------------------------------- moves

    function params() internal pure returns (Params memory p) {
        p.reward = 10e18;
        p.bond = 16e18;
        p.aggReward = 2e18;
        p.aggBond = 6e18;
        (p.slots, p.rounds, p.feeBps, p.want, p.quorum, p.lag) = (2, 2, 1000, 8, 2, 1);
        (p.claimT, p.trainT, p.sealT, p.revealT, p.openT, p.aggT) = (60, 100, 50, 40, 30, 20);
    }

    function _publish(Params memory p) internal returns (uint256 t) {
        vm.prank(publisher);
        t = tasks.publish(p, keccak256("spec"), keccak256("model 0"), "http://localhost/spec");
        taskPots.push(bytes32(t));
        for (uint256 r = 0; r < p.rounds; r++) {
            for (uint256 s = 0; s < p.slots; s++) {
                taskPots.push(tasks.potId(t, r, s));
            }
            taskPots.push(tasks.potId(t, r, type(uint16).max));
        }
    }

    function secretOf(uint256 t, uint256 r, uint256 s) internal pure returns (bytes32) {
        return keccak256(abi.encode("secret", t, r, s));
    }

    function headerOf(uint256 t, uint256 r, uint256 s) internal pure returns (Header memory) {
        return
            Header(keccak256("u"), 4096, keccak256("t"), 3, keccak256("s"), 5, keccak256(abi.encode(t, r, s)));
    }

    function rootOf(uint256 t, uint256 r, uint256 s) internal pure returns (bytes32) {
        return Tree.single(abi.encode(headerOf(t, r, s)));
    }

    function _claim(uint256 t, uint256 r, uint256 s, address who) internal {
        bytes32 seal = sha256(abi.encode(secretOf(t, r, s), who));
        vm.prank(who);
        eq(tasks.claim(t, r, seal), s, "slots are given in order");
    }

    function _submit(uint256 t, uint256 r, uint256 s) internal {
        bytes32 root = rootOf(t, r, s);
        vm.prank(tasks.work(t, r, s).trainer);
        tasks.submit(t, r, s, root);
    }

    function _open(uint256 t, uint256 r, uint256 s) internal {
        vm.prank(stranger);
        tasks.openSeal(t, r, s, secretOf(t, r, s), headerOf(t, r, s));
    }

    function _pass(uint256 seconds_) internal {
        vm.warp(block.timestamp + seconds_);
        vm.roll(block.number + 1);
    }

    function _mine(uint256 blocks) internal {
        vm.roll(block.number + blocks);
    }

    /// Claims every slot of the round by its own trainer, and stops with the data seed readable.
    function _claimed(uint256 t, uint256 r) internal {
        uint256 n = tasks.task(t).params.slots;
        for (uint256 s = 0; s < n; s++) {
            _claim(t, r, s, trainer(s));
        }
        _mine(2);
    }

    /// Claims and submits everything: the poll is open and its seed readable.
    function _submitted(uint256 t, uint256 r) internal returns (uint256 poll) {
        _claimed(t, r);
        uint256 n = tasks.task(t).params.slots;
        for (uint256 s = 0; s < n; s++) {
            _submit(t, r, s);
        }
        poll = tasks.round(t, r).poll;
        _mine(2);
    }

    function word(uint256 item, uint256 tree, uint256 v) internal pure returns (uint256) {
        return (item << 40) | (tree << 32) | v;
    }

    function votes1(uint256 a) internal pure returns (uint256[] memory v) {
        v = new uint256[](1);
        v[0] = a;
    }

    function votes2(uint256 a, uint256 b) internal pure returns (uint256[] memory v) {
        v = new uint256[](2);
        (v[0], v[1]) = (a, b);
    }

    /// Accepts items 0..n-1.
    function accepts(uint256 n) internal pure returns (uint256[] memory v) {
        v = new uint256[](n);
        for (uint256 i = 0; i < n; i++) {
            v[i] = word(i, 0, 0);
        }
    }

    function salt(uint256 poll, uint256 seat) internal pure returns (bytes32) {
        return keccak256(abi.encode("salt", poll, seat));
    }

    function batchHash(uint256 poll, uint256 seat, uint256[] memory votes) internal view returns (bytes32) {
        return sha256(abi.encode(block.chainid, address(panel), poll, seat, votes, salt(poll, seat)));
    }

    function _seal(uint256 poll, uint256 seat, uint256[] memory votes) internal {
        bytes32 hash = batchHash(poll, seat, votes);
        vm.prank(panel.seat(seat).owner);
        panel.sealVotes(poll, seat, hash, uint8(votes.length));
    }

    function _reveal(uint256 poll, uint256 seat, uint256[] memory votes) internal {
        vm.prank(stranger);
        panel.reveal(poll, seat, votes, salt(poll, seat));
    }

    function _settle(uint256 poll, uint256 seat, uint256[] memory votes) internal {
        vm.prank(stranger);
        panel.settle(poll, seat, votes, salt(poll, seat));
    }

    /// Seats 1..k vote `votes`; the others stay silent and time closes the windows.
    function _vote(uint256 poll, uint256 k, uint256[] memory votes) internal {
        for (uint256 i = 1; i <= k; i++) {
            _seal(poll, i, votes);
        }
        _toReveal(poll);
        for (uint256 i = 1; i <= k; i++) {
            _reveal(poll, i, votes);
        }
        _toEnd(poll);
    }

    function _toReveal(uint256 poll) internal {
        (uint40 sealEnd,) = panel.ends(poll);
        if (block.timestamp < sealEnd) vm.warp(sealEnd);
    }

    function _toEnd(uint256 poll) internal {
        (, uint40 revealEnd) = panel.ends(poll);
        if (block.timestamp < revealEnd) vm.warp(revealEnd);
        _mine(1);
    }

    /// Seats 1..k vote `v` on a dispute; then anyone rules.
    function _judge(uint256 dispute, uint256 k, uint256 v) internal {
        uint256 poll = court.dispute(dispute).poll;
        _mine(2);
        if (k != 0) _vote(poll, k, votes1(word(0, 0, v)));
        _toEnd(poll);
        vm.prank(stranger);
        court.rule(dispute);
    }

    function _propose(uint256 t, uint256 r, bytes32 root) internal {
        vm.prank(aggregator);
        tasks.propose(t, r, root);
    }

    /// Proposes and settles the round.
    function _merge(uint256 t, uint256 r, bytes32 root) internal {
        _propose(t, r, root);
        _pass(tasks.task(t).params.aggT);
        vm.prank(stranger);
        tasks.advance(t, r);
    }

    /// An honest round: all slots claimed, submitted, accepted by seats 1..k, opened and merged.
    function _honestRound(uint256 t, uint256 r, uint256 k) internal returns (uint256 poll) {
        poll = _submitted(t, r);
        uint256 n = tasks.task(t).params.slots;
        _vote(poll, k, accepts(n));
        for (uint256 s = 0; s < n; s++) {
            _open(t, r, s);
        }
        _merge(t, r, keccak256(abi.encode("model", r + 1)));
    }

    function err(bytes4 selector) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector);
    }

    function err(bytes4 selector, uint256 a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }

    function err(bytes4 selector, uint256 a, uint256 b) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b);
    }

    function err(bytes4 selector, address a) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a);
    }
}
