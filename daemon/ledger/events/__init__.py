"""What the objects in Stripe's events state: a module for each group of objects."""
