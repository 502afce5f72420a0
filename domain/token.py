"""Token account: a balance that every movement states anew; the other side of minting and spending is the treasury."""

from __future__ import annotations

from typing import assert_never, final

import msgspec

from domain.errors import InsufficientTokens, InvalidData
from domain.values import Amount, Line, Token

# -- names as stored --------------------------------------------------------------------------------------------------

TOKENS_MINTED = "tokens-minted/1"
TOKENS_SPENT = "tokens-spent/1"
TOKENS_SENT = "tokens-sent/1"
TOKENS_RECEIVED = "tokens-received/1"

MINT_TOKENS = "mint-tokens/1"
SPEND_TOKENS = "spend-tokens/1"
TRANSFER_TOKENS = "transfer-tokens/1"

# -- events -----------------------------------------------------------------------------------------------------------


@final
class TokensMinted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The treasury gave tokens to the account."""

    amount: Amount
    balance: int
    reason: Line


class TokensSpent(msgspec.Struct, frozen=True, kw_only=True):
    """The account gave tokens back to the treasury."""

    amount: Amount
    balance: int
    reason: Line


class TokensSent(msgspec.Struct, frozen=True, kw_only=True):
    """The account gave tokens to another; that one's `TokensReceived` stands in the same transaction."""

    recipient: Token
    amount: Amount
    balance: int
    reason: Line


class TokensReceived(msgspec.Struct, frozen=True, kw_only=True):
    """The account got tokens from another."""

    sender: Token
    amount: Amount
    balance: int
    reason: Line


TokenEvent = TokensMinted | TokensSpent | TokensSent | TokensReceived

# -- commands ---------------------------------------------------------------------------------------------------------


@final
class MintTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Give tokens from the treasury."""

    amount: Amount
    reason: Line = ""


class SpendTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Redeem tokens; they return to the treasury."""

    amount: Amount
    reason: Line = ""


class TransferTokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give tokens to another registered player."""

    recipient: Token
    amount: Amount
    reason: Line = ""


class ReceiveTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The other half of a transfer. Never on the wire."""

    sender: Token
    amount: Amount
    reason: Line


TokenCommand = MintTokens | SpendTokens | TransferTokens | ReceiveTokens

# -- state ------------------------------------------------------------------------------------------------------------


class TokenState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the account holds."""

    balance: int = 0


INITIAL = TokenState()

# -- evolve -----------------------------------------------------------------------------------------------------------


def evolve(state: TokenState, event: TokenEvent) -> TokenState:
    """The state after the event: each one states the balance that it leaves."""
    del state
    if type(event) is TokensMinted:  # by identity, as in `player.evolve`
        return TokenState(balance=event.balance)
    match event:
        case TokensSpent() | TokensSent() | TokensReceived():
            return TokenState(balance=event.balance)
        case _:
            assert_never(event)


# -- decide -----------------------------------------------------------------------------------------------------------


def decide(command: TokenCommand, state: TokenState, account: str) -> tuple[TokenEvent, ...]:
    """What follows from the command; raises `Refused` when the balance does not cover it."""
    if type(command) is MintTokens:  # by identity, as in `player.evolve`
        balance = state.balance + command.amount
        return (TokensMinted(amount=command.amount, balance=balance, reason=command.reason),)
    match command:
        case ReceiveTokens():
            balance = state.balance + command.amount
            return (
                TokensReceived(sender=command.sender, amount=command.amount, balance=balance, reason=command.reason),
            )
        case SpendTokens():
            balance = _after_taking(state, command.amount)
            return (TokensSpent(amount=command.amount, balance=balance, reason=command.reason),)
        case TransferTokens():
            if command.recipient == account:
                message = f"account {account} cannot send tokens to itself; name another recipient"
                raise InvalidData(message)
            balance = _after_taking(state, command.amount)
            return (
                TokensSent(recipient=command.recipient, amount=command.amount, balance=balance, reason=command.reason),
            )
        case _:
            assert_never(command)


def _after_taking(state: TokenState, amount: int) -> int:
    if state.balance < amount:
        raise InsufficientTokens(balance=state.balance, needed=amount)
    return state.balance - amount
