"""The inversion itself: settings, batches, one step, the loop, and the files that let a run go on."""
