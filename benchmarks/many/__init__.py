"""Many people: how many an hour, what ten thousand of them cost the driver, and what is left of them after kill -9."""
