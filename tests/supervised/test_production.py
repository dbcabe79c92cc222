"""`donationd up` in live mode: a real ledger."""

from tests.support.instance import SECRETS, instance_of_its_own


def test_up_suggests_no_simulated_payments_for_a_real_ledger() -> None:
    """In live mode `up` shows what comes next with a Stripe account, and `simulate` in its folder is refused."""
    with instance_of_its_own({**SECRETS, "STRIPE_LIVEMODE": "true", "STRIPE_API_KEY": "rk_live_canary"}) as instance:
        printed = instance.start()
        assert "simulate" not in printed
        assert "stripe listen" not in printed
        assert "tickets add" in printed
        assert "/webhooks/stripe" in printed
        refused = instance.donationd("simulate")
        assert (refused.returncode, "live mode" in refused.stderr) == (1, True)
