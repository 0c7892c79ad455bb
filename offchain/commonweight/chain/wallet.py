"""One key at work: what a transaction may cost, which nonce it gets, its signature, and sending what is
stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_account.signers.local import LocalAccount
from web3 import Web3

from ..core.errors import CommonweightError
from .client import Chain, Reverted
from .effects import SENT, Effect, Signed
from .faults import fault
from .journal import Journal
from .rpc import data

PLAIN_GAS = 21_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits on what a transaction may cost and how hard it is pushed. Fees in wei per gas."""

    gas_margin: float = 1.25
    gas_spare: int = (
        250_000  # whoever acts last in a window also closes it, which an estimate made earlier cannot know
    )
    gas_cap: int = 15_000_000
    fee_cap: int = 500 * 10**9
    bump: float = 1.125  # nodes refuse replacements below 1.1
    stuck_blocks: int = 3
    max_replacements: int = 12
    max_attempts: int = 3


@dataclass(frozen=True, slots=True)
class Price:
    """Most paid per gas, and the tip in it; both in wei."""

    most: int
    tip: int


class Wallet:
    """Prices, nonces and signatures for ``account``; raw transactions are in the journal before they are
    sent.
    """

    def __init__(self, chain: Chain, account: LocalAccount, journal: Journal, policy: Policy) -> None:
        self.address = data(account.address)
        self._chain, self._account, self._journal, self._policy = (chain, account, journal, policy)

    def price(self) -> Price:
        """What we offer now: room for the base fee to double, and a customary tip."""
        base, tip = self._chain.fees()
        most = min(self._policy.fee_cap, 2 * base + tip)
        return Price(most, min(tip, most))

    def gas(self, target: bytes, call: bytes, price: Price) -> int | Reverted:
        """Gas limit for a call that would succeed now. Raises E1305 when the key cannot pay for it."""
        need = self._chain.estimate(self.address, target, call)
        if isinstance(need, Reverted):
            return need
        gas = min(self._policy.gas_cap, int(need * self._policy.gas_margin) + self._policy.gas_spare)
        have = self._chain.balance(self.address)
        if have < gas * price.most:
            raise CommonweightError(
                "E1305",
                f"{self._account.address} has {have} wei, this transaction may cost {gas * price.most} wei",
                "send it some ether for gas; nothing was sent",
            )
        return gas

    def sign_next(self, effect: Effect, price: Price, head: int) -> Effect:
        """Give the effect the next free nonce, counting what the pool and the journal hold, and sign it."""
        nonce = max(self._chain.nonce(self.address, "pending"), self._journal.next_nonce(self.address))
        return self.sign(effect, nonce, price, head)

    def sign(self, effect: Effect, nonce: int, price: Price, head: int, replaced: int = 0) -> Effect:
        """Sign and store, at block ``head``. An effect is only signed again for the same nonce, or when that
        is lost.
        """
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": self._chain.chain_id,
                "nonce": nonce,
                "to": Web3.to_checksum_address(effect.target),
                "value": 0,
                "data": effect.data,
                "gas": effect.gas or PLAIN_GAS,
                "maxFeePerGas": price.most,
                "maxPriorityFeePerGas": price.tip,
            }
        )
        kept = Signed(bytes(signed.hash), effect.effect_id, nonce, bytes(signed.raw_transaction))
        now = self._journal.sign(
            effect, kept, max_fee=price.most, tip=price.tip, sent_block=head, replaced=replaced, error=""
        )
        fault("signed", effect.effect_id)
        return now

    def broadcast(self, effect: Effect) -> Effect:
        """Send what is stored. A complaint is only noted: whether it was taken shows on the chain, not in
        words.
        """
        assert effect.hash is not None
        raw = next(t.raw for t in self._journal.transactions(effect.effect_id) if t.hash == effect.hash)
        complaint = self._chain.send_raw(raw)
        fault("broadcast", effect.effect_id)
        now = self._journal.move(effect, SENT, error=complaint)
        fault("sent", effect.effect_id)
        return now
