"""Makes wishes happen on chain exactly once: simulate, write down, sign, write down, send, watch until deep.

One sender per key and journal. What is signed is stored before it is sent, so after a crash the same bytes
are sent again, and an effect gets a second nonce only when its first one is provably lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from eth_account.signers.local import LocalAccount

from ..core.errors import CommonweightError
from .client import Chain, Head, Receipt, Reverted
from .effects import CONFIRMED, FAILED, PLANNED, REFUSED, SEEN, SENT, SIGNED, Effect, Refused, canonical
from .faults import fault
from .journal import Journal
from .wallet import PLAIN_GAS, Policy, Price, Wallet

__all__ = ["Effect", "Policy", "Refused", "Sender"]


class Sender:
    """Sends for ``account``. Safe to use from several threads. Raises E1404 when the journal is another
    deployment's.
    """

    def __init__(
        self, chain: Chain, account: LocalAccount, journal: Journal, policy: Policy | None = None
    ) -> None:
        self._policy = policy or Policy()
        self._chain, self._journal = chain, journal
        self._wallet = Wallet(chain, account, journal, self._policy)
        self._guard = threading.RLock()
        self._last_head = b""
        self.address = self._wallet.address
        journal.bind(chain.identity)

    def request(self, effect_id: str, contract: str, function: str, args: Sequence[Any]) -> Effect | Refused:
        """Make ``contract.function(*args)`` happen once under this id.

        Known and unfinished or confirmed: its present state, at once. Otherwise it is simulated; what would
        revert is `Refused` and leaves no trace, what would not is written down and sent. An effect that
        failed on chain may be requested again ``max_attempts`` times in all. Raises E1305 when the key cannot
        pay the gas, E1407 when the id is another call, E1203 and E1206 when the chain does not answer (ask
        again).
        """
        target, call = (self._chain.addresses[contract], self._chain.encode(contract, function, args))
        wish = Effect(effect_id, self.address, contract, function, canonical(args), target, call)
        with self._guard:
            old = self._journal.effect(effect_id)
            if old is not None and (old.target, old.data, old.sender) != (target, call, self.address):
                raise CommonweightError(
                    "E1407", f"effect {effect_id!r} is already another call", "use a new id"
                )
            if old is not None and not self._renewable(old):
                return old
            fault("requested", effect_id)
            return self._begin(wish, old.attempts if old else 0)

    def pump(self, head: Head | None = None) -> list[Effect]:
        """Move every unfinished effect as far as it goes now; returns those that became final in this call.

        Never waits for blocks; ``head`` is the newest one, if it was just read. A final effect is returned
        again if a deep reorganisation undid it meanwhile. Raises E1203 and E1206 when the chain does not
        answer; nothing is lost by that.
        """
        with self._guard:
            head = head or self._chain.head()
            waiting = self._journal.effects(PLANNED, SIGNED, sender=self.address)
            if head.hash == self._last_head and not waiting:
                return []
            count = self._chain.nonce(self.address)
            self._revive(count, head)
            moved = [self._step(effect, head, count) for effect in self.pending()]
            self._fill_gap(head, count)
            self._last_head = head.hash
            return [effect for effect in moved if effect.final]

    def wait(self, effect_id: str, deadline_s: float, pause_s: float = 0.05) -> Effect:
        """Pump until the effect is final. Raises E1205 after ``deadline_s`` seconds; the effect stays in the
        journal.
        """
        end = time.monotonic() + deadline_s
        while True:
            self.pump()
            effect = self._journal.effect(effect_id)
            if effect is not None and effect.final:
                return effect
            if time.monotonic() >= end:
                state = effect.state if effect else "unknown"
                raise CommonweightError(
                    "E1205", f"{effect_id!r} still is {state} after {deadline_s:g} s", "it goes on later"
                )
            time.sleep(pause_s)

    def effect(self, effect_id: str) -> Effect | None:
        """What the journal knows about an effect."""
        return self._journal.effect(effect_id)

    def pending(self) -> list[Effect]:
        """Effects of this key that are not final."""
        return self._journal.effects(PLANNED, SIGNED, SENT, SEEN, sender=self.address)

    # --- beginning ---

    def _renewable(self, old: Effect) -> bool:
        return old.state == REFUSED or (old.state == FAILED and old.attempts < self._policy.max_attempts)

    def _begin(self, wish: Effect, attempts: int) -> Effect | Refused:
        price = self._wallet.price()
        answer: Any = self._simulate(wish)
        gas = answer if isinstance(answer, Reverted) else self._wallet.gas(wish.target, wish.data, price)
        if isinstance(gas, Reverted):
            return Refused(wish.effect_id, gas.error, gas.args)
        planned = replace(wish, gas=gas, attempts=attempts + 1)
        self._journal.plan(planned)
        fault("planned", wish.effect_id)
        return self._wallet.broadcast(self._wallet.sign_next(planned, price, self._chain.head().number))

    def _sign_and_send(self, effect: Effect, head: Head) -> Effect:
        return self._wallet.broadcast(self._wallet.sign_next(effect, self._wallet.price(), head.number))

    def _simulate(self, effect: Effect, block: int | None = None) -> bytes | Reverted:
        return self._chain.try_call(self.address, effect.target, effect.data, block)

    # --- watching ---

    def _step(self, effect: Effect, head: Head, count: int) -> Effect:
        handlers: dict[str, Callable[[Effect, Head, int], Effect]] = {
            PLANNED: self._resume,
            SIGNED: self._watch,
            SENT: self._watch,
            SEEN: self._settle,
        }
        return handlers[effect.state](effect, head, count)

    def _resume(self, effect: Effect, head: Head, count: int) -> Effect:
        """An intent without a usable nonce: the world may have changed since, so ask the contract again."""
        answer = self._simulate(effect)
        if isinstance(answer, Reverted):
            return self._journal.move(effect, REFUSED, error=answer.error)
        return self._sign_and_send(effect, head)

    def _watch(self, effect: Effect, head: Head, count: int) -> Effect:
        """Signed or sent: look for a receipt of any of its transactions, else see that it gets mined."""
        assert effect.nonce is not None
        assert effect.hash is not None
        if effect.nonce < count:
            receipt = self._receipt(effect)
            if receipt is not None:
                return self._settle(self._saw(effect, receipt), head, count)
            return self._nonce_taken(effect, head, count)
        if effect.state == SIGNED or not self._chain.knows(effect.hash):
            effect = self._wallet.broadcast(effect)
            if not effect.error:
                return effect
        return self._push(effect, head, count)

    def _hashes(self, effect: Effect) -> list[bytes]:
        """Transactions that could still carry out this effect, the newest first."""
        signed = self._journal.transactions(effect.effect_id)
        return [t.hash for t in reversed(signed) if t.nonce == effect.nonce]

    def _receipt(self, effect: Effect) -> Receipt | None:
        return next((r for h in self._hashes(effect) if (r := self._chain.receipt(h)) is not None), None)

    def _saw(self, effect: Effect, receipt: Receipt) -> Effect:
        fault("mined", effect.effect_id)
        now = self._journal.move(
            effect,
            SEEN,
            hash=receipt.hash,
            block=receipt.block,
            block_hash=receipt.block_hash,
            status=int(receipt.status),
            gas_used=receipt.gas_used,
            fee=receipt.fee,
            error="",
        )
        fault("seen", effect.effect_id)
        return now

    def _settle(self, effect: Effect, head: Head, count: int) -> Effect:
        """Seen: back to sent when its block is gone, final when the block is deep enough."""
        assert effect.block is not None
        known = self._chain.block_hash(effect.block)
        if known != effect.block_hash:
            receipt = self._receipt(effect)
            if receipt is not None:
                return self._saw(effect, receipt)
            return self._wallet.broadcast(self._unsee(effect, head))
        if head.number - effect.block < self._chain.confirmations:
            return effect
        fault("deep", effect.effect_id)
        if effect.status:
            now = self._journal.move(effect, CONFIRMED)
        else:
            now = self._journal.move(effect, FAILED, error=self._reason(effect))
        fault("confirmed", effect.effect_id)
        return now

    def _unsee(self, effect: Effect, head: Head) -> Effect:
        gone: dict[str, Any] = dict.fromkeys(("block", "block_hash", "status", "gas_used", "fee"))
        return self._journal.move(effect, SENT, sent_block=head.number, **gone)

    def _reason(self, effect: Effect) -> str:
        """Why a mined transaction reverted: replayed on the state before its block, then on the state after
        it.
        """
        assert effect.block is not None
        assert effect.gas is not None
        for block in (effect.block - 1, effect.block):
            try:
                answer = self._simulate(effect, block)
            except CommonweightError:
                break  # the node no longer keeps that state
            if isinstance(answer, Reverted):
                return answer.error
        return "OutOfGas" if (effect.gas_used or 0) * 64 >= effect.gas * 62 else "Unknown"

    # --- trouble ---

    def _nonce_taken(self, effect: Effect, head: Head, count: int) -> Effect:
        """The nonce is spent and none of our transactions has a receipt: somebody else uses this key, or the
        node is late.

        Only when the other transaction is found and deep can ours never be mined; anything less might make it
        happen twice, so without that proof we wait.
        """
        assert effect.nonce is not None
        since = max(0, min(effect.sent_block or 0, head.number) - 64)
        found = self._chain.spender(self.address, effect.nonce, since, head.number)
        if found is None or found.hash in self._hashes(effect):
            return effect
        if head.number - found.block < self._chain.confirmations:
            return effect
        if not effect.contract:  # it only was to fill the gap, which somebody has done
            return self._journal.move(effect, REFUSED, error="NonceTaken")
        answer = self._simulate(effect)
        if isinstance(answer, Reverted):
            return self._journal.move(effect, REFUSED, error=answer.error)
        return self._sign_and_send(effect, head)

    def _push(self, effect: Effect, head: Head, count: int) -> Effect:
        """Replace the transaction that all others wait for when it has been passed over for some blocks."""
        assert effect.max_fee is not None
        assert effect.tip is not None
        assert effect.sent_block is not None
        waited = head.number - effect.sent_block
        if (
            effect.nonce != count
            or waited < self._policy.stuck_blocks
            or effect.replaced >= self._policy.max_replacements
        ):
            return effect
        offer = self._wallet.price()
        most = max(offer.most, int(effect.max_fee * self._policy.bump) + 1)
        tip = max(offer.tip, int(effect.tip * self._policy.bump) + 1)
        if most > self._policy.fee_cap:
            return effect
        price = Price(most, min(tip, most))
        return self._wallet.broadcast(
            self._wallet.sign(effect, count, price, head.number, effect.replaced + 1)
        )

    def _revive(self, count: int, head: Head) -> None:
        """A deep reorganisation may drop what was final. Its nonce is unspent then: the same bytes are sent
        again.
        """
        for effect in self._journal.spent(self.address, count):
            assert effect.block is not None
            if self._chain.block_hash(effect.block) != effect.block_hash and self._receipt(effect) is None:
                self._unsee(effect, head)

    def _fill_gap(self, head: Head, count: int) -> None:
        """A nonce that nobody holds blocks all later ones. An empty transaction to ourselves fills it, never
        an effect: the effect's first transaction would still be valid and would follow.
        """
        waiting = self._journal.effects(SIGNED, SENT, sender=self.address)
        if not waiting or min(e.nonce or 0 for e in waiting) <= count:
            return
        waited = head.number - min(e.sent_block or 0 for e in waiting)
        # The pool's count proves a gap. Otherwise something is in the pool there, and gets twice the usual
        # patience.
        proven = self._chain.nonce(self.address, "pending") == count
        if waited < (1 if proven else 2 * self._policy.stuck_blocks):
            return
        name = f"gap/{count}/{head.hash.hex()[:16]}"
        filler = Effect(name, self.address, "", "", "[]", self.address, b"", gas=PLAIN_GAS, attempts=1)
        self._journal.plan(filler)
        self._wallet.broadcast(self._wallet.sign(filler, count, self._wallet.price(), head.number))
