"""The environment of the work: threads, devices, time measurement, user-defined code."""
