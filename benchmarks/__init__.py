"""Programs that measure. They assert nothing."""
