// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Tasks} from "../Tasks.sol";
import {Beacon} from "./Beacon.sol";
import {Exact} from "./Exact.sol";
import {Rounds} from "./Rounds.sol";
import {Terms} from "./Terms.sol";
import {BURN, DecoyProof, Header, Poll, Round, State, Store, Task, Work} from "./Types.sol";

/// The rarer ways of a lease: given back, late, a decoy, lapsed, judged. Runs on the storage of Tasks.
library Leases {
    function relinquish(Store storage s, Rounds.Where memory here, uint256 slot) external {
        (Task storage t, Round storage rd, Work storage w) = Rounds.leased(s, here, slot);
        uint256 until = rd.trainEnd != 0 ? 0 : uint256(rd.claimEnd) - t.params.claimT / 2;
        Rounds.before(until);
        if (uint256(rd.gone) + t.params.slots >= 256) revert Tasks.NoRoom(here.task, here.round);
        rd.gone += 1;
        Rounds.finish(t, w, State.EXPIRED);
        emit Tasks.Relinquished(here.task, here.round, slot);
        here.vault.pay(Rounds.potId(here.task, here.round, slot), w.trainer, t.params.bond);
    }

    function defer(Store storage s, Rounds.Where memory here, uint256 slot) external {
        // slither-disable-next-line unused-return
        (Task storage t, Round storage rd,) = Rounds.leased(s, here, slot);
        if (rd.trainEnd == 0) revert Tasks.TooEarly(rd.claimEnd);
        Rounds.before(rd.trainEnd);
        uint256 until = uint256(rd.trainEnd) + t.params.claimT + t.params.trainT;
        s.lateness[Rounds.potId(here.task, here.round, slot)] = until;
        emit Tasks.Deferred(here.task, here.round, slot, until);
    }

    function submitLate(Store storage s, Rounds.Where memory here, uint256 slot, bytes32 root)
        external
        returns (uint256 place)
    {
        (Task storage t, Round storage rd, Work storage w) = Rounds.leased(s, here, slot);
        if (rd.trainEnd == 0 || block.timestamp < rd.trainEnd) revert Tasks.TooEarly(rd.trainEnd);
        if (root == 0) revert Tasks.ZeroRoot();
        if (!Rounds.draw(here, rd)) revert Beacon.BeaconMissed(rd.beacon);
        w.state = State.EXPIRED; // the new work is pending in its place
        bytes32 pot = Rounds.potId(here.task, here.round, slot);
        here.round += 1;
        place = _enter(s, here, slot, w.seal, root);
        here.vault.shift(pot, address(this), Rounds.potId(here.task, here.round, place), t.params.bond);
    }

    /// Gives the late work of lease `slot` of the round before a place behind the slots of round `here`.
    function _enter(Store storage s, Rounds.Where memory here, uint256 slot, bytes32 seal, bytes32 root)
        private
        returns (uint256 place)
    {
        Round storage rd = s.rounds[here.task][here.round];
        if (rd.poll != 0 || block.timestamp >= rd.trainEnd) {
            revert Tasks.RoundNotReady(here.task, here.round);
        }
        if (uint256(rd.claimed) + rd.late >= 256) revert Tasks.NoRoom(here.task, here.round);
        rd.late += 1;
        place = 256 - uint256(rd.late);
        s.lateness[Rounds.potId(here.task, here.round, place)] = ((here.round - 1) << 16 | slot) + 1;
        emit Tasks.Late(here.task, here.round - 1, slot, place);
        emit Tasks.Claimed(here.task, here.round, place, msg.sender, seal);
        Work storage w = s.works[here.task][here.round][place];
        (w.trainer, w.seal) = (msg.sender, seal);
        Rounds.submit(here, place, rd, w, root);
    }

    function openDecoy(
        Store storage s,
        Rounds.Where memory here,
        uint256 slot,
        bytes32 secret,
        Header calldata h,
        DecoyProof calldata proof
    ) external {
        (Task storage t, Round storage rd, Work storage w) = Rounds.opened(s, here, slot, secret, h);
        uint256 index = _mandatory(here, rd, slot, h.trajCount);
        if (!isDecoy(s, here, slot, secret) || !Exact.decoy(secret, index, h, proof)) {
            revert Tasks.WrongDecoy(index);
        }
        if (w.no == 0) Rounds.decide(rd);
        uint256 reward = Rounds.reward(t, rd, slot);
        emit Tasks.Opened(here.task, here.round, slot, false, reward);
        emit Tasks.Decoyed(here.task, here.round, slot, index);
        Rounds.finish(t, w, State.DECOY);
        Rounds.accept(here, t, w, slot, reward, w.no);
    }

    /// The trajectory that every seat had to look at; by the seed 0 when nobody voted.
    function _mandatory(Rounds.Where memory here, Round storage rd, uint256 slot, uint32 count)
        private
        view
        returns (uint256)
    {
        Poll memory p = here.panel.poll(rd.poll);
        return count == 0 ? 0 : Exact.mandatory(p.seeded ? p.seed : bytes32(0), slot, count);
    }

    function expire(Store storage s, Rounds.Where memory here, uint256 slot) external {
        (Task storage t, Round storage rd, Work storage w) = Rounds.work(s, here, slot);
        bytes32 pot = Rounds.potId(here.task, here.round, slot);
        uint256 due = type(uint40).max;
        if (w.state == State.SUBMITTED) {
            due = Rounds.revealEnd(here, rd) + t.params.openT;
        } else if (w.state == State.CLAIMED) {
            if (rd.trainEnd != 0) due = s.lateness[pot] == 0 ? rd.trainEnd : s.lateness[pot];
        } else {
            revert Tasks.WrongState(w.state);
        }
        Rounds.notBefore(due);
        Rounds.finish(t, w, State.EXPIRED);
        uint256 lost = t.params.bond / Terms.LATE_SHARE;
        emit Tasks.Expired(here.task, here.round, slot, lost);
        here.vault.pay(pot, BURN, lost);
        here.vault.pay(pot, w.trainer, t.params.bond - lost);
    }

    /// One dispute over a work was ruled. Any HARD convicts; else any SOFT; acquitted only when all are ruled.
    function resolve(Store storage s, Rounds.Where memory here, uint256 slot, State outcome) external {
        (Task storage t, Round storage rd, Work storage w) = Rounds.work(s, here, slot);
        uint256 until = Rounds.revealEnd(here, rd); // no further reject can come
        // What is not opened yet may turn out to be a decoy.
        if (t.params.decoyOneIn != 0 && !w.opened) Rounds.notBefore(until + t.params.openT);
        w.disputes -= 1;
        if (w.state != State.DISPUTED) return; // an earlier HARD, or its secret, ended it
        if (outcome == State.SOFT) w.soft = true;
        if (outcome != State.HARD && w.disputes != 0) return;
        State state = outcome == State.HARD ? outcome : w.soft ? State.SOFT : State.VALID;
        // Acquitted, but its seal is still to be opened.
        if (state == State.VALID && !w.opened) state = State.SUBMITTED;
        uint256 paid = state == State.VALID ? Rounds.reward(t, rd, slot) : 0;
        emit Tasks.Resolved(here.task, here.round, slot, state, paid, state == State.HARD ? t.params.bond : 0);
        if (state == State.SUBMITTED) w.state = state;
        else _close(here, t, w, slot, state, paid);
    }

    /// Pays what a judged work's end costs.
    function _close(
        Rounds.Where memory here,
        Task storage t,
        Work storage w,
        uint256 slot,
        State state,
        uint256 paid
    ) private {
        Rounds.finish(t, w, state);
        if (state == State.VALID) return Rounds.accept(here, t, w, slot, paid, w.yes);
        bytes32 pot = Rounds.potId(here.task, here.round, slot);
        if (state == State.SOFT) here.vault.pay(pot, w.trainer, t.params.bond);
        else here.vault.pay(pot, BURN, _burnt(t.params.bond, w.no));
        Rounds.fund(here, t, pot, 0, w.no);
    }

    /// Half of a slashed bond is for the finders, in equal shares; the other half and the dust are burnt (keeps I9).
    function _burnt(uint256 bond, uint256 finders) private pure returns (uint256) {
        // slither-disable-next-line divide-before-multiply
        return bond - bond / 2 / finders * finders;
    }

    /// The lottery of the round that leased the work.
    function isDecoy(Store storage s, Rounds.Where memory here, uint256 slot, bytes32 secret)
        internal
        view
        returns (bool)
    {
        uint256 oneIn = s.tasks[here.task].params.decoyOneIn;
        if (oneIn == 0) return false;
        uint256 r = here.round;
        if (slot >= s.rounds[here.task][r].claimed) {
            r = (s.lateness[Rounds.potId(here.task, r, slot)] - 1) >> 16;
        }
        return Exact.drawn(secret, s.rounds[here.task][r].seed, oneIn);
    }
}
