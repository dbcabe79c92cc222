"""The jobs process: the work with Stripe's API that no request waits for."""
