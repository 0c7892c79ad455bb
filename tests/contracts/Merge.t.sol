// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tasks} from "../../contracts/Tasks.sol";
import {Exact} from "../../contracts/libraries/Exact.sol";
import {Tree} from "../../contracts/libraries/Tree.sol";
import {BURN, Header, Opening, Params} from "../../contracts/libraries/Types.sol";
import {Base, MergeProof, MergeRule, Packed, Trees} from "./Base.sol";

/// Wrong merges are refuted by arithmetic, right ones stand, and nothing else is asked.
contract MergeTest is Base {
    uint256 private constant AGG_BOND = 6e18;
    uint256 private constant HALF = 2; // leaves of weights, and of momentum
    uint256 private constant WORKS = 4;

    uint256 private t;
    uint256 private poll;
    bytes[] private base_; // leaves of the model before the round
    bytes[] private right_; // leaves of its merge

    function rule() internal pure override returns (MergeRule memory) {
        return MergeRule(uint64(1024 * HALF), 8, 25, 7, 10, 9, 10);
    }

    /// Small numbers everywhere, some negative, and in work 1 some beyond 16 bits.
    function _lanes(uint256 tag, int256 span) private pure returns (bytes memory data) {
        data = new bytes(1024);
        for (uint256 i = 0; i < 256; i++) {
            int256 x = int256(uint256(keccak256(abi.encode(tag, i))) % uint256(2 * span)) - span;
            uint32 u = uint32(int32(x));
            for (uint256 b = 0; b < 4; b++) {
                data[4 * i + b] = bytes1(uint8(u >> (8 * b)));
            }
        }
    }

    function _update(uint256 s) private pure returns (bytes[] memory data) {
        data = new bytes[](HALF);
        for (uint256 i = 0; i < HALF; i++) {
            data[i] = _lanes(1000 * s + i, s == 1 ? int256(100_000) : int256(300));
        }
    }

    function headerOf(uint256 t_, uint256 r, uint256 s) internal view override returns (Header memory h) {
        h = super.headerOf(t_, r, s);
        (h.updateRoot, h.updateLength) = (Trees.root(_update(s)), uint64(1024 * HALF));
    }

    function firstModel() internal override returns (bytes32) {
        delete base_;
        for (uint256 i = 0; i < 2 * HALF; i++) {
            base_.push(_lanes(7 + i, 2 ** 30));
        }
        return Trees.root(base_);
    }

    function _int(bytes memory data, uint256 lane) private pure returns (int256) {
        uint32 u = 0;
        for (uint256 b = 0; b < 4; b++) {
            u |= uint32(uint8(data[4 * lane + b])) << uint32(8 * b);
        }
        return int32(u);
    }

    function _put(bytes memory data, uint256 lane, int256 x) private pure {
        uint32 u = uint32(int32(x));
        for (uint256 b = 0; b < 4; b++) {
            data[4 * lane + b] = bytes1(uint8(u >> (8 * b)));
        }
    }

    function _floor(int256 a, int256 b) private pure returns (int256) {
        int256 many = b * 2 ** 60; // shifts `a` into the positive numbers
        return (a + many) / b - 2 ** 60;
    }

    /// The merge of four updates written out: the middle two of each lane.
    function _merge() private {
        delete right_;
        for (uint256 i = 0; i < 2 * HALF; i++) {
            right_.push(new bytes(1024));
        }
        bytes[][] memory updates = new bytes[][](WORKS);
        for (uint256 s = 0; s < WORKS; s++) {
            updates[s] = _update(s);
        }
        bytes[] memory from = base_;
        for (uint256 leaf = 0; leaf < HALF; leaf++) {
            (bytes memory w, bytes memory m) = (new bytes(1024), new bytes(1024));
            for (uint256 i = 0; i < 256; i++) {
                (int256 sum, int256 least, int256 most) = (0, type(int256).max, type(int256).min);
                for (uint256 s = 0; s < WORKS; s++) {
                    int256 x = _int(updates[s][leaf], i);
                    x = x > 32_767 ? int256(32_767) : x < -32_767 ? -int256(32_767) : x;
                    sum += x;
                    if (x < least) least = x;
                    if (x > most) most = x;
                }
                int256 g = _floor((sum - least - most) * 256, 2);
                int256 next = _floor(9 * _int(from[HALF + leaf], i), 10) + g;
                int256 step = _floor(7 * (g + _floor(9 * next, 10)), 10);
                _put(m, i, next);
                _put(w, i, _int(from[leaf], i) - step);
            }
            (right_[leaf], right_[HALF + leaf]) = (w, m);
        }
    }

    function _ready() private {
        if (t == 0) {
            _trainers(WORKS);
            _seats(4);
        }
        Params memory p = params();
        p.slots = uint16(WORKS);
        t = _publish(p);
        poll = _submitted(t, 0);
        _vote(poll, 4, accepts(WORKS));
        for (uint256 s = 0; s < WORKS; s++) {
            _open(t, 0, s);
        }
        if (right_.length == 0) _merge();
    }

    function _proof(bytes[] memory proposed, uint32 leaf, uint8 lane)
        private
        view
        returns (MergeProof memory m)
    {
        uint256 pos = leaf % HALF;
        (m.leaf, m.lane) = (leaf, lane);
        m.proposed = Trees.open(proposed, leaf);
        if (leaf < HALF) m.weights = Trees.open(base_, pos);
        m.momentum = Trees.open(base_, HALF + pos);
        m.updates = new Opening[](WORKS);
        for (uint256 s = 0; s < WORKS; s++) {
            m.updates[s] = Trees.open(_update(s), pos);
        }
    }

    /// The right merge with one lane changed.
    function _wrong(uint32 leaf, uint8 lane) private view returns (bytes[] memory data) {
        data = right_;
        _put(data[leaf], lane, _int(data[leaf], lane) + 1);
    }

    function _prove(MergeProof memory m) private {
        tasks.proveMerge(t, 0, m.leaf, m.lane, Packed.proof(m));
    }

    function _gain(address who) private view returns (int256) {
        return int256(vault.free(who)) - int256(100_000 * UNIT);
    }

    function _is(int256 got, int256 want, string memory what) private pure {
        if (got != want) revert Failed(what, uint256(got), uint256(want));
    }

    /// Every lane of the right merge is right, and one more or less is wrong, wherever it is.
    function test_right_and_wrong_lanes() external {
        _ready();
        for (uint32 k = 0; k < 12; k++) {
            (uint32 leaf, uint8 lane) = (k % 4, uint8(uint256(keccak256(abi.encode(k)))));
            uint256 snapshot = vm.snapshotState();
            bytes[] memory wrong = _wrong(leaf, lane);
            _propose(t, 0, Trees.root(wrong));
            MergeProof memory m = _proof(wrong, leaf, lane);
            vm.prank(stranger);
            _prove(m);
            eq(tasks.round(t, 0).proposer, address(0), "dropped");
            _propose(t, 0, Trees.root(right_));
            m = _proof(right_, leaf, lane);
            vm.expectRevert(err(Tasks.NotWrong.selector, leaf, lane));
            _prove(m);
            vm.revertToState(snapshot);
        }
    }

    /// One transaction, no bond, no vote: half of the proposer's bond to the finder, half burnt.
    function test_a_wrong_merge_is_refuted_in_one_transaction() external {
        _ready();
        bytes[] memory wrong = _wrong(1, 77);
        _propose(t, 0, Trees.root(wrong));
        MergeProof memory m = _proof(wrong, 1, 77);
        vm.expectEmit(address(tasks));
        emit Tasks.Refuted(t, 0, 1, 77, challenger);
        vm.expectEmit(address(tasks));
        emit Tasks.ProposalDropped(t, 0);
        vm.prank(challenger);
        _prove(m);
        _is(_gain(challenger), int256(AGG_BOND / 2), "finder");
        _is(_gain(aggregator), -int256(AGG_BOND), "proposer");
        eq(vault.free(BURN), AGG_BOND / 2, "half is burnt");
        vm.expectRevert(err(Tasks.NoProposal.selector, t, 0));
        _prove(m);
        _propose(t, 0, Trees.root(right_));
        _pass(20);
        tasks.advance(t, 0);
        eq(tasks.model(t), Trees.root(right_), "the next proposer");
        solvent();
    }

    /// Whoever names the lane first has the prize, whoever shows it.
    function test_a_contest_keeps_the_prize_for_its_challenger() external {
        _ready();
        bytes[] memory wrong = _wrong(2, 5);
        _propose(t, 0, Trees.root(wrong));
        vm.expectEmit(address(tasks));
        emit Tasks.Contested(t, 0, challenger, 0, 9, block.timestamp + 20);
        vm.prank(challenger);
        tasks.contestMerge(t, 0, 0, 9);
        MergeProof memory m = _proof(wrong, 2, 5); // another lane than the contested one
        vm.prank(stranger);
        _prove(m);
        _is(_gain(challenger), int256(AGG_BOND / 2), "bond back and half of the other");
        eq(vault.free(stranger), 0, "nothing for the copy");
        solvent();
    }

    function test_a_shown_lane_clears_a_contest() external {
        _ready();
        _propose(t, 0, Trees.root(right_));
        vm.warp(block.timestamp + 19);
        vm.prank(challenger);
        tasks.contestMerge(t, 0, 3, 255);
        vm.expectRevert(err(Tasks.UnderContest.selector, (3 << 8 | 255) + 1));
        tasks.contestMerge(t, 0, 3, 255);
        MergeProof memory m = _proof(right_, 3, 254);
        vm.expectRevert(err(Tasks.NotWrong.selector, 3, 254));
        _prove(m);
        m = _proof(right_, 3, 255);
        vm.warp(block.timestamp + 19);
        vm.expectEmit(address(tasks));
        emit Tasks.Cleared(t, 0, stranger);
        vm.prank(stranger);
        _prove(m);
        _is(_gain(challenger), -int256(AGG_BOND), "challenger");
        _is(_gain(aggregator), -int256(AGG_BOND / 2), "half of the contest, his own bond still locked");
        uint256 due = block.timestamp + 20;
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due);
        vm.expectRevert(err(Tasks.TooLate.selector, due));
        tasks.contestMerge(t, 0, 3, 255);
        tasks.advance(t, 0);
        eq(tasks.model(t), Trees.root(right_), "it stood");
        _is(_gain(aggregator), int256(AGG_BOND / 2 + 2e18), "bond, half of the other, reward");
        solvent();
    }

    /// A proposer who withholds what he proposed loses like one who lies.
    function test_a_withheld_lane_drops_the_proposal() external {
        _ready();
        _propose(t, 0, "nobody knows this version");
        vm.prank(challenger);
        tasks.contestMerge(t, 0, 0, 0);
        uint256 due = block.timestamp + 20;
        vm.expectRevert(err(Tasks.TooEarly.selector, due));
        tasks.advance(t, 0);
        vm.warp(due);
        vm.expectEmit(address(tasks));
        emit Tasks.ProposalDropped(t, 0);
        tasks.advance(t, 0);
        _is(_gain(challenger), int256(AGG_BOND / 2), "challenger");
        eq(tasks.round(t, 0).root, 0, "dropped");
        uint256 skip = block.timestamp + 80;
        vm.expectRevert(err(Tasks.TooEarly.selector, skip)); // the next proposer has his whole time
        tasks.advance(t, 0);
        vm.warp(skip);
        tasks.advance(t, 0);
        eq(tasks.model(t), Trees.root(base_), "skipped");
        solvent();
    }

    function test_contest_needs_a_live_proposal_and_a_leaf() external {
        _ready();
        vm.expectRevert(err(Tasks.NoProposal.selector, t, 0));
        tasks.contestMerge(t, 0, 0, 0);
        _propose(t, 0, "x");
        vm.expectRevert(err(Tasks.NoSuchLeaf.selector, 4));
        tasks.contestMerge(t, 0, 4, 0);
        vm.expectRevert(abi.encodeWithSignature("ShortFree(address,uint256,uint256)", stranger, 0, AGG_BOND));
        vm.prank(stranger);
        tasks.contestMerge(t, 0, 3, 0);
    }

    /// Every opening is checked against what the chain knows.
    function test_bad_openings() external {
        _ready();
        bytes[] memory wrong = _wrong(0, 3);
        _propose(t, 0, Trees.root(wrong));
        for (uint256 k = 0; k < 7; k++) {
            MergeProof memory m = _proof(wrong, 0, 3);
            if (k == 0) m.proposed = Trees.open(right_, 0);
            if (k == 1) m.momentum = Trees.open(base_, 3);
            if (k == 2) m.weights = Trees.open(base_, 1);
            if (k >= 3) m.updates[k - 3] = Trees.open(_update(k - 3), 1);
            vm.expectRevert(err(Exact.BadOpening.selector, k));
            _prove(m);
        }
        MergeProof memory h = _proof(wrong, 0, 3);
        bytes memory long = bytes.concat(Packed.proof(h), hex"00");
        vm.expectRevert(err(Exact.BadProof.selector, long.length - 1, long.length));
        tasks.proveMerge(t, 0, 0, 3, long);
        bytes memory wide = bytes.concat(hex"21", long);
        vm.expectRevert(err(Tree.BadLeafBits.selector, 33));
        tasks.proveMerge(t, 0, 0, 3, wide);
        h = _proof(wrong, 0, 3);
        h.leaf = 4;
        vm.expectRevert(err(Exact.BadOpening.selector, 0));
        _prove(h);
    }

    /// A work whose update has another length than the model is paid, and stays out of the merge.
    function test_an_update_of_another_length_is_not_merged() external {
        _trainers(2);
        _seats(4);
        t = _publish(params());
        _claimed(t, 0);
        Header memory odd = super.headerOf(t, 0, 0); // 4096 bytes, the rule says 2048
        bytes32 root = Trees.single(abi.encode(odd));
        vm.prank(trainer(0));
        tasks.submit(t, 0, 0, root);
        _submit(t, 0, 1);
        poll = tasks.round(t, 0).poll;
        _mine(2);
        _vote(poll, 4, accepts(2));
        tasks.openSeal(t, 0, 0, secretOf(t, 0, 0), odd);
        _open(t, 0, 1);
        eq(maskOf(t, 0), 2, "only the other one");
        eq(vault.free(trainer(0)), 10_000 * UNIT + 10e18, "paid");
    }

    /// The mask holds 64 works, so that a proof fits into one transaction; the others are paid.
    function test_at_most_64_works_are_merged() external {
        Params memory p = params();
        (p.slots, p.rounds, p.quorum) = (66, 1, 1);
        _rich(trainer(0), 10_000 * UNIT);
        _seats(2);
        t = _publish(p);
        for (uint256 s = 0; s < 66; s++) {
            _claim(t, 0, s, trainer(0));
        }
        _mine(2);
        Header memory h = headerOf(t, 0, 0);
        bytes32 root = Trees.single(abi.encode(h));
        for (uint256 s = 0; s < 66; s++) {
            vm.prank(trainer(0));
            tasks.submit(t, 0, s, root);
        }
        poll = tasks.round(t, 0).poll;
        _mine(2);
        uint256[] memory first = new uint256[](64);
        uint256[] memory last = new uint256[](2);
        for (uint256 s = 0; s < 66; s++) {
            if (s < 64) first[s] = word(s, 0, 0);
            else last[s - 64] = word(s, 0, 0);
        }
        _seal(poll, 1, first);
        _seal(poll, 2, last);
        _reveal(poll, 1, first);
        _reveal(poll, 2, last);
        for (uint256 s = 66; s > 0; s--) {
            tasks.openSeal(t, 0, s - 1, secretOf(t, 0, s - 1), h);
        }
        eq(maskOf(t, 0), ((1 << 66) - 1) ^ 3, "the first 64 that were opened");
        eq(tasks.round(t, 0).merged, 64, "as many as fit");
        eq(vault.free(trainer(0)), 10_000 * UNIT + 66 * 10e18, "everybody is paid");
    }

    // ------------------------------------------------------------------- Exact against numpy int64 vectors

    struct Vector {
        uint8 shift;
        uint8 trim;
        uint16 lrNum;
        uint16 lrDen;
        uint16 momentumNum;
        uint16 momentumDen;
        int256 weight;
        int256 momentum;
        int256[] updates;
        uint256 late;
        int256 newWeight;
        int256 newMomentum;
    }

    function test_numpy_vectors() external view {
        string[] memory texts = vm.parseJsonStringArray(vm.readFile("tests/vectors/merge.json"), "$");
        for (uint256 n = 0; n < texts.length; n++) {
            bytes memory raw = bytes.concat(bytes32(uint256(32)), vm.parseBytes(texts[n]));
            Vector memory v = abi.decode(raw, (Vector));
            MergeRule memory rule_ =
                MergeRule(1024, v.shift, v.trim, v.lrNum, v.lrDen, v.momentumNum, v.momentumDen);
            Params memory m = ruled(params(), rule_);
            for (uint256 i = 0; i < v.updates.length; i++) {
                v.updates[i] = Exact.clamped(v.updates[i], (v.late >> i) & 1 == 1);
            }
            (int256 next, int256 step) = Exact.outer(m, v.momentum, Exact.gradient(m, v.updates));
            _is(Exact.saturate(next), v.newMomentum, "momentum");
            _is(Exact.saturate(v.weight - step), v.newWeight, "weight");
        }
        ok(texts.length >= 96, "vectors were read");
    }

    /// forge-config: default.fuzz.runs = 1000
    /// forge-config: deep.fuzz.runs = 100000
    function test_floor_division(int128 a, uint64 b) external pure {
        if (b == 0) return;
        int256 q = Exact.floorDiv(a, b);
        int256 rest = int256(a) - q * int256(uint256(b));
        ok(rest >= 0 && rest < int256(uint256(b)), "the rest is natural");
    }

    /// forge-config: default.fuzz.runs = 1000
    /// forge-config: deep.fuzz.runs = 100000
    function test_lanes_are_little_endian(int32 x, uint8 lane) external view {
        bytes memory data = new bytes(1024);
        _put(data, lane, x);
        _is(Packed.lane(data, lane), x, "lane");
        (, bytes4 word, uint256 end) = this.unpack(bytes.concat(hex"20", data), lane);
        _is(Exact.lane(word), x, "lane");
        eq(end, 1025, "a leaf as it is");
    }

    function unpack(bytes calldata packed, uint256 i) external view returns (bytes32, bytes4, uint256) {
        uint256 start = 0;
        assembly {
            start := packed.offset
        }
        (bytes32 hash, bytes4 word, uint256 end) = Tree.unpack(start, i);
        return (hash, word, end - start);
    }

    /// However few bits its lanes are packed in, a leaf keeps its hash and its lanes.
    /// forge-config: default.fuzz.runs = 256
    /// forge-config: deep.fuzz.runs = 10000
    function test_packing_is_exact(uint256 tag, uint8 width, uint8 lane) external view {
        uint256 bits = width % 33;
        bytes memory data = bits == 0 ? new bytes(1024) : _lanes(tag, int256(1 << (bits - 1)));
        (bytes32 hash, bytes4 word, uint256 end) = this.unpack(Packed.leaf(data, bits), lane);
        eq(hash, Trees.leafHash(data), "hash");
        _is(Exact.lane(word), _int(data, lane), "lane");
        eq(end, 1 + 32 * bits, "length");
        eq(keccak256(Packed.leaf(data)), keccak256(Packed.leaf(data, Packed.leaf(data).length / 32)), "least");
    }

    /// The order in which updates come does not matter, and one hostile update among four moves a trimmed mean nowhere
    /// beyond the honest ones.
    /// forge-config: default.fuzz.runs = 1000
    /// forge-config: deep.fuzz.runs = 100000
    function test_trimming_bounds_a_hostile_update(int16[4] memory x, uint256 turn) external pure {
        Params memory m = params();
        int256[] memory a = new int256[](4);
        int256[] memory b = new int256[](4);
        for (uint256 i = 0; i < 4; i++) {
            a[i] = x[i];
            b[i] = x[(i + turn % 4) % 4];
        }
        int256 g = Exact.gradient(m, a);
        _is(Exact.gradient(m, b), g, "order");
        (int256 least, int256 most) = (type(int256).max, type(int256).min);
        for (uint256 i = 1; i < 4; i++) {
            if (x[i] < least) least = x[i];
            if (x[i] > most) most = x[i];
        }
        ok(g >= least * 256 && g <= most * 256, "between the honest ones, whatever x[0] is");
    }
}
