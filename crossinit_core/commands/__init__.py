"""What the commands of `cli` need beside the method: signals, arguments, sampling."""
