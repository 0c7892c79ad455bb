// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Vault} from "./Vault.sol";
import {IAsker} from "./interfaces/IAsker.sol";
import {Beacon} from "./libraries/Beacon.sol";
import {BURN, Poll, Seat, Votes} from "./libraries/Types.sol";

/// Equal staked seats, sortition by one hash, sealed polls, settlement of votes.
/// Keeps I7 (a seat loses only for what it sealed, at most `risk` per vote, reserved <= pot),
/// I11 (the seed is younger than the poll), I12 (counted = drawn or bonded, one batch, settled once).
contract Panel {
    using SafeCast for uint256;

    uint16 public constant ALL = type(uint16).max;
    uint8 public constant MAX_VOTES = 64;

    // A sealed batch is one word: the hash without its low 16 bits, a presence bit, n, and whether it was revealed.
    uint256 private constant HASH = ~uint256(0xffff);
    uint256 private constant PRESENT = 1 << 8;
    uint256 private constant REVEALED = 1;

    Vault public immutable vault;
    address public immutable tasks;
    address public immutable court;
    uint96 public immutable seatStake;
    uint40 public immutable exitDelay;

    uint24 public seats; // slot 0: seat ids given out
    uint24 public active; //   seats that are not exiting
    uint32 public polls;
    mapping(uint256 id => Seat) private _seats;
    mapping(uint256 id => Poll) private _polls;
    mapping(uint256 poll => mapping(uint256 seat => uint256)) public sealedOf;

    event Seated(uint256 indexed seat, address indexed owner);
    event Exiting(uint256 indexed seat, uint40 exitAt);
    event Left(uint256 indexed seat, address indexed owner);
    event PollOpened(
        uint256 indexed poll,
        address indexed asker,
        uint40 sealEnd,
        uint40 revealEnd,
        uint16 want,
        uint96 risk,
        uint24 seats,
        uint40 beacon
    );
    event Armed(uint256 indexed poll, uint40 beacon);
    event Seeded(uint256 indexed poll, bytes32 seed);
    event Sealed(uint256 indexed poll, uint256 indexed seat, uint8 n);
    event PollPhase(uint256 indexed poll, uint40 sealEnd, uint40 revealEnd);
    event Voted(uint256 indexed poll, uint256 indexed seat, uint256 vote, bool counted);
    event Settled(uint256 indexed poll, uint256 indexed seat, uint256 paid, uint256 lost);
    event Forfeited(uint256 indexed poll, uint256 indexed seat, uint256 lost);
    event Leaked(uint256 indexed poll, uint256 indexed seat, address by, uint256 lost);

    error NotAsker(address caller);
    error NotSeatOwner(uint256 seat, address caller);
    error UnknownSeat(uint256 seat);
    error UnknownPoll(uint256 poll);
    error AlreadyExiting(uint256 seat, uint40 exitAt);
    error NotExited(uint256 seat, uint40 exitAt);
    error VotesUnsettled(uint256 seat, uint96 reserved);
    error StakeTooSmall(uint256 seat, uint256 stake, uint256 needs);
    error SealOver(uint256 poll, uint40 sealEnd);
    error NotRevealTime(uint256 poll, uint40 sealEnd, uint40 revealEnd);
    error NotEligible(uint256 poll, uint256 seat);
    error TooManyVotes(uint256 n, uint256 max);
    error AlreadySealed(uint256 poll, uint256 seat);
    error NotSealed(uint256 poll, uint256 seat);
    error AlreadyRevealed(uint256 poll, uint256 seat);
    error NotRevealed(uint256 poll, uint256 seat);
    error WrongOpening(uint256 poll, uint256 seat);
    error UnsortedVotes(uint256 index);

    constructor(Vault vault_, address tasks_, address court_, uint96 seatStake_, uint40 exitDelay_) {
        vault = vault_;
        tasks = tasks_;
        court = court_;
        seatStake = seatStake_;
        exitDelay = exitDelay_;
    }

    // ---------------------------------------------------------------------------------------------- seats

    /// Takes a seat for the caller, backed by SEAT of the caller's free balance. It votes in later polls only.
    function sit() external returns (uint256 seat_) {
        seat_ = uint256(seats) + 1;
        seats = seat_.toUint24();
        active += 1;
        _seats[seat_] = Seat(msg.sender, 0, polls + 1, 0, 0);
        emit Seated(seat_, msg.sender);
        vault.lock(msg.sender, bytes32(seat_), seatStake);
    }

    /// Starts leaving: no later poll counts this seat, earlier ones still do.
    function exit(uint256 seatId) external {
        Seat storage s = _owned(seatId);
        if (s.exitAt != 0) revert AlreadyExiting(seatId, s.exitAt);
        uint40 exitAt = (block.timestamp + exitDelay).toUint40();
        s.exitAt = exitAt;
        s.endPoll = polls + 1;
        active -= 1;
        emit Exiting(seatId, exitAt);
    }

    /// Anyone: returns what is left of the stake once the delay is over and every vote is settled (I16).
    function leave(uint256 seatId) external {
        Seat storage s = _seats[seatId];
        address owner = s.owner;
        if (owner == address(0)) revert UnknownSeat(seatId);
        if (s.exitAt == 0 || block.timestamp < s.exitAt) revert NotExited(seatId, s.exitAt);
        if (s.reserved != 0) revert VotesUnsettled(seatId, s.reserved);
        delete _seats[seatId];
        emit Left(seatId, owner);
        vault.pay(bytes32(seatId), owner, vault.pot(address(this), bytes32(seatId)));
    }

    /// Anyone adds to a seat's stake, which bounds how many unsettled votes it can back.
    function topUp(uint256 seatId, uint256 amount) external {
        if (_seats[seatId].owner == address(0)) revert UnknownSeat(seatId);
        vault.lock(msg.sender, bytes32(seatId), amount);
    }

    // ---------------------------------------------------------------------------------------------- polls

    /// Tasks or Court asks. With no seats there is nobody to wait for, so the poll is over at once.
    function open(uint24 sealT, uint24 revealT, uint16 want, uint96 risk) external returns (uint256 id) {
        if (msg.sender != tasks && msg.sender != court) revert NotAsker(msg.sender);
        id = uint256(polls) + 1;
        polls = id.toUint32();
        (bool jury, uint24 n) = (msg.sender == court, active);
        uint40 sealEnd = (block.timestamp + (n == 0 ? 0 : sealT)).toUint40();
        uint40 revealEnd = sealEnd + (n == 0 ? 0 : revealT);
        uint40 beacon = Beacon.next();
        _polls[id] = Poll(jury, false, sealEnd, revealEnd, want, n, 0, risk, bytes32(uint256(beacon)));
        emit PollOpened(id, msg.sender, sealEnd, revealEnd, want, risk, n, beacon);
    }

    /// Anyone stores the poll's seed. If the beacon was missed, fixes a new one and returns 0.
    function seed(uint256 pollId) external returns (bytes32) {
        Poll storage p = _poll(pollId);
        if (_draw(pollId, p)) return p.seed;
        uint40 beacon = Beacon.next();
        p.seed = bytes32(uint256(beacon));
        emit Armed(pollId, beacon);
        return 0;
    }

    /// True when `seatId` is drawn to check `item`: its accept counts.
    function drawn(uint256 pollId, uint256 item, uint256 seatId) external view returns (bool) {
        Poll storage p = _poll(pollId);
        return _eligible(pollId, _seats[seatId]) && _drawn(pollId, p, item, seatId);
    }

    /// The seat's owner seals one batch of `n` votes, each backed by the poll's risk. n = 0 abstains.
    /// hash = sha256(abi.encode(block.chainid, panel, poll, seat, votes, salt))
    function sealVotes(uint256 pollId, uint256 seatId, bytes32 hash, uint8 n) external {
        Poll storage p = _poll(pollId);
        Seat storage s = _owned(seatId);
        if (block.timestamp >= p.sealEnd) revert SealOver(pollId, p.sealEnd);
        if (!_eligible(pollId, s)) revert NotEligible(pollId, seatId);
        if (n > MAX_VOTES) revert TooManyVotes(n, MAX_VOTES);
        if (sealedOf[pollId][seatId] != 0) revert AlreadySealed(pollId, seatId);
        if (!_draw(pollId, p)) revert Beacon.BeaconMissed(uint256(p.seed));
        if (n != 0) _reserve(seatId, s, uint256(n) * p.risk);
        sealedOf[pollId][seatId] = (uint256(hash) & HASH) | PRESENT | (uint256(n) << 1);
        p.unrevealed += 1;
        emit Sealed(pollId, seatId, n);
        if (p.unrevealed == p.seats) {
            uint40 revealT = p.revealEnd - p.sealEnd;
            _phase(pollId, p, block.timestamp.toUint40(), (block.timestamp + revealT).toUint40());
        }
    }

    /// Anyone who knows the salt reveals a batch; votes are ascending by item, one per item.
    function reveal(uint256 pollId, uint256 seatId, uint256[] calldata votes, bytes32 salt) external {
        Poll storage p = _poll(pollId);
        if (block.timestamp < p.sealEnd || block.timestamp >= p.revealEnd) {
            revert NotRevealTime(pollId, p.sealEnd, p.revealEnd);
        }
        uint256 word = _opened(pollId, seatId, votes, salt);
        if (word & REVEALED != 0) revert AlreadyRevealed(pollId, seatId);
        sealedOf[pollId][seatId] = word | REVEALED;
        p.unrevealed -= 1;
        if (p.unrevealed == 0) _phase(pollId, p, p.sealEnd, block.timestamp.toUint40());
        _cast(pollId, p, seatId, votes);
    }

    /// Anyone settles a revealed batch once its items are final: right votes are paid by the asker,
    /// a reject of an innocent work costs its risk, half to the trainer, half burnt (keeps I7, I9, I12).
    function settle(uint256 pollId, uint256 seatId, uint256[] calldata votes, bytes32 salt) external {
        Poll storage p = _poll(pollId);
        if (_opened(pollId, seatId, votes, salt) & REVEALED == 0) revert NotRevealed(pollId, seatId);
        delete sealedOf[pollId][seatId];
        Seat storage s = _seats[seatId];
        uint96 risk = p.risk;
        s.reserved -= (votes.length * risk).toUint96();
        uint256 paid = 0;
        uint256 lost = 0;
        for (uint256 i = 0; i < votes.length; i++) {
            if (!_counts(pollId, p, seatId, votes[i])) continue;
            (uint256 share, address wronged) = _asker(p).settleVote(pollId, votes[i], s.owner);
            paid += share;
            if (wronged == address(0)) continue;
            lost += risk;
            vault.halve(bytes32(seatId), wronged, risk);
        }
        emit Settled(pollId, seatId, paid, lost);
    }

    /// Anyone: a batch that was sealed and never revealed costs one risk, burnt.
    function forfeit(uint256 pollId, uint256 seatId) external {
        Poll storage p = _poll(pollId);
        uint256 word = sealedOf[pollId][seatId];
        if (word == 0) revert NotSealed(pollId, seatId);
        if (word & REVEALED != 0) revert AlreadyRevealed(pollId, seatId);
        if (block.timestamp < p.revealEnd) revert NotRevealTime(pollId, p.sealEnd, p.revealEnd);
        delete sealedOf[pollId][seatId];
        uint256 n = _count(word);
        uint256 lost = n == 0 ? 0 : p.risk;
        emit Forfeited(pollId, seatId, lost);
        if (lost == 0) return;
        _seats[seatId].reserved -= (n * lost).toUint96();
        vault.pay(bytes32(seatId), BURN, lost);
    }

    /// Whoever knows a seat's votes before sealing ends takes half of what backs them; the rest is burnt. So a seat that
    /// shows its votes to anybody trusts him with its stake, and votes cannot be sold. The seat seals nothing else here.
    function leak(uint256 pollId, uint256 seatId, uint256[] calldata votes, bytes32 salt) external {
        Poll storage p = _poll(pollId);
        if (block.timestamp >= p.sealEnd) revert SealOver(pollId, p.sealEnd);
        _opened(pollId, seatId, votes, salt);
        sealedOf[pollId][seatId] = PRESENT; // no votes, and no hash that opens it
        p.unrevealed -= 1;
        uint256 lost = votes.length * p.risk;
        emit Leaked(pollId, seatId, msg.sender, lost);
        if (lost == 0) return;
        _seats[seatId].reserved -= lost.toUint96();
        vault.halve(bytes32(seatId), msg.sender, lost);
    }

    // ---------------------------------------------------------------------------------------------- views

    function seat(uint256 id) external view returns (Seat memory) {
        return _seats[id];
    }

    function poll(uint256 id) external view returns (Poll memory) {
        return _polls[id];
    }

    function ends(uint256 id) external view returns (uint40 sealEnd, uint40 revealEnd) {
        Poll storage p = _polls[id];
        return (p.sealEnd, p.revealEnd);
    }

    // ------------------------------------------------------------------------------------------ internals

    function _poll(uint256 id) private view returns (Poll storage p) {
        p = _polls[id];
        if (p.revealEnd == 0) revert UnknownPoll(id);
    }

    function _asker(Poll storage p) private view returns (IAsker) {
        return IAsker(p.jury ? court : tasks);
    }

    function _owned(uint256 id) private view returns (Seat storage s) {
        s = _seats[id];
        if (s.owner != msg.sender) revert NotSeatOwner(id, msg.sender);
    }

    /// Exactly the seats that were active when the poll was opened.
    function _eligible(uint256 pollId, Seat storage s) private view returns (bool) {
        return s.owner != address(0) && s.firstPoll <= pollId && (s.endPoll == 0 || pollId < s.endPoll);
    }

    function _drawn(uint256 pollId, Poll storage p, uint256 item, uint256 seatId)
        private
        view
        returns (bool)
    {
        uint256 n = p.seats;
        uint256 want = p.want;
        if (want == ALL || n <= want) return true;
        return uint256(sha256(abi.encode(_seedOf(pollId, p), item, seatId))) % n < want;
    }

    /// A drawn seat's vote counts; so does every reject of a work, because it is bonded.
    function _counts(uint256 pollId, Poll storage p, uint256 seatId, uint256 vote)
        private
        view
        returns (bool)
    {
        return (!p.jury && Votes.verdict(vote) != 0) || _drawn(pollId, p, Votes.item(vote), seatId);
    }

    /// 0 when it is not stored and its beacon can no longer be read.
    function _seedOf(uint256 pollId, Poll storage p) private view returns (bytes32) {
        if (p.seeded) return p.seed;
        bytes32 hash = Beacon.read(uint256(p.seed));
        return hash == 0 ? bytes32(0) : sha256(abi.encode(hash, pollId));
    }

    /// Stores the seed; false when the beacon can no longer be read.
    function _draw(uint256 pollId, Poll storage p) private returns (bool) {
        if (p.seeded) return true;
        bytes32 drawn_ = _seedOf(pollId, p);
        if (drawn_ == 0) return false;
        (p.seeded, p.seed) = (true, drawn_);
        emit Seeded(pollId, drawn_);
        return true;
    }

    /// Keeps I7: what backs unsettled votes never exceeds the seat's pot.
    function _reserve(uint256 seatId, Seat storage s, uint256 amount) private {
        uint256 needs = s.reserved + amount;
        uint256 stake = vault.pot(address(this), bytes32(seatId));
        if (needs > stake) revert StakeTooSmall(seatId, stake, needs);
        s.reserved = needs.toUint96();
    }

    function _phase(uint256 pollId, Poll storage p, uint40 sealEnd, uint40 revealEnd) private {
        p.sealEnd = sealEnd;
        p.revealEnd = revealEnd;
        emit PollPhase(pollId, sealEnd, revealEnd);
    }

    function _count(uint256 word) private pure returns (uint256) {
        return (word >> 1) & 0x7f;
    }

    /// The stored word of a batch, when the votes and the salt are the ones that were sealed.
    function _opened(uint256 pollId, uint256 seatId, uint256[] calldata votes, bytes32 salt)
        private
        view
        returns (uint256 word)
    {
        word = sealedOf[pollId][seatId];
        if (word == 0) revert NotSealed(pollId, seatId);
        bytes32 hash = sha256(abi.encode(block.chainid, address(this), pollId, seatId, votes, salt));
        if (uint256(hash) & HASH != word & HASH || votes.length != _count(word)) {
            revert WrongOpening(pollId, seatId);
        }
    }

    function _cast(uint256 pollId, Poll storage p, uint256 seatId, uint256[] calldata votes) private {
        for (uint256 i = 0; i < votes.length; i++) {
            uint256 vote = votes[i];
            if (i > 0 && Votes.item(vote) <= Votes.item(votes[i - 1])) revert UnsortedVotes(i);
            bool counted = _counts(pollId, p, seatId, vote) && _asker(p).onVote(pollId, vote);
            emit Voted(pollId, seatId, vote, counted);
        }
    }
}
