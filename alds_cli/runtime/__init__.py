"""Where and how work is done: threads, devices, time, the user's own code."""
