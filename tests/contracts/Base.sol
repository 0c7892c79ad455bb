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
    Dispute,
    Header,
    Opening,
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
    function assume(bool holds) external pure;
    function expectRevert(bytes calldata data) external;
    function expectRevert(bytes4 selector) external;
    function expectPartialRevert(bytes4 selector) external;
    function expectEmit(address emitter) external;
    function envOr(string calldata name, uint256 value) external view returns (uint256);
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonInt(string calldata json, string calldata key) external pure returns (int256);
    function parseJsonIntArray(string calldata json, string calldata key)
        external
        pure
        returns (int256[] memory);
    function snapshotState() external returns (uint256);
    function revertToState(uint256 id) external returns (bool);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function addr(uint256 key) external pure returns (address);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonStringArray(string calldata json, string calldata key)
        external
        pure
        returns (string[] memory);
    function parseUint(string calldata text) external pure returns (uint256);
    function parseBytes(string calldata text) external pure returns (bytes memory);
    function toString(uint256 value) external pure returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
}

/// Merkle trees as nodes build them.
library Trees {
    function leafHash(bytes memory data) internal pure returns (bytes32) {
        require(data.length == 1024, "a leaf has 1 KiB");
        return sha256(bytes.concat(hex"00", data));
    }

    function rootHash(uint64 length, bytes32 top) internal pure returns (bytes32) {
        return sha256(bytes.concat(hex"02", bytes8(length), top));
    }

    /// Root of an artifact that fits in one leaf.
    function single(bytes memory artifact) internal pure returns (bytes32) {
        uint256 length = artifact.length;
        return rootHash(uint64(length), leafHash(bytes.concat(artifact, new bytes(1024 - length))));
    }

    function root(bytes[] memory data) internal pure returns (bytes32) {
        bytes32[] memory level = _hashes(data);
        while (level.length > 1) {
            level = _up(level);
        }
        return rootHash(uint64(1024 * data.length), level[0]);
    }

    function open(bytes[] memory data, uint256 index) internal pure returns (Opening memory o) {
        o.data = data[index];
        bytes32[] memory path = new bytes32[](40);
        uint256 used = 0;
        bytes32[] memory level = _hashes(data);
        for (; level.length > 1; index >>= 1) {
            if (index ^ 1 < level.length) path[used++] = level[index ^ 1];
            level = _up(level);
        }
        o.path = new bytes32[](used);
        for (uint256 i = 0; i < used; i++) {
            o.path[i] = path[i];
        }
    }

    function _hashes(bytes[] memory data) private pure returns (bytes32[] memory level) {
        level = new bytes32[](data.length);
        for (uint256 i = 0; i < data.length; i++) {
            level[i] = leafHash(data[i]);
        }
    }

    function _up(bytes32[] memory level) private pure returns (bytes32[] memory next) {
        next = new bytes32[]((level.length + 1) / 2);
        for (uint256 i = 0; i < next.length; i++) {
            next[i] = 2 * i + 1 < level.length
                ? sha256(bytes.concat(hex"01", level[2 * i], level[2 * i + 1]))
                : level[2 * i];
        }
    }
}

/// How accepted updates are merged: that part of a task's terms.
struct MergeRule {
    uint64 length;
    uint8 shift;
    uint8 trim;
    uint16 lrNum;
    uint16 lrDen;
    uint16 momentumNum;
    uint16 momentumDen;
}

/// The parts of a merge's proof, before they are packed into one string.
struct MergeProof {
    uint32 leaf;
    uint8 lane;
    Opening proposed;
    Opening weights; // empty when `leaf` is one of the momentum's
    Opening momentum;
    Opening[] updates;
}

/// Proofs of merges as nodes pack them.
library Packed {
    function proof(MergeProof memory m) internal pure returns (bytes memory out) {
        out = bytes.concat(opening(m.proposed), opening(m.momentum));
        if (m.weights.data.length != 0) out = bytes.concat(out, opening(m.weights));
        for (uint256 i = 0; i < m.updates.length; i++) {
            out = bytes.concat(out, opening(m.updates[i]));
        }
    }

    function opening(Opening memory o) internal pure returns (bytes memory) {
        return bytes.concat(leaf(o.data), abi.encodePacked(o.path));
    }

    /// A leaf in as few bits as its lanes need.
    function leaf(bytes memory data) internal pure returns (bytes memory) {
        uint256 bits = 0;
        for (uint256 i = 0; i < 256; i++) {
            int256 x = lane(data, i);
            while (bits < 32 && (x + half(bits) < 0 || x >= half(bits)) && !(bits == 0 && x == 0)) bits++;
        }
        return leaf(data, bits);
    }

    function half(uint256 bits) private pure returns (int256) {
        return bits == 0 ? int256(0) : int256(1 << (bits - 1));
    }

    function leaf(bytes memory data, uint256 bits) internal pure returns (bytes memory out) {
        if (bits == 32) return bytes.concat(hex"20", data);
        out = bytes.concat(bytes1(uint8(bits)), new bytes(32 * bits));
        for (uint256 group = 0; group < 32; group++) {
            uint256 x = 0;
            for (uint256 i = 8 * group; i < 8 * group + 8; i++) {
                x = (x << bits) | uint256(lane(data, i) + half(bits));
            }
            for (uint256 b = bits; b > 0; b--) {
                out[group * bits + b] = bytes1(uint8(x));
                x >>= 8;
            }
        }
    }

    function lane(bytes memory data, uint256 i) internal pure returns (int256) {
        uint32 u = 0;
        for (uint256 b = 0; b < 4; b++) {
            u |= uint32(uint8(data[4 * i + b])) << uint32(8 * b);
        }
        return int32(u);
    }
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
        for (uint256 i = 1; i <= court.disputes(); i++) {
            sum += vault.pot(address(court), bytes32(i));
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
        p = ruled(p, rule());
        p.reward = 10e18;
        p.bond = 16e18;
        p.aggReward = 2e18;
        p.aggBond = 6e18;
        (p.slots, p.rounds, p.feeBps, p.want, p.quorum, p.lag) = (2, 2, 1000, 8, 2, 1);
        (p.claimT, p.trainT, p.sealT, p.revealT, p.openT, p.aggT) = (60, 100, 50, 40, 30, 20);
    }

    function rule() internal pure virtual returns (MergeRule memory) {
        return MergeRule(4096, 8, 0, 7, 10, 9, 10);
    }

    /// Terms with another merge rule.
    function ruled(Params memory p, MergeRule memory m) internal pure returns (Params memory) {
        (p.length, p.shift, p.trim) = (m.length, m.shift, m.trim);
        (p.lrNum, p.lrDen, p.momentumNum, p.momentumDen) = (m.lrNum, m.lrDen, m.momentumNum, m.momentumDen);
        return p;
    }

    /// The pot of a lease.
    function potId(uint256 t, uint256 r, uint256 s) internal pure returns (bytes32) {
        return keccak256(abi.encode(t, r, s));
    }

    /// The works that enter a round's merge, one bit each.
    function maskOf(uint256 t, uint256 r) internal view returns (uint256) {
        Round memory rd = tasks.round(t, r);
        return rd.merged == 0 ? 0 : ~rd.unmerged;
    }

    /// The poll's seed; 0 until it is stored.
    function seedOf(uint256 poll) internal view returns (bytes32) {
        Poll memory p = panel.poll(poll);
        return p.seeded ? p.seed : bytes32(0);
    }

    /// The block that decides the seed of a poll that has none yet.
    function beaconOf(uint256 poll) internal view returns (uint256) {
        return uint256(panel.poll(poll).seed);
    }

    /// Slots beyond `slots` that relinquished and late works may use.
    function spareSlots() internal pure virtual returns (uint256) {
        return 0;
    }

    function _publish(Params memory p) internal returns (uint256 t) {
        bytes32 model = firstModel();
        vm.prank(publisher);
        t = tasks.publish(p, keccak256("spec"), model, "http://localhost/spec");
        taskPots.push(bytes32(t));
        for (uint256 r = 0; r < p.rounds; r++) {
            for (uint256 s = 0; s < p.slots + spareSlots(); s++) {
                taskPots.push(potId(t, r, s));
            }
            for (uint256 s = 256 - spareSlots(); s < 256; s++) {
                taskPots.push(potId(t, r, s));
            }
            taskPots.push(potId(t, r, type(uint16).max));
        }
    }

    function secretOf(uint256 t, uint256 r, uint256 s) internal view virtual returns (bytes32) {
        return keccak256(abi.encode("secret", t, r, s));
    }

    uint256 internal constant UPDATE_LEAVES = 4;
    uint256 internal constant TRAJECTORIES = 9;
    uint256 internal constant STEPS = 6;

    function headerOf(uint256 t, uint256 r, uint256 s) internal view virtual returns (Header memory) {
        return Header(
            Trees.root(leavesOf(1, UPDATE_LEAVES)),
            4096,
            Trees.root(leavesOf(2, TRAJECTORIES)),
            uint32(TRAJECTORIES),
            Trees.root(leavesOf(3, STEPS)),
            uint32(STEPS),
            keccak256(abi.encode(t, r, s))
        );
    }

    /// The leaves of a work's tree: 1 update, 2 trajectories, 3 steps.
    function leavesOf(uint8 tree, uint256 n) internal pure returns (bytes[] memory data) {
        data = new bytes[](n);
        for (uint256 i = 0; i < n; i++) {
            data[i] = abi.encodePacked(keccak256(abi.encode(tree, i)), new bytes(992));
        }
    }

    /// Leaf `i` of a work's tree with its path; of a tree that has no such leaf, nothing.
    function leafOf(uint8 tree, uint256 i) internal pure returns (Opening memory) {
        uint256 n = tree == 1 ? UPDATE_LEAVES : tree == 2 ? TRAJECTORIES : tree == 3 ? STEPS : 0;
        return i < n ? Trees.open(leavesOf(tree, n), i) : Opening("", new bytes32[](0));
    }

    function rootOf(uint256 t, uint256 r, uint256 s) internal view returns (bytes32) {
        return Trees.single(abi.encode(headerOf(t, r, s)));
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

    function _openFails(bytes memory error, uint256 t, uint256 r, uint256 s) internal {
        (bytes32 secret, Header memory h) = (secretOf(t, r, s), headerOf(t, r, s));
        vm.expectRevert(error);
        tasks.openSeal(t, r, s, secret, h);
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

    function leafFor(Dispute memory x) internal view virtual returns (Opening memory) {
        return leafOf(x.tree, x.leaf);
    }

    function firstModel() internal virtual returns (bytes32) {
        return keccak256("model 0");
    }

    /// Anyone shows what dispute `d` is about.
    function _answer(uint256 d) internal {
        Dispute memory x = court.dispute(d);
        Header memory h = headerOf(x.task, x.round, x.slot);
        Opening memory leaf = leafFor(x);
        vm.prank(stranger);
        court.answer(d, h, leaf);
    }

    /// Answered; then seats 1..k vote `v` in the jury, and anyone rules.
    function _judge(uint256 dispute, uint256 k, uint256 v) internal {
        _answer(dispute);
        _jury(dispute, k, v);
    }

    function _jury(uint256 dispute, uint256 k, uint256 v) internal {
        uint256 poll = court.dispute(dispute).poll;
        _mine(2);
        if (k != 0) _vote(poll, k, votes1(word(0, 0, v)));
        _toEnd(poll);
        vm.prank(stranger);
        court.rule(dispute);
    }

    /// Nobody answers in time.
    function _concede(uint256 dispute) internal {
        Dispute memory x = court.dispute(dispute);
        (, uint256 until) = tasks.accused(x.task, x.round, x.slot);
        if (block.timestamp < until) vm.warp(until);
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

/// A world with a poll about the two works of a task's first round, its seed drawn.
abstract contract Polled is Base {
    uint256 internal t;
    uint256 internal poll;
    uint256 internal risk;

    function setUp() public override {
        super.setUp();
        _trainers(3);
        _seats(5);
        t = _publish(params());
        poll = _submitted(t, 0);
        panel.seed(poll);
        risk = tasks.risk(t);
    }
}
