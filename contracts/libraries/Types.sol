// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Tokens credited to this address can be withdrawn by nobody.
address constant BURN = address(0xdEaD);

/// The frozen terms of a task. Amounts in token units, windows in seconds. Accepted updates are merged by a mean, trimmed
/// when `trim` > 0, then Nesterov momentum, all in integers.
struct Params {
    uint96 reward; // slot 0: per accepted work
    uint96 bond; //            locked by a trainer per lease, >= reward
    uint16 slots; //           leases per round, 1..256
    uint16 rounds;
    uint16 feeBps; //          validators' fee per work, in 1/10000 of the reward
    uint16 want; //            expected committee size
    uint96 aggReward; // slot 1: per merge, <= reward
    uint96 aggBond; //         locked by a proposer, and by whoever contests him
    uint16 lrNum;
    uint16 lrDen;
    uint16 momentumNum;
    uint16 momentumDen;
    uint8 quorum; // slot 2: accepts needed to enter the merge
    uint8 lag; //              round r trains from the model that round r - lag left
    uint16 decoyOneIn; //      one work in so many is a decoy; 0 = none
    uint24 claimT;
    uint24 trainT;
    uint24 sealT;
    uint24 revealT;
    uint24 openT;
    uint24 aggT;
    uint64 length; //          bytes of a model's weights in whole leaves; a version is weights, then momentum: twice that
    uint8 shift; //            an update's lane times 2**shift is in units of the weights
    uint8 trim; //             percent of the updates that are dropped at either end of a lane, 0..49
}

/// What one work commits to; `workRoot` is the Tree root of the artifact abi.encode(Header).
struct Header {
    bytes32 updateRoot;
    uint64 updateLength;
    bytes32 trajRoot;
    uint32 trajCount;
    bytes32 stepRoot;
    uint32 stepCount;
    bytes32 metaHash;
}

enum State {
    NONE,
    CLAIMED,
    SUBMITTED,
    DISPUTED,
    VALID,
    SOFT,
    HARD,
    EXPIRED,
    DECOY
}

struct Task {
    address publisher; // slot 0
    uint16 begun; //     rounds begun; also the index of the next round
    uint16 settled; //   rounds settled, always in order
    uint32 pending; //   works that are not terminal
    bool closed;
    bytes32 model; // slot 1: the initial model
    Params params; // slots 2..4
}

struct Round {
    uint40 claimEnd; // slot 0
    uint40 trainEnd; //  0 while leases can be claimed
    uint16 claimed;
    uint16 submitted; // in time
    uint16 undecided; // submitted, neither opened nor rejected: their mask bit is open
    uint40 beacon; //    the block whose hash gives the data seed
    uint32 poll; //      0 until the works are checked
    uint40 decidedAt; // when `undecided` last fell to 0, or the round ended without works
    uint8 gone; //       leases given back; they count in `claimed`
    uint8 merged; //     works that enter the merge
    address proposer; // slot 1
    uint40 movedAt; //   when the proposal was made, contested, cleared, dropped or settled
    uint32 contest; //   which lane of the live proposal has to be shown: (leaf << 8 | lane) + 1; 0 = none
    uint8 late; //       works that entered late, at slots 255, 254, ..; they do not count in `claimed`
    address challenger; // slot 2
    bytes32 seed; // slot 3: decides the data of every lease
    uint256 unmerged; // slot 4: one bit per slot that does not enter the merge; all of them when the poll is opened
    bytes32 root; // slot 5: the proposed model, and after settling the model the round left
}

struct Work {
    address trainer; // slot 0
    State state;
    bool opened; //      the seal was opened
    bool soft; //        some dispute ended SOFT
    uint24 disputes; //  disputes not yet ruled
    uint24 yes; //       counted accepts
    uint24 no; //        rejects: the finders
    bytes32 seal; // slot 1
    bytes32 root; // slot 2: 0 until submitted; of a work that enters the merge, its update's root once it is opened
}

struct Seat {
    address owner; // slot 0
    uint96 reserved; //  part of the stake that backs unsettled votes
    uint32 firstPoll; // slot 1: the first poll this seat may vote in
    uint32 endPoll; //   the first poll it may not vote in; 0 = none yet
    uint40 exitAt; //    when it may leave; 0 = not exiting
}

struct Poll {
    bool jury; // slot 0: the Court asks, about a dispute; else Tasks, about works
    bool seeded;
    uint40 sealEnd;
    uint40 revealEnd;
    uint16 want;
    uint24 seats; //     seats that existed when it was opened
    uint24 unrevealed; // batches that are sealed and not revealed
    uint96 risk; //      what each vote stakes
    bytes32 seed; // slot 1: the number of its beacon's block until it is seeded
}

enum Phase {
    FILED, // waits for the leaf to be shown
    JURY, //  the jury of this level votes
    RULED, // its ruling can be appealed
    FINAL
}

struct Dispute {
    uint40 task; // slot 0
    uint16 round;
    uint16 slot;
    uint8 tree;
    uint32 leaf;
    uint32 poll; //      the jury's poll; 0 before there is one
    State outcome; //    NONE until ruled, then VALID, SOFT or HARD
    Phase phase;
    uint8 level; //      of the jury, 0..3
    uint24 hard; //      votes of that jury
    uint24 soft;
    uint24 innocent;
    uint40 ruledAt; // slot 1: when that jury ruled; 0 when its ruling cannot be appealed
    uint96 share; //     of lost appeal bonds, for each juror who voted as it ended
}

/// A bonded appeal against an outcome.
struct Appeal {
    address by;
    State against;
}

/// One leaf of an artifact with its Merkle path.
struct Opening {
    bytes data;
    bytes32[] path;
}

/// One lane of a proposed version, and what the chain knows of its making.
struct MergeClaim {
    Params terms;
    bytes32 base;
    bytes32 proposed;
    bytes32[] roots; // of the accepted updates, ascending by slot
    uint256 late; //    bit i: the i-th of them entered one round late
    uint32 leaf;
    uint8 lane;
}

/// Shows that the mandatory trajectory's activation proof is the secret's noise.
struct DecoyProof {
    Opening trajectory; // leaf of the mandatory index
    uint64 length; //      bytes of the activation proof that it names
    Opening proof; //      first leaf of that
}

/// The state of Tasks, in one place for the libraries that work on it.
struct Store {
    mapping(uint256 id => Task) tasks;
    mapping(uint256 task => mapping(uint256 round => Round)) rounds;
    mapping(uint256 task => mapping(uint256 round => mapping(uint256 slot => Work))) works;
    /// Of a lease whose trainer will be late: until when it can enter the next round. Of a work that entered late: where
    /// it was leased, (round << 16 | slot) + 1.
    mapping(bytes32 pot => uint256) lateness;
}

/// A vote is item << 40 | tree << 32 | v, v = 0: accept, leaf + 1: that leaf is bad, WITHHELD: no data.
library Votes {
    uint32 internal constant WITHHELD = type(uint32).max;
    uint8 internal constant LAST_TREE = 3; // 0 header, 1 update, 2 trajectories, 3 steps

    function item(uint256 vote) internal pure returns (uint256) {
        return vote >> 40;
    }

    function tree(uint256 vote) internal pure returns (uint8) {
        return uint8((vote >> 32) & 0xff);
    }

    function verdict(uint256 vote) internal pure returns (uint32) {
        return uint32(vote & 0xffffffff);
    }
}
