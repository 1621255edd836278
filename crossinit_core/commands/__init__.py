"""What the commands of `cli` need beside the method: their options, signals, settings, logs, sampling."""
