"""Two deposits at once, under every schedule."""

import pytest
from harness.schedule import Budget

from bank import Account, MendedAccount


@pytest.mark.schedules
def test_deposits(run):
    account = Account()
    run.thread(account.deposit, 1)
    run.thread(account.deposit, 2)
    run.join()
    assert account.balance == 3


def test_mended_deposits(schedules):
    def body(run):
        account = MendedAccount()
        run.thread(account.deposit, 1)
        run.thread(account.deposit, 2)
        run.join()
        assert account.balance == 3

    result = schedules(body, budget=Budget(schedules=2_000), level="sync")
    assert result is None or result.exhausted
