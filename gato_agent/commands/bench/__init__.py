"""Benchmarks: control steps and training steps, relative to the roofline of the machine."""
